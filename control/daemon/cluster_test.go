package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/control/kube/kubetest"
)

// cluster is a control plane that reads an API server.
type cluster struct {
	*plane
	api *kubetest.Server
}

func newTestCluster(t *testing.T) *cluster {
	t.Helper()
	api := kubetest.New(t)
	dir := t.TempDir()
	config := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(config, fmt.Appendf(nil, "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c}}]\ncurrent-context: c\n", api.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Default()
	cfg.Kubeconfig, cfg.Listen, cfg.AdminAddress, cfg.AdminSocket, cfg.StateDir = config, l.Addr().String(), "", filepath.Join(dir, "admin.sock"), dir
	cfg.CRLConfigMap = "revoked"
	l.Close() // for the control plane
	for _, k := range [][2]string{{"gateways", "Gateway"}, {"httproutes", "HTTPRoute"}} {
		api.Serve("apis/gateway.networking.k8s.io/v1/"+k[0], k[1], true)
	}
	api.Serve("apis/gateway.networking.k8s.io/v1/gatewayclasses", "GatewayClass", false)
	api.Serve("apis/security.istio.io/v1/authorizationpolicies", "AuthorizationPolicy", true)
	api.Serve("apis/networking.istio.io/v1/serviceentries", "ServiceEntry", true)
	api.Review(func(raw string) kubetest.Doc {
		account, pod, _ := strings.Cut(strings.Split(raw, ".")[0], "/")
		if account == "bad" {
			return kubetest.Doc{"authenticated": false}
		}
		return kubetest.Doc{"authenticated": true, "audiences": []any{"istio-ca"}, "user": kubetest.Doc{
			"username": "system:serviceaccount:ambit-system:" + account,
			"extra":    kubetest.Doc{"authentication.kubernetes.io/pod-name": []any{pod}, "authentication.kubernetes.io/pod-uid": []any{"u-" + pod}},
		}}
	})
	return &cluster{plane: &plane{t: t, cfg: cfg}, api: api}
}

// bearer is a token of an account's pod that lasts.
func bearer(account, pod string) string {
	return account + "/" + pod + "." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp": %d}`, time.Now().Add(time.Hour).Unix())) + ".s"
}

// authority looks at the authority inside, and rotates its root.
func (c *cluster) authority() {
	c.t.Helper()
	if code, text := c.get("/ca/config_dump"); code != 200 || !strings.Contains(text, `"trustDomain": "cluster.local"`) {
		c.t.Errorf("the authority's dump: %d %s", code, text)
	}
	rotate := func(change func(*http.Request)) (int, string) {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.cfg.AdminSocket)
		}
		req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, "http://admin/ca/rotate", nil)
		if err != nil {
			c.t.Fatal(err)
		}
		change(req)
		resp, err := (&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}).Do(req)
		if err != nil {
			c.t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	_, before := c.get("/ca/roots")
	if code, text := rotate(func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }); code != http.StatusForbidden {
		c.t.Errorf("a page of another origin rotates the root: %d %s", code, text)
	}
	if code, text := rotate(func(*http.Request) {}); code != 200 {
		c.t.Errorf("rotate: %d %s", code, text)
	}
	c.await("the new root beside the old one", func() bool {
		_, now := c.get("/ca/roots")
		return strings.Count(now, "BEGIN CERTIFICATE") > strings.Count(before, "BEGIN CERTIFICATE")
	})
}

// lists gives the mesh a revocation list, and takes it back.
func (c *cluster) lists() {
	list := string(catest.New().RevocationList(time.Now().Add(time.Hour)))
	there := func() string {
		data, _ := c.api.Object("api/v1/configmaps", "shop", "istio-ca-crl")["data"].(kubetest.Doc)
		text, _ := data["ca-crl.pem"].(string)
		return text
	}
	c.api.PutDoc(kubetest.Doc{"apiVersion": "v1", "kind": "ConfigMap", "metadata": kubetest.Doc{"name": "revoked", "namespace": "ambit-system"}, "data": kubetest.Doc{"ca-crl.pem": list}})
	c.await("the revocation list", func() bool { return there() == list })
	c.api.Remove("api/v1/configmaps", "ambit-system", "revoked")
	c.await("its end", func() bool { return there() == "" })
}

func (c *cluster) roots() ([]byte, error) {
	data, _ := c.api.Object("api/v1/configmaps", "shop", "istio-ca-root-cert")["data"].(kubetest.Doc)
	pem, _ := data["root-cert.pem"].(string)
	return []byte(pem), nil
}

const clusterTown = `apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: wp}}
---
apiVersion: v1
kind: Pod
metadata: {name: zt, namespace: ambit-system, uid: u-zt}
spec: {nodeName: n1, serviceAccountName: ztunnel, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.1.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: shop, uid: u-far}
spec: {nodeName: n2, serviceAccountName: far, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.1.0.6}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ext, namespace: shop}
spec: {hosts: [ext.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
`

// One process is control plane and authority: proxies come with tokens of the cluster, get what they are to know and the
// certificates of the pods on their node, and what the control plane writes stands in the cluster.
func TestCluster(t *testing.T) {
	c := newTestCluster(t)
	c.api.Put(clusterTown + town)
	c.start()
	defer c.stop()
	c.await("the roots", func() bool { pem, _ := c.roots(); return len(pem) > 0 })

	token := bearer("ztunnel", "zt")
	x := c.proxy(token)
	c.await("what the cluster says", func() bool {
		names := strings.Join(x.names(), " ")
		return strings.Contains(names, "Kubernetes//Pod/shop/web") && strings.Contains(names, "shop/web.shop.svc.cluster.local") && strings.Contains(names, "shop/deny")
	})
	sign := func(token, account string) error {
		cl := client.New(client.Config{Address: c.cfg.Listen, RootCA: c.roots, Token: func() (string, error) { return token, nil }})
		defer cl.Close()
		id := identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: account}
		svid, err := cl.Sign(t.Context(), id)
		if err == nil && svid.ID != id {
			t.Errorf("asked for %s, got %s", id, svid.ID)
		}
		return err
	}
	if err := sign(bearer("ztunnel", "zt"), "default"); err != nil {
		t.Error(err)
	}
	for who, why := range map[[2]string]string{
		{bearer("ztunnel", "zt"), "far"}:      "no pod of service account shop/far runs on node n1",
		{bearer("ztunnel", "zt9"), "default"}: "no such pod",
		{bearer("other", "zt"), "default"}:    "not a trusted node account",
		{bearer("bad", "zt"), "default"}:      "refuses the token",
	} {
		if err := sign(who[0], who[1]); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%v: %v", who, err)
		}
	}
	addresses := func() []any {
		status, _ := c.api.Object("apis/networking.istio.io/v1/serviceentries", "shop", "ext")["status"].(kubetest.Doc)
		list, _ := status["addresses"].([]any)
		return list
	}
	c.await("the ServiceEntry's addresses", func() bool { return len(addresses()) == 2 })
	c.await("the policy's status", func() bool {
		return c.api.Object("apis/security.istio.io/v1/authorizationpolicies", "shop", "deny")["status"] != nil
	})
	refused := func() string {
		status, _ := c.api.Object("apis/security.istio.io/v1/authorizationpolicies", "shop", "deny")["status"].(kubetest.Doc)
		list, _ := status["conditions"].([]any)
		for _, v := range list {
			if x := v.(kubetest.Doc); x["type"] == conditionRefused {
				return fmt.Sprint(x["message"])
			}
		}
		return ""
	}
	good := c.api.Object("apis/security.istio.io/v1/authorizationpolicies", "shop", "deny")
	bad := c.api.Object("apis/security.istio.io/v1/authorizationpolicies", "shop", "deny")
	bad["spec"].(kubetest.Doc)["action"] = "MAYBE"
	c.api.PutDoc(bad)
	c.await("word of the refusal", func() bool { return strings.Contains(refused(), "the earlier version stays in force") })
	c.api.PutDoc(good)
	c.await("the end of it", func() bool { return refused() == "" })
	if _, b := c.get("/metrics"); !strings.Contains(b, "ambit_control_leader 1") || !strings.Contains(b, "ambit_control_unreadable_kinds 0") {
		t.Error("the metrics do not say that this replica leads")
	}
	c.authority()
	c.lists()
	c.waypoint()

	// The API server goes away: proxies that come back are served, and nothing they know is taken back.
	c.api.Fail(func(*http.Request) int { return 503 })
	y := c.proxy(token)
	if got, want := len(y.names()), len(x.names()); got != want {
		t.Errorf("%d resources while the API server is away, %d before", got, want)
	}
	c.api.Fail(nil)
	c.api.Remove("api/v1/pods", "shop", "far")
	c.await("news after the API server's return", func() bool { return !strings.Contains(strings.Join(x.names(), " "), "shop/far") })
}

// waypoint plays the kubelet for a Gateway, up to its address.
func (c *cluster) waypoint() {
	c.t.Helper()
	c.await("the waypoint's Deployment", func() bool { return c.api.Object("apis/apps/v1/deployments", "shop", "wp") != nil })
	svc := c.api.Object("api/v1/services", "shop", "wp")
	svc["spec"].(kubetest.Doc)["clusterIP"] = "10.96.0.77"
	svc["spec"].(kubetest.Doc)["clusterIPs"] = []any{"10.96.0.77"}
	c.api.PutDoc(svc)
	c.api.Put(`apiVersion: v1
kind: Pod
metadata: {name: wp-1, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: wp}}
spec: {nodeName: n1, serviceAccountName: wp, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.1.0.7, conditions: [{type: Ready, status: "True"}]}
`)
	c.await("the Gateway's address", func() bool {
		status, _ := c.api.Object("apis/gateway.networking.k8s.io/v1/gateways", "shop", "wp")["status"].(kubetest.Doc)
		list, _ := status["addresses"].([]any)
		return len(list) == 2
	})
	c.await("facts for the waypoint", func() bool {
		_, b := c.get("/debug/facts?gateway=shop/wp&name=web")
		return strings.Contains(b, "web.shop.svc.cluster.local")
	})
}

// Mesh-wide policies may be read from another namespace than that of the control plane, as where Istio was before; its keys, its
// Lease and the names it is called by stay.
func TestPoliciesOfAnotherNamespace(t *testing.T) {
	c := newTestCluster(t)
	c.cfg.Namespace, c.cfg.RootNamespace = "ambit-system", "istio-system"
	c.api.Put(clusterTown + `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: istio-system}
spec: {}
`)
	if got := (&clusterRunner{d: &Daemon{cfg: c.cfg}}).sourceConfig(); got.Namespace != "ambit-system" || got.RootNamespace != "istio-system" {
		t.Errorf("last good versions are noted in %s, those of %s first", got.Namespace, got.RootNamespace)
	}
	c.start()
	defer c.stop()
	c.await("the roots", func() bool { pem, _ := c.roots(); return len(pem) > 0 })
	x := c.proxy(bearer("ztunnel", "zt")) // which asks for ambitd.ambit-system.svc
	c.await("the policy for the whole mesh", func() bool { return x.scope("istio-system/closed") == security.Scope_GLOBAL })
	if _, text := c.get("/debug/refusals"); strings.Contains(text, "AMB405") {
		t.Errorf("the policy is said to be misplaced: %s", text)
	}
	c.await("a leader", func() bool { return len(c.api.Objects("apis/coordination.k8s.io/v1/leases")) > 0 })
	for _, path := range []string{"api/v1/secrets", "apis/coordination.k8s.io/v1/leases"} {
		for _, o := range c.api.Objects(path) {
			if ns := o["metadata"].(kubetest.Doc)["namespace"]; ns != "ambit-system" {
				t.Errorf("%s in namespace %v", path, ns)
			}
		}
	}
}

// scope is what a policy that a proxy was sent is about.
func (x *proxy) scope(name string) security.Scope {
	x.mu.Lock()
	defer x.mu.Unlock()
	a := &security.Authorization{}
	if body, ok := x.body[name]; !ok || proto.Unmarshal(body, a) != nil {
		return -1
	}
	return a.GetScope()
}

// proxy connects a node proxy with a token, over TLS.
func (c *cluster) proxy(token string) *proxy {
	c.t.Helper()
	x := &proxy{have: map[string]string{}, body: map[string][]byte{}}
	meta, err := structpb.NewStruct(map[string]any{"NAMESPACE": "ambit-system", "SERVICE_ACCOUNT": "ztunnel"})
	if err != nil {
		c.t.Fatal(err)
	}
	cl := xds.NewClient(xds.ClientConfig{
		Target: c.cfg.Listen,
		TLS: func() (*tls.Config, error) {
			pem, err := c.roots()
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(pem)
			return &tls.Config{RootCAs: pool, ServerName: "ambitd.ambit-system.svc"}, err
		},
		Token: func() (string, error) { return token, nil },
		Node:  &corev3.Node{Id: "ztunnel~10.1.0.2~zt.ambit-system~ambit-system.svc.cluster.local", Metadata: meta},
	}, x, mesh.TypeAddress, mesh.TypeAuthorization)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- cl.Run(ctx) }()
	c.t.Cleanup(func() { cancel(); <-done })
	select {
	case <-cl.Synced():
	case <-time.After(20 * time.Second):
		c.t.Fatal("the client never had a complete answer")
	}
	return x
}
