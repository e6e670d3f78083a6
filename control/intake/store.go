package intake

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// maxStore is Kubernetes' bound of what a Secret or ConfigMap holds.
const maxStore = 1 << 20

// readSecret reads a Secret with its values kept out of every message.
func readSecret(r *reader) object.Object {
	var in struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata,omitempty"`
		Immutable         *bool      `json:"immutable,omitempty"`
		Type              string     `json:"type,omitempty"`
		Data              *yaml.Node `json:"data,omitempty"`
		StringData        *yaml.Node `json:"stringData,omitempty"`
	}
	r.object(&in)
	m := r.meta(&in.ObjectMeta, true, isSubdomain)
	if r.refused > 0 {
		return nil
	}
	secret := &corev1.Secret{Type: corev1.SecretType(in.Type), Data: make(map[string][]byte)}
	r.hushed = true
	r.entriesOf(in.Data, "data", func(key string, n *yaml.Node) {
		if b, ok := r.base64(n, kindOf(n)); ok {
			secret.Data[key] = b
		}
	})
	r.entriesOf(in.StringData, "stringData", func(key string, n *yaml.Node) {
		if kindOf(n) != text {
			r.mismatch(n, wantText)
			return
		}
		secret.Data[key] = []byte(n.Value)
	})
	r.hushed = false
	if r.refused > 0 {
		return nil
	}
	return r.convert(object.KindSecret, m, secret)
}

// entriesOf walks the keys of a Secret's or ConfigMap's data.
func (r *reader) entriesOf(n *yaml.Node, field string, each func(key string, n *yaml.Node)) {
	if n == nil {
		return
	}
	r.enter(field)
	defer r.leave()
	if kindOf(n) != mapping {
		r.mismatch(n, wantMapping)
		return
	}
	for _, p := range r.pairs(n) {
		v := follow(p.value)
		if !r.spend(v) {
			return
		}
		r.enter(p.key.Value)
		if k := p.key.Value; len(k) > 253 || strings.Trim(lower(k), "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || k == "" {
			r.refuseLine(p.key.Line, r.here(), fmt.Sprintf("%q is not a valid key", clip(k)), "use letters, digits, dashes, underscores and dots")
		}
		if kindOf(v) != null {
			each(p.key.Value, v)
		}
		r.leave()
	}
}

// Names of keys: Kubernetes' for secrets of type kubernetes.io/tls, and those that Istio knows beside them
// (Istio pilot/pkg/credentials/kube).
var (
	certificateKeys = []string{"tls.crt", "cert"}
	privateKeyKeys  = []string{"tls.key", "key"}
	authorityKeys   = []string{"ca.crt", "cacert"}
)

func (r *reader) secret(m object.Meta, in *corev1.Secret) *object.Secret {
	out := &object.Secret{Meta: m, Type: r.d.words.one(string(in.Type))}
	if out.Type == "" {
		out.Type = string(corev1.SecretTypeOpaque)
	}
	size := 0
	for _, v := range in.Data {
		size += len(v)
	}
	if size > maxStore {
		r.refuse(at("data"), fmt.Sprintf("there are %d bytes, at most %d are allowed", size, maxStore), "split the Secret")
		return nil
	}
	first := func(keys []string) (string, []byte) {
		for _, k := range keys {
			if v := in.Data[k]; len(v) > 0 {
				return k, v
			}
		}
		return keys[0], nil
	}
	if in.Type != corev1.SecretTypeTLS && out.Type != string(corev1.SecretTypeOpaque) {
		return out
	}
	certKey, cert := first(certificateKeys)
	keyKey, key := first(privateKeyKeys)
	caKey, ca := first(authorityKeys)
	if in.Type == corev1.SecretTypeTLS {
		// What the API server asks for: both keys, which may be empty for a while.
		for _, k := range []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey} {
			if _, ok := in.Data[k]; !ok {
				r.refuse(at("data", k), "the key is missing", "a Secret of type kubernetes.io/tls has tls.crt and tls.key")
			}
		}
	}
	// An Opaque Secret may be about anything, and a key named "key" need not be one: what is no PEM is of no use here.
	out.Certificate = string(r.pem(cert, "CERTIFICATE", certKey, in.Type))
	out.CA = string(r.pem(ca, "CERTIFICATE", caKey, in.Type))
	out.PrivateKey = object.MakeConfidential(r.pem(key, "PRIVATE KEY", keyKey, in.Type))
	if in.Type == corev1.SecretTypeTLS || out.Certificate != "" {
		if out.Certificate == "" || out.PrivateKey.Empty() {
			r.warn(at("data"), "there is a certificate without its key, or neither: no listener can use it", "add tls.crt and tls.key in PEM")
		}
	}
	return out
}

// pem returns the bytes when they begin with a block of the kind, and nothing else otherwise.
func (r *reader) pem(b []byte, kind, key string, typ corev1.SecretType) []byte {
	if len(b) == 0 {
		return nil
	}
	block, _ := pem.Decode(b)
	if block != nil && strings.HasSuffix(block.Type, kind) && bytes.HasPrefix(bytes.TrimSpace(b), []byte("-----BEGIN")) {
		return b
	}
	if block != nil && kind == "PRIVATE KEY" && block.Type == "EC PARAMETERS" {
		return b
	}
	if typ == corev1.SecretTypeTLS {
		r.warn(at("data", key), "the value is not PEM of a "+strings.ToLower(kind), "write PEM, as openssl does")
	}
	return nil
}

// overlayKeys are what a ConfigMap for Gateways may say something about.
var overlayKeys = []string{"deployment", "service", "serviceAccount", "horizontalPodAutoscaler", "podDisruptionBudget"}

func readConfigMap(r *reader) object.Object {
	var in struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata,omitempty"`
		Immutable         *bool      `json:"immutable,omitempty"`
		Data              *yaml.Node `json:"data,omitempty"`
		BinaryData        *yaml.Node `json:"binaryData,omitempty"`
	}
	r.object(&in)
	m := r.meta(&in.ObjectMeta, true, isSubdomain)
	if r.refused > 0 {
		return nil
	}
	// People keep passwords in ConfigMaps as well.
	r.hushed = true
	cm := &corev1.ConfigMap{Data: make(map[string]string)}
	r.entriesOf(in.Data, "data", func(key string, n *yaml.Node) {
		if kindOf(n) != text {
			r.mismatch(n, wantText)
			return
		}
		cm.Data[key] = n.Value
	})
	r.entriesOf(in.BinaryData, "binaryData", func(_ string, n *yaml.Node) {
		if kindOf(n) != text {
			r.mismatch(n, wantText)
		}
	})
	r.hushed = false
	if r.refused > 0 {
		return nil
	}
	return r.convert(object.KindConfigMap, m, cm)
}

// meshConfigName is the ConfigMap of the mesh configuration, and meshConfigKey where it stands in it.
const (
	meshConfigName = "istio"
	meshConfigKey  = "mesh"
)

func (r *reader) configMap(m object.Meta, in *corev1.ConfigMap) *object.ConfigMap {
	out := &object.ConfigMap{Meta: m}
	size := 0
	for _, v := range in.Data {
		size += len(v)
	}
	if size > maxStore {
		r.refuse(at("data"), fmt.Sprintf("there are %d bytes, at most %d are allowed", size, maxStore), "split the ConfigMap")
		return nil
	}
	if ca := in.Data["ca.crt"]; strings.Contains(ca, "-----BEGIN CERTIFICATE-----") {
		out.CA = r.d.words.one(ca) // the cluster's own stands in every namespace
	}
	if mesh, ok := in.Data[meshConfigKey]; ok && m.Name == meshConfigName {
		out.Mesh = r.meshConfig(mesh, at("data", meshConfigKey), m.Namespace)
	}
	for _, k := range overlayKeys {
		if v, ok := in.Data[k]; ok && looksLikeOverlay(v) {
			if out.Overlays == nil {
				out.Overlays = make(map[string]string)
			}
			out.Overlays[k] = v
		}
	}
	if class := m.Labels.Get("gateway.istio.io/defaults-for-class"); class != "" {
		for _, k := range slices.Sorted(maps.Keys(in.Data)) {
			if !slices.Contains(overlayKeys, k) {
				fix := "known are " + strings.Join(overlayKeys, ", ")
				if best := nearest(k, overlayKeys); best != "" {
					fix = "did you mean " + best + "?"
				}
				r.warn(at("data", k), "nothing of that name is deployed for a Gateway", fix)
			}
		}
	}
	return out
}

// looksLikeOverlay tells part of an object from a ConfigMap of somebody else that happens to use the key.
func looksLikeOverlay(s string) bool {
	var n yaml.Node
	root, err := parse([]byte(s), 1, 100_000)
	if err != nil {
		return false
	}
	n = *root
	return kindOf(&n) == mapping
}
