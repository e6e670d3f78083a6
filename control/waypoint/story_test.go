package waypoint

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	facts "github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/object"
)

const shop = `
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: wp.shop.svc.cluster.local}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: web}, ports: [{name: http, port: 80}]}
`

const webFact = "Service shop/wp/shop/web.shop.svc.cluster.local"

func (w *world) service(name string) *facts.Service {
	w.t.Helper()
	s, _ := w.facts[name].(*facts.Service)
	if s == nil {
		w.t.Fatalf("there is no %s", name)
	}
	return s
}

// Key sets are asked for while a policy needs them, and what became of that is in the facts and in the status.
func TestStoryOfKeys(t *testing.T) {
	w := newWorld(t)
	const tokens = `
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  targetRefs: [{kind: Service, group: "", name: web}]
  jwtRules: [{issuer: me, jwksUri: "https://keys.example/"}]
`
	w.yaml(shop)
	w.yaml(tokens)
	src := jwks.Source{URI: "https://keys.example/"}
	if len(w.keys) != 1 || w.keys[0] != src {
		t.Fatalf("needed: %v", w.keys)
	}
	rule := func() *facts.JWTRule { return w.service(webFact).Policies.Authentication[0].Rules[0] }
	if r := rule(); r.Jwks != "" || !strings.Contains(r.JwksMissing, "not been fetched yet") {
		t.Errorf("before: %v", r)
	}
	key := object.Key{Kind: object.KindRequestAuthentication, Namespace: "shop", Name: "tokens"}
	for _, step := range []struct {
		set           jwks.Set
		jwks, missing string
		warning       string
	}{
		{jwks.Set{Problem: "no route"}, "", "no route", "are refused"},
		{jwks.Set{Keys: "K1"}, "K1", "", ""},
		{jwks.Set{Keys: "K1", Problem: "no route"}, "K1", "", "the keys before stay in use"},
	} {
		w.model.SetKeys(src, step.set)
		w.flush()
		if r := rule(); r.Jwks != step.jwks || r.JwksMissing != step.missing {
			t.Errorf("%+v: %v", step.set, r)
		}
		got := reportText(w.reports[key])
		if step.warning == "" && got != "" || !strings.Contains(got, step.warning) {
			t.Errorf("%+v: the report is %q", step.set, got)
		}
	}
	w.delete(tokens)
	if len(w.keys) != 0 || w.service(webFact).Policies != nil {
		t.Errorf("still needed: %v", w.keys)
	}
}

// A canary waypoint is told what the first one is told; facts go when the waypoint goes.
func TestStoryOfACanary(t *testing.T) {
	w := newWorld(t)
	w.yaml(shop)
	w.yaml(strings.ReplaceAll(strings.Split(shop, "---")[1], "wp", "next"))
	w.yaml(`
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {istio.io/use-waypoint: wp, istio.io/use-waypoint-canary: next}
  annotations: {istio.io/use-waypoint-canary-weight: "10"}
`)
	a, b := w.service(webFact), w.service(strings.Replace(webFact, "/wp/", "/next/", 1))
	if !proto.Equal(a, b) {
		t.Errorf("%v and %v", a, b)
	}
	w.delete(strings.Split(shop, "---")[1])
	for name := range w.facts {
		if strings.Contains(name, "/wp/") {
			t.Errorf("%s is left", name)
		}
	}
}

// A backend that comes later is found then; one that goes breaks its share and nothing else.
func TestStoryOfABackend(t *testing.T) {
	w := newWorld(t)
	w.yaml(shop)
	w.yaml(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{kind: Service, group: "", name: web}]
  rules: [{backendRefs: [{name: web, port: 80, weight: 9}, {name: next, port: 80, weight: 1}]}]
`)
	backends := func() []*facts.Backend { return w.service(webFact).Ports[0].Http[0].GetForward().Backends }
	if b := backends(); b[0].Broken != "" || b[1].Broken == "" {
		t.Errorf("%v", b)
	}
	const next = `
apiVersion: v1
kind: Service
metadata: {name: next, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {clusterIP: 10.1.0.2, selector: {app: next}, ports: [{name: http, port: 80}]}
`
	w.yaml(next)
	if b := backends(); b[1].Broken != "" || b[1].Hostname != "next.shop.svc.cluster.local" {
		t.Errorf("%v", b)
	}
	if w.facts["Destination shop/wp/shop/next.shop.svc.cluster.local"] == nil {
		t.Error("there is no destination")
	}
	w.delete(next)
	if b := backends(); b[0].Broken != "" || b[1].Broken == "" {
		t.Errorf("%v", b)
	}
	if w.facts["Destination shop/wp/shop/next.shop.svc.cluster.local"] != nil {
		t.Error("the destination is left")
	}
}

// A VirtualService tells of every destination that does not exist, named with a port or without, and of an older one that
// takes its requests away.
func TestStoryOfMistakenRoutes(t *testing.T) {
	w := newWorld(t)
	w.yaml(shop)
	w.yaml(`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: old, namespace: shop, creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /typo}}]
    route: [{destination: {host: wep}}]
  - match: [{uri: {prefix: /subset}}]
    route: [{destination: {host: web, subset: v9}}]
  - match: [{uri: {prefix: /port}}]
    route: [{destination: {host: web, port: {number: 81}}}]
  - route: [{destination: {host: web}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: young, namespace: shop, creationTimestamp: "2026-02-01T00:00:00Z"}
spec: {hosts: [web.shop.svc.cluster.local], http: [{route: [{destination: {host: web}}]}]}
`)
	warnings := func(name string) string {
		var out []string
		for _, x := range w.reports[object.Key{Kind: object.KindVirtualService, Namespace: "shop", Name: name}].Warnings {
			out = append(out, x.Problem)
		}
		return strings.Join(out, "\n")
	}
	for _, want := range []string{"hostname wep.shop.svc.cluster.local", `subset "v9"`, "no port 81"} {
		if !strings.Contains(warnings("old"), want) {
			t.Errorf("nothing is said of %s:\n%s", want, warnings("old"))
		}
	}
	if got := warnings("old"); strings.Contains(got, "older") {
		t.Error(got)
	}
	if got := warnings("young"); !strings.Contains(got, "VirtualService shop/old is older") {
		t.Errorf("nothing is said of the older one: %s", got)
	}
	w.apply(object.Delete(object.Key{Kind: object.KindVirtualService, Namespace: "shop", Name: "old"}))
	if got := warnings("young"); got != "" {
		t.Error(got)
	}
}

// A certificate and a key that do not belong together are no certificate, and the listener says so.
func TestStoryOfMismatchedKey(t *testing.T) {
	pair := func() (cert, key []byte) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	}
	cert, key := pair()
	_, other := pair()
	secret := func(key []byte) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: tls, namespace: shop}
type: kubernetes.io/tls
data: {tls.crt: %s, tls.key: %s}
`, base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
	}
	w := newWorld(t)
	w.yaml(shop)
	w.yaml(`
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: in, namespace: shop}
spec:
  gatewayClassName: istio
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: tls}]}}]
`)
	said := func() string {
		return reportText(w.reports[object.Key{Kind: object.KindGateway, Namespace: "shop", Name: "in"}])
	}
	w.yaml(secret(other))
	if got := said(); !strings.Contains(got, "ResolvedRefs=false InvalidCertificateRef: Secret shop/tls has no usable certificate and key: tls: private key does not match public key") {
		t.Error(got)
	}
	w.yaml(secret(key))
	if got := said(); strings.Contains(got, "InvalidCertificateRef") {
		t.Error(got)
	}
}

// What is well formed and in the wrong place is told.
func TestStoryOfMisplacedObjects(t *testing.T) {
	w := newWorld(t)
	w.yaml(shop)
	w.yaml(`
apiVersion: v1
kind: Namespace
metadata: {name: istio-system}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "accessLogFile: /dev/stdout"}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: mesh-default, namespace: istio-system}
spec: {accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: by-label, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: of-gateway, namespace: shop}
spec: {selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: in}}, accessLogging: [{providers: [{name: envoy}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.1.0.2, selector: {app: db}, ports: [{name: tcp-db, port: 90}, {name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: tcp, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: db, port: 90}], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: shop}
spec: {parentRefs: [{group: "", kind: Service, name: db}], rules: [{backendRefs: [{name: web, port: 80}]}]}
`)
	for key, want := range map[object.Key]string{
		{Kind: object.KindConfigMap, Namespace: "istio-system", Name: "istio"}:        "namespace ambit-system",
		{Kind: object.KindTelemetry, Namespace: "istio-system", Name: "mesh-default"}: "namespace ambit-system",
		{Kind: object.KindTelemetry, Namespace: "shop", Name: "by-label"}:             "gateways at the edge alone",
		{Kind: object.KindTelemetry, Namespace: "shop", Name: "of-gateway"}:           "",
		{Kind: object.KindHTTPRoute, Namespace: "shop", Name: "tcp"}:                  "not read as requests",
		{Kind: object.KindHTTPRoute, Namespace: "shop", Name: "all"}:                  "",
	} {
		got := w.reports[key].Warnings
		if want == "" && len(got) == 0 || want != "" && len(got) == 1 && strings.Contains(got[0].Problem, want) {
			continue
		}
		t.Errorf("%s: %+v, want %q", key, got, want)
	}
}
