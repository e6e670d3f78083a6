package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/ambit-mesh/ambit/ca/issuer"
	"github.com/ambit-mesh/ambit/ca/pemdir"
)

// Secrets with the authority's key. An operator's own comes first. Istio ambient wire contract, self-signed CA.
const (
	pluggedSecret = "cacerts"
	madeSecret    = "istio-ca-secret"
)

var secretResource = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}

// authorityFiles are the keys of those Secrets, and the names of the files they become.
func authorityFiles() []string {
	return []string{"ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem", "tls.crt", "tls.key", "ca.crt"}
}

// AuthorityConfig of an Authority. Cluster, Namespace and Dir are required.
type AuthorityConfig struct {
	Cluster *Cluster
	// Namespace is where the Secrets are.
	Namespace string
	// Dir is a private folder for the key, in memory if there is such a thing.
	Dir    string
	Issuer issuer.Config // without Dir and Plugged
	Logger *slog.Logger
}

// Authority keeps the key that signs certificates in a Secret, so that all replicas sign with the same one: the operator's
// Secret cacerts, else istio-ca-secret, which the first replica to start makes. What a replica has read stays in use
// when the Secret is damaged or gone.
type Authority struct {
	cfg AuthorityConfig

	mu   sync.Mutex
	from map[string]map[string][]byte // the Secrets as last seen, by name; guarded by mu
}

// NewAuthority does nothing yet.
func NewAuthority(cfg AuthorityConfig) *Authority {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Authority{cfg: cfg, from: make(map[string]map[string][]byte)}
}

// Open reads the key, or makes one, and opens the issuer. It waits for the API server until ctx ends.
func (a *Authority) Open(ctx context.Context) (*issuer.Issuer, error) {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := a.prepare(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		a.cfg.Logger.Error("the authority's key cannot be had, trying again", "namespace", a.cfg.Namespace, "err", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	cfg := a.cfg.Issuer
	cfg.Dir, cfg.Plugged = a.dir(), true
	return issuer.Open(cfg)
}

func (a *Authority) dir() string { return filepath.Join(a.cfg.Dir, "issuer") }

// prepare puts the files of the Secret that counts into the folder.
func (a *Authority) prepare(ctx context.Context) error {
	for _, name := range []string{pluggedSecret, madeSecret} {
		data, err := a.read(ctx, name)
		if err != nil {
			return err
		}
		a.note(name, data)
	}
	if name, _ := a.chosen(); name == "" {
		data, err := a.make(ctx)
		if err != nil {
			return err
		}
		a.note(madeSecret, data)
	}
	return a.write()
}

func (a *Authority) note(name string, data map[string][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(data) == 0 {
		delete(a.from, name)
		return
	}
	a.from[name] = data
}

// chosen is the Secret that counts.
func (a *Authority) chosen() (string, map[string][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range []string{pluggedSecret, madeSecret} {
		if d := a.from[name]; d != nil {
			return name, d
		}
	}
	return "", nil
}

// write makes the folder's files those of the Secret. The issuer judges them.
func (a *Authority) write() error {
	_, data := a.chosen()
	if data == nil {
		return nil
	}
	set := make(map[string]pemdir.File, len(data))
	for name, b := range data {
		mode := os.FileMode(0o644)
		if name == "ca-key.pem" || name == "tls.key" {
			mode = 0o600
		}
		set[name] = pemdir.File{Data: b, Mode: mode}
	}
	have, err := pemdir.Read(a.dir(), authorityFiles()...)
	if err == nil && len(have) == len(set) {
		same := true
		for name, f := range set {
			same = same && bytes.Equal(have[name].Data, f.Data)
		}
		if same {
			return nil
		}
	}
	return pemdir.Write(a.dir(), set)
}

// read is a Secret's part that matters; nil when there is none.
func (a *Authority) read(ctx context.Context, name string) (map[string][]byte, error) {
	var s corev1.Secret
	err := a.cfg.Cluster.get(ctx, "/api/v1/namespaces/"+a.cfg.Namespace+"/secrets/"+name, &s)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", a.cfg.Namespace, name, err)
	}
	return filesOf(&s), nil
}

func filesOf(s *corev1.Secret) map[string][]byte {
	out := make(map[string][]byte)
	for _, f := range authorityFiles() {
		// Istio writes empty ones.
		if b := s.Data[f]; len(bytes.TrimSpace(b)) > 0 {
			out[f] = b
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// make makes a root and stores it. Of several replicas that do so at once the first wins, and the others take its root.
func (a *Authority) make(ctx context.Context) (map[string][]byte, error) {
	data, err := a.root(nil, false)
	if err != nil {
		return nil, err
	}
	err = a.create(ctx, data)
	if apierrors.IsAlreadyExists(err) {
		there, err := a.read(ctx, madeSecret)
		if err == nil && there == nil {
			err = fmt.Errorf("Secret %s/%s holds no key: delete it, or put one into it", a.cfg.Namespace, madeSecret)
		}
		return there, err
	}
	if err != nil {
		return nil, fmt.Errorf("store the new root in Secret %s/%s: %w", a.cfg.Namespace, madeSecret, err)
	}
	a.cfg.Logger.Info("made a root for the mesh", "secret", a.cfg.Namespace+"/"+madeSecret)
	return data, nil
}

// root has the issuer make a root, or a new one in time, or by force, when there are files of one before.
func (a *Authority) root(before map[string][]byte, force bool) (map[string][]byte, error) {
	dir, err := os.MkdirTemp(a.cfg.Dir, "root-")
	if err != nil {
		return nil, fmt.Errorf("make a root: %w", err)
	}
	defer os.RemoveAll(dir)
	if before != nil {
		set := make(map[string]pemdir.File, len(before))
		for name, b := range before {
			set[name] = pemdir.File{Data: b, Mode: 0o600}
		}
		if err := pemdir.Write(dir, set); err != nil {
			return nil, err
		}
	}
	cfg := a.cfg.Issuer
	cfg.Dir, cfg.Plugged, cfg.Registerer = dir, false, nil
	made, err := issuer.Open(cfg)
	if err != nil {
		return nil, err
	}
	if force && before != nil {
		if err := made.Rotate(); err != nil {
			return nil, err
		}
	}
	files, err := pemdir.Read(dir, authorityFiles()...)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(files))
	for name, f := range files {
		if len(f.Data) > 0 {
			out[name] = f.Data
		}
	}
	return out, nil
}

func (a *Authority) secret(data map[string][]byte) *unstructured.Unstructured {
	values := make(map[string]any, len(data))
	for name, b := range data {
		values[name] = base64.StdEncoding.EncodeToString(b)
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "istio.io/ca-root",
		"metadata": map[string]any{"name": madeSecret, "namespace": a.cfg.Namespace},
		"data":     values,
	}}
}

func (a *Authority) create(ctx context.Context, data map[string][]byte) error {
	_, err := a.cfg.Cluster.dynamic.Resource(secretResource).Namespace(a.cfg.Namespace).Create(ctx, a.secret(data), metav1.CreateOptions{FieldManager: manager})
	return err
}

// Run follows the Secrets until ctx ends, which returns nil.
func (a *Authority) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, name := range []string{pluggedSecret, madeSecret} {
		lw := a.cfg.Cluster.one(secretResource, a.cfg.Namespace, name)
		wg.Go(func() {
			follow(ctx, a.cfg.Cluster, "secret "+name, lw, &single{changed: func(u *unstructured.Unstructured) { a.changed(ctx, name, u) }})
		})
	}
	wg.Wait()
	return nil
}

// changed takes a Secret in, nil for none.
func (a *Authority) changed(ctx context.Context, name string, u *unstructured.Unstructured) {
	var data map[string][]byte
	if u != nil {
		var s corev1.Secret
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &s); err != nil {
			a.cfg.Logger.Error("the authority's Secret is not understood, the key before stays in use", "name", name, "err", err)
			return
		}
		data = filesOf(&s)
	}
	was, old := a.chosen()
	if data == nil && was == name {
		if name == madeSecret {
			// Without it the next replica to start would make another root, which nobody trusts yet.
			a.cfg.Logger.Warn("the authority's Secret is gone or empty; writing the key in use back", "name", name)
			if err := a.create(ctx, old); err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
				a.cfg.Logger.Error("the key in use cannot be written back", "name", name, "err", err)
			}
			return
		}
		a.cfg.Logger.Warn("the operator's Secret is gone; its key stays in use until a restart", "name", name)
		return
	}
	a.note(name, data)
	if err := a.write(); err != nil {
		a.cfg.Logger.Error("the authority's key cannot be written", "dir", a.dir(), "err", err)
	}
}

// rotateEvery is how often the leader looks whether the root it made is near its end.
const rotateEvery = time.Hour

// Rotate replaces the root in time, on one replica at a time, until ctx ends. An operator's own is not touched.
func (a *Authority) Rotate(ctx context.Context) error {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		if err := a.rotate(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Logger.Error("the root cannot be renewed, trying again later", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// RotateNow makes a new root, on any replica; the old one stays trusted until it expires, and signs the new one.
func (a *Authority) RotateNow(ctx context.Context) error {
	switch name, _ := a.chosen(); name {
	case madeSecret:
		return a.replace(ctx, true)
	case pluggedSecret:
		return fmt.Errorf("the root is the operator's own, of Secret %s/%s: put another one there", a.cfg.Namespace, pluggedSecret)
	}
	return errors.New("there is no root yet")
}

func (a *Authority) rotate(ctx context.Context) error {
	if name, _ := a.chosen(); name != madeSecret {
		return nil
	}
	return a.replace(ctx, false)
}

// replace stores the root that follows the one in use, if its time has come or it is forced.
func (a *Authority) replace(ctx context.Context, force bool) error {
	_, before := a.chosen()
	after, err := a.root(before, force)
	if err != nil {
		return err
	}
	if bytes.Equal(before["ca-cert.pem"], after["ca-cert.pem"]) {
		return nil
	}
	client := a.cfg.Cluster.dynamic.Resource(secretResource).Namespace(a.cfg.Namespace)
	there, err := client.Get(ctx, madeSecret, metav1.GetOptions{})
	if err != nil {
		return err
	}
	var s corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(there.Object, &s); err != nil {
		return fmt.Errorf("Secret %s/%s: %w", a.cfg.Namespace, madeSecret, err)
	}
	if !bytes.Equal(filesOf(&s)["ca-cert.pem"], before["ca-cert.pem"]) {
		return fmt.Errorf("Secret %s/%s has just been replaced by somebody else: look at it, and try again", a.cfg.Namespace, madeSecret)
	}
	next := a.secret(after)
	next.SetResourceVersion(there.GetResourceVersion()) // somebody quicker wins
	_, err = client.Update(ctx, next, metav1.UpdateOptions{FieldManager: manager})
	return err
}
