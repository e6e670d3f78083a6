package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// keep remembers the last good version of policies that are refused now, or whose kind is not served now, in a Secret: the
// API server has only what is refused, or nothing, and without a note elsewhere the good version would end with the process, and let in whoever it kept out.
// Replicas note in memory; the leader writes.
type keep struct {
	namespace string // of the Secret; "" keeps nothing

	mu sync.Mutex
	// guarded by mu
	earlier map[object.Key][]byte // from before this process
	held    map[object.Key][]byte
	without int           // how many of them there is no room for
	changed chan struct{} // closed and replaced when held changes
}

const keepSecret = "ambitd-last-good"

func newKeep(namespace string) *keep {
	return &keep{namespace: namespace, earlier: map[object.Key][]byte{}, held: map[object.Key][]byte{}, changed: make(chan struct{})}
}

// guards reports whether something is let in when objects of the kind go.
func guards(k object.Kind) bool {
	switch k {
	case object.KindAuthorizationPolicy, object.KindPeerAuthentication, object.KindRequestAuthentication, object.KindNetworkPolicy,
		object.KindLocalRateLimitPolicy, object.KindExtensionPolicy, object.KindWasmPlugin, object.KindTrafficExtension,
		object.KindBackendTLSPolicy, object.KindDestinationRule: // the last two: with which TLS something is talked to
		return true
	}
	return false
}

// hold notes the good version of an object that the API server does not have; nil lets go of it.
func (k *keep) hold(key object.Key, good []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.earlier, key)
	if bytes.Equal(k.held[key], good) {
		return
	}
	if good == nil {
		delete(k.held, key)
	} else {
		k.held[key] = good
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

// recall is the good version from before this process of an object that is still the same one.
func (k *keep) recall(key object.Key, uid string) *unstructured.Unstructured {
	k.mu.Lock()
	defer k.mu.Unlock()
	u := &unstructured.Unstructured{}
	if data := k.earlier[key]; data == nil || u.UnmarshalJSON(data) != nil || string(u.GetUID()) != uid {
		return nil
	}
	return u
}

// all are the policies of a kind from before this process.
func (k *keep) all(kind object.Kind) []*unstructured.Unstructured {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*unstructured.Unstructured
	for key, data := range k.earlier {
		u := &unstructured.Unstructured{}
		if key.Kind == kind && u.UnmarshalJSON(data) == nil {
			out = append(out, u)
		}
	}
	return out
}

// load reads what an earlier process noted.
func (k *keep) load(ctx context.Context, c *Cluster) error {
	if k.namespace == "" {
		return nil
	}
	var s corev1.Secret
	err := c.get(ctx, "/api/v1/namespaces/"+k.namespace+"/secrets/"+keepSecret, &s)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Secret %s/%s with the last good versions: %w", k.namespace, keepSecret, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, data := range s.Data {
		u := &unstructured.Unstructured{}
		data, err := inflate(data)
		if err != nil || u.UnmarshalJSON(data) != nil {
			continue // somebody has been at it
		}
		if kind, ok := object.ParseKind(u.GetKind()); ok && guards(kind) {
			k.earlier[object.Key{Kind: kind, Namespace: u.GetNamespace(), Name: u.GetName()}] = data
		}
	}
	return nil
}

// KeepLastGood writes the last good versions of refused policies where the next process finds them, until ctx ends. It is
// the leader's to do, and starts when the cluster is read.
func (s *Source) KeepLastGood(ctx context.Context) {
	k := s.keep
	if k.namespace == "" {
		return
	}
	defer s.lack(nil) // who does not write does not know
	for ctx.Err() == nil {
		k.mu.Lock()
		changed, held := k.changed, maps.Clone(k.held)
		k.mu.Unlock()
		data, without := pack(held, s.cfg.RootNamespace, k.namespace)
		s.lack(without)
		if err := s.writeKept(ctx, data); err != nil && ctx.Err() == nil {
			s.log.Error("the last good versions of refused policies cannot be noted, a restart may lose them; trying again", "err", err)
			sleep(ctx, 5*time.Second)
			continue
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// NotKept is how many policies would be without their last good version after a restart, because there is no room for it.
func (s *Source) NotKept() int {
	s.keep.mu.Lock()
	defer s.keep.mu.Unlock()
	return s.keep.without
}

// lack says for which objects there is no room.
func (s *Source) lack(without []object.Key) {
	k := s.keep
	k.mu.Lock()
	before := k.without
	k.without = len(without)
	k.mu.Unlock()
	if len(without) == 0 {
		s.cfg.Status.Set("kube/keep")
		return
	}
	var some []string
	for _, key := range without[:min(len(without), 5)] {
		some = append(some, key.String())
	}
	if more := len(without) - len(some); more > 0 {
		some = append(some, fmt.Sprintf("and %d more", more))
	}
	e := status.Entry{
		Severity: status.Warning, Kind: "Secret", Namespace: k.namespace, Name: keepSecret,
		Problem: "has no room for the last good versions of " + strings.Join(some, ", ") + ": they are in force, and a control plane that starts does without them",
		Fix:     "correct what is refused, and bring definitions back that were deleted",
	}
	if before != len(without) {
		s.log.Warn(e.String(), "objects", len(without))
	}
	s.cfg.Status.Set("kube/keep", e)
}

func (s *Source) writeKept(ctx context.Context, data map[string]any) error {
	client := s.cfg.Cluster.dynamic.Resource(secretResource).Namespace(s.keep.namespace)
	there, err := client.Get(ctx, keepSecret, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		if len(data) == 0 {
			return nil
		}
		_, err = client.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "type": "ambit.io/last-good",
			"metadata": map[string]any{"name": keepSecret, "namespace": s.keep.namespace}, "data": data,
		}}, metav1.CreateOptions{FieldManager: manager})
		return err
	case err != nil:
		return err
	}
	if old, _, _ := unstructured.NestedMap(there.Object, "data"); len(old) == len(data) && same(old, data) {
		return nil
	}
	there.Object["data"] = data
	_, err = client.Update(ctx, there, metav1.UpdateOptions{FieldManager: manager})
	return err
}

// guarded takes a policy's new version in, and returns the version from before this process when the new one is refused
// and nothing else is known.
func (f *feed) guarded(key object.Key, u *unstructured.Unstructured, good bool, before seen) object.Object {
	switch {
	case good:
		if data, err := json.Marshal(u.Object); err == nil { // it has been JSON before
			f.raw[key] = data
		}
		f.to.keep.hold(key, nil)
	case before.good:
		f.to.keep.hold(key, f.raw[key])
	default:
		was := f.to.keep.recall(key, string(u.GetUID()))
		if was == nil {
			return nil
		}
		o, _ := convert(f.to.dec, f.kind, was)
		if data, err := json.Marshal(was.Object); o != nil && err == nil {
			f.raw[key] = data
			f.to.keep.hold(key, data)
		}
		return o
	}
	return nil
}
