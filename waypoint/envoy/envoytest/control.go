package envoytest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// typeFilterChain has no name in go-control-plane: FCDS is younger.
const typeFilterChain = "type.googleapis.com/envoy.config.listener.v3.FilterChain"

// order in which types are published: nobody names what is not there yet.
var order = []string{
	resource.ClusterType, resource.EndpointType, resource.ExtensionConfigType, resource.RouteType, typeFilterChain, resource.ListenerType,
}

// control serves Envoy on two unix sockets.
type control struct {
	caches  map[string]*cache.LinearCache
	secrets *cache.LinearCache
	servers []*grpc.Server
	done    sync.WaitGroup
	options envoy.Options

	mu       sync.Mutex
	refused  map[string]string           // by type: what Envoy said
	sent     map[int64]map[string]string // per stream and type: the last nonce sent
	answered map[int64]map[string]string
}

func startControl(t testing.TB, o envoy.Options, ca *catest.CA) *control {
	t.Helper()
	c := &control{
		caches: map[string]*cache.LinearCache{}, secrets: cache.NewLinearCache(resource.SecretType), options: o,
		refused: map[string]string{}, sent: map[int64]map[string]string{}, answered: map[int64]map[string]string{},
	}
	mux := &cache.MuxCache{
		Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
		ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
		Caches:        map[string]cache.Cache{},
	}
	for _, kind := range order {
		c.caches[kind] = cache.NewLinearCache(kind)
		mux.Caches[kind] = c.caches[kind]
	}
	c.Secret(t, identitySecret(ca, Identity))
	c.Secret(t, rootsSecret(ca))
	c.listen(t, o.XDSSocket, func(g *grpc.Server) {
		discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, server.NewServer(context.Background(), mux, c.callbacks()))
	})
	c.listen(t, o.SDSSocket, func(g *grpc.Server) {
		m := &cache.MuxCache{
			Classify:      func(r *cache.Request) string { return r.GetTypeUrl() },
			ClassifyDelta: func(r *cache.DeltaRequest) string { return r.GetTypeUrl() },
			Caches:        map[string]cache.Cache{resource.SecretType: c.secrets},
		}
		secretv3.RegisterSecretDiscoveryServiceServer(g, server.NewServer(context.Background(), m, server.CallbackFuncs{}))
	})
	return c
}

func (c *control) listen(t testing.TB, path string, register func(*grpc.Server)) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	register(g)
	c.servers = append(c.servers, g)
	c.done.Go(func() { _ = g.Serve(l) })
}

func (c *control) stop() {
	for _, g := range c.servers {
		g.Stop()
	}
	c.done.Wait()
}

func (c *control) callbacks() server.CallbackFuncs {
	put := func(m map[int64]map[string]string, stream int64, kind, nonce string) {
		if m[stream] == nil {
			m[stream] = map[string]string{}
		}
		m[stream][kind] = nonce
	}
	return server.CallbackFuncs{
		StreamDeltaRequestFunc: func(id int64, r *discoveryv3.DeltaDiscoveryRequest) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if r.GetErrorDetail() != nil {
				c.refused[r.GetTypeUrl()] = r.GetErrorDetail().GetMessage()
			} else if r.GetResponseNonce() != "" {
				delete(c.refused, r.GetTypeUrl())
			}
			if r.GetResponseNonce() != "" {
				put(c.answered, id, r.GetTypeUrl(), r.GetResponseNonce())
			}
			return nil
		},
		StreamDeltaResponseFunc: func(id int64, _ *discoveryv3.DeltaDiscoveryRequest, r *discoveryv3.DeltaDiscoveryResponse) {
			c.mu.Lock()
			defer c.mu.Unlock()
			put(c.sent, id, r.GetTypeUrl(), r.GetNonce())
		},
	}
}

// settle waits until Envoy has answered all it was sent for a while; what it refused fails the test.
func (c *control) settle(t testing.TB) {
	t.Helper()
	quiet := 0
	for end := time.Now().Add(patience); time.Now().Before(end) && quiet < 5; time.Sleep(10 * time.Millisecond) {
		if c.pending() {
			quiet = 0
		} else {
			quiet++
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for kind, text := range c.refused {
		t.Fatalf("Envoy refuses %s: %s", kind, text)
	}
}

func (c *control) pending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, kinds := range c.sent {
		for kind, nonce := range kinds {
			if c.answered[id][kind] != nonce {
				return true
			}
		}
	}
	return false
}

// Secret hands out a secret, or another one under its name.
func (c *control) Secret(t testing.TB, s *tlsv3.Secret) {
	t.Helper()
	if err := c.secrets.UpdateResource(s.GetName(), s); err != nil {
		t.Fatal(err)
	}
}

// apply expands everything and publishes what is different.
func (c *control) apply(t testing.TB, e *envoy.Env) []envoy.Problem {
	t.Helper()
	all, problems := Expand(e)
	for _, kind := range order {
		var gone []string
		changed := map[string]types.Resource{}
		have := c.caches[kind].GetResources()
		for name, r := range all[kind] {
			if old, ok := have[name]; !ok || protojson.Format(old) != protojson.Format(r) {
				changed[name] = r
			}
		}
		for name := range have {
			if all[kind][name] == nil {
				gone = append(gone, name)
			}
		}
		if len(changed)+len(gone) == 0 {
			continue
		}
		if err := c.caches[kind].UpdateResources(changed, gone); err != nil {
			t.Fatal(err)
		}
	}
	return problems
}

func identitySecret(ca *catest.CA, id string) *tlsv3.Secret {
	svid := ca.MustSVID(id)
	var chain bytes.Buffer
	for _, der := range svid.TLS.Certificate {
		_ = pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	key, err := x509.MarshalPKCS8PrivateKey(svid.TLS.PrivateKey)
	if err != nil {
		panic(fmt.Sprintf("key of a test certificate: %v", err))
	}
	return CertificateSecret(envoy.SecretIdentity, chain.Bytes(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

// CertificateSecret is a certificate and key in PEM.
func CertificateSecret(name string, chain, key []byte) *tlsv3.Secret {
	return &tlsv3.Secret{Name: name, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: inline(chain), PrivateKey: inline(key),
	}}}
}

func rootsSecret(ca *catest.CA) *tlsv3.Secret {
	return &tlsv3.Secret{Name: envoy.SecretRoots, Type: &tlsv3.Secret_ValidationContext{
		ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(ca.Roots())},
	}}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}
