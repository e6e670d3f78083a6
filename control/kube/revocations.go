package kube

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/ambit-mesh/ambit/ca/certs"
)

// RevocationsConfig of Revocations. Cluster and Namespace are required.
type RevocationsConfig struct {
	Cluster *Cluster
	// Namespace is where the lists are, and ConfigMap one that has some beside the Secret cacerts; empty means none.
	Namespace, ConfigMap string
	Logger               *slog.Logger
}

// Revocations follows the revocation lists that an operator gives to the mesh: ca-crl.pem of the Secret cacerts, and of a
// ConfigMap. Lists that do not parse are refused, and the last good ones stay.
type Revocations struct {
	cfg RevocationsConfig

	mu      sync.Mutex
	lists   map[string][]byte // by source, in PEM; sources that have not been read, or never well, are missing
	changed chan struct{}
}

// NewRevocations does nothing before Run.
func NewRevocations(cfg RevocationsConfig) *Revocations {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Revocations{cfg: cfg, lists: make(map[string][]byte), changed: make(chan struct{})}
}

// source is where lists come from.
type source struct{ kind, name string }

func (r *Revocations) sources() []source {
	out := []source{{"Secret", pluggedSecret}}
	// What the mesh writes itself is no source: it would never end.
	if r.cfg.ConfigMap != "" && r.cfg.ConfigMap != listsName {
		out = append(out, source{"ConfigMap", r.cfg.ConfigMap})
	}
	return out
}

// Lists are all of them in PEM, empty where there are none. They are nil until each source has been read.
func (r *Revocations) Lists() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := []byte{}
	for _, s := range r.sources() {
		lists, ok := r.lists[s.kind]
		if !ok {
			return nil
		}
		out = append(out, lists...)
	}
	return out
}

// Changed is closed when Lists says something else.
func (r *Revocations) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Run follows the sources until ctx ends.
func (r *Revocations) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range r.sources() {
		gvr := secretResource
		if s.kind == "ConfigMap" {
			gvr = made()["ConfigMap"]
		}
		lw := r.cfg.Cluster.one(gvr, r.cfg.Namespace, s.name)
		wg.Go(func() {
			follow(ctx, r.cfg.Cluster, "revocation lists of "+s.kind, lw, &single{changed: func(u *unstructured.Unstructured) { r.take(s, u) }})
		})
	}
	wg.Wait()
}

// take takes a source in, nil for none.
func (r *Revocations) take(s source, u *unstructured.Unstructured) {
	lists, err := listsIn(s.kind, u)
	if err != nil {
		r.cfg.Logger.Error("revocation lists refused, the last good ones stay: put complete ones in PEM there", "kind", s.kind, "namespace", r.cfg.Namespace, "name", s.name, "key", listsKey, "err", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if before, ok := r.lists[s.kind]; ok && bytes.Equal(before, lists) {
		return
	}
	r.lists[s.kind] = slices.Clip(lists)
	close(r.changed)
	r.changed = make(chan struct{})
	r.cfg.Logger.Info("revocation lists", "kind", s.kind, "name", s.name, "bytes", len(lists))
}

// listsIn are the lists of a Secret or ConfigMap; no object has none.
func listsIn(kind string, u *unstructured.Unstructured) ([]byte, error) {
	if u == nil {
		return nil, nil
	}
	text, _, err := unstructured.NestedString(u.Object, "data", listsKey)
	if err != nil {
		return nil, err
	}
	data := []byte(text)
	encoded := text
	if kind == "ConfigMap" {
		if encoded, _, err = unstructured.NestedString(u.Object, "binaryData", listsKey); err != nil {
			return nil, err
		}
	}
	if encoded != "" {
		if data, err = base64.StdEncoding.DecodeString(encoded); err != nil {
			return nil, fmt.Errorf("not base64: %w", err)
		}
	}
	// Istio writes empty ones.
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, nil
	}
	lists, err := certs.ParseRevocationLists(data)
	if err != nil {
		return nil, err
	}
	return certs.EncodeRevocationLists(lists...), nil
}
