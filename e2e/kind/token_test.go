//go:build kind

package kind

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/ambit-mesh/ambit/api/mesh"
	ca "github.com/ambit-mesh/ambit/ca/client"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ca/token"
)

// forward makes a port of a pod one of this machine, and returns its address.
func (c *cluster) forward(ns, pod string, port int) string {
	c.Helper()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	c.must(err)
	url := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name(pod).SubResource("portforward").URL()
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url), []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	c.must(err)
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	c.Cleanup(func() { close(stop); <-done })
	select {
	case <-ready:
	case err := <-done:
		done <- err
		c.Fatalf("forward %s/%s:%d: %v", ns, pod, port, err)
	}
	ports, err := f.GetPorts()
	c.must(err)
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

// accountToken is a fresh token of a service account.
func (c *cluster) accountToken(ns, account, audience string) string {
	c.Helper()
	t, err := c.client.CoreV1().ServiceAccounts(ns).CreateToken(c.ctx, account, &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{Audiences: []string{audience}}}, metav1.CreateOptions{})
	c.must(err)
	return t.Status.Token
}

// resigned is a token with other claims, signed with the cluster's own key.
func (c *cluster) resigned(key crypto.Signer, raw string, claims map[string]any) string {
	c.Helper()
	private, ok := key.(*rsa.PrivateKey)
	if !ok {
		c.Skipf("the cluster signs tokens with a %T, which the story cannot", key)
	}
	part := strings.Split(raw, ".")
	data, err := base64.RawURLEncoding.DecodeString(part[1])
	c.must(err)
	body := map[string]any{}
	c.must(json.Unmarshal(data, &body))
	for k, v := range claims {
		body[k] = v
	}
	data, err = json.Marshal(body)
	c.must(err)
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(data)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, private, crypto.SHA256, sum[:])
	c.must(err)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// expired are the claims of a token that ended an hour ago.
func expired() map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
}

// signingKey is what the cluster signs the tokens of service accounts with.
func (c *cluster) signingKey(docker func(...string) string) crypto.Signer {
	c.Helper()
	key, err := token.ParseSigner([]byte(docker("exec", c.controlPlane(), "cat", "/etc/kubernetes/pki/sa.key")))
	c.must(err)
	return key
}

// ambitd asks the control plane at an address, as a proxy does.
type ambitd struct {
	addr  string
	roots []byte
}

const ambitdName = "ambitd." + system + ".svc"

func (a ambitd) xds(ctx context.Context, ns, raw string) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(a.roots)
	conn, err := grpc.NewClient("passthrough:///"+a.addr, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: pool, ServerName: ambitdName, NextProtos: []string{"h2"}})))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+raw), 20*time.Second)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return err
	}
	node := &corev3.Node{Id: "ztunnel~10.0.0.1~story." + ns + "~" + ns + ".svc.cluster.local"}
	if node.Metadata, err = structpb.NewStruct(map[string]any{"NAMESPACE": ns}); err != nil {
		return err
	}
	// A stream that was refused says why to who reads it, not to who writes.
	_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{Node: node, TypeUrl: mesh.TypeAuthorization})
	_, err = stream.Recv()
	return err
}

func (a ambitd) certificate(ctx context.Context, id identity.ID, raw string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	client := ca.New(ca.Config{
		Address: "https://" + ambitdName + ":15012", Self: id, RootCA: func() ([]byte, error) { return a.roots, nil }, Token: func() (string, error) { return raw, nil },
		DialContext: func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", a.addr)
		},
	})
	defer client.Close()
	_, err := client.Sign(ctx, id)
	return err
}

// TestBadTokens shows the control plane tokens that have expired, that are for somebody else, or that nobody has signed: it refuses
// them as Unauthenticated and says why.
func TestBadTokens(t *testing.T) {
	const ns = "tokens"
	c := open(t)
	key := c.signingKey(c.machines())
	c.namespace(ns)
	c.apply(ns, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: client}\n")
	var roots *corev1.ConfigMap
	c.eventually("the namespace has the roots", func() (err error) {
		roots, err = c.client.CoreV1().ConfigMaps(ns).Get(c.ctx, "istio-ca-root-cert", metav1.GetOptions{})
		return err
	})
	a := ambitd{c.forward(system, c.ready(system, "app=ambitd")[0].Name, 15012), []byte(roots.Data["root-cert.pem"])}
	good := c.accountToken(ns, "client", "istio-ca")
	id := identity.ID{TrustDomain: "cluster.local", Namespace: ns, ServiceAccount: "client"}
	for name, tc := range map[string]struct {
		raw  string
		code codes.Code
		text string
	}{
		"good":           {good, codes.OK, ""},
		"signed again":   {c.resigned(key, good, nil), codes.OK, ""}, // so that what follows is refused for what it says
		"expired":        {c.resigned(key, good, expired()), codes.Unauthenticated, "expired"},
		"other audience": {c.accountToken(ns, "client", "somebody-else"), codes.Unauthenticated, "audience"},
		"forged":         {good[:len(good)-8] + "AAAAAAAA", codes.Unauthenticated, "the API server refuses the token"},
		"no token":       {"nonsense", codes.Unauthenticated, "no JSON Web Token"},
	} {
		for what, err := range map[string]error{"xds": a.xds(c.ctx, ns, tc.raw), "certificate": a.certificate(c.ctx, id, tc.raw)} {
			if status.Code(err) != tc.code || err != nil && !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s, %s: %v, want %s %q", name, what, err, tc.code, tc.text)
			} else {
				t.Logf("%s, %s: %v", name, what, err)
			}
		}
	}
}

// TestExpiredToken takes the token away from a node proxy that runs: in its file there is one that has expired, and the
// connection it had ends with the control plane. The proxy goes on by what it knows and says what is wrong; with a token in
// the file again, which the kubelet sees to, it goes on as before.
func TestExpiredToken(t *testing.T) {
	const ns = "token"
	c := open(t)
	docker := c.machines()
	key := c.signingKey(docker)
	url := c.shop(ns)
	node := c.pods(ns, "role=client")[0].Spec.NodeName
	var proxy corev1.Pod
	for _, p := range c.ready(system, "app=ztunnel") {
		if p.Spec.NodeName == node {
			proxy = p
		}
	}
	bad := c.resigned(key, c.accountToken(system, "ztunnel", "istio-ca"), expired())
	file := "/var/lib/kubelet/pods/" + string(proxy.UID) + "/volumes/kubernetes.io~projected/istio-token/istio-token"
	docker("exec", node, "test", "-s", file)
	const stop = "/run/story-token-ends"
	end := func() { _ = exec.Command("docker", "exec", node, "touch", stop).Run() }
	t.Cleanup(func() {
		end()
		_ = exec.Command("docker", "exec", node, "rm", "-f", stop).Run()
	})
	load := c.load(ns, "client", url, 50)
	// The kubelet puts the good one back within a minute or so, again and again.
	docker("exec", "-d", node, "sh", "-c", fmt.Sprintf("rm -f %[1]s; i=0; while [ ! -e %[1]s ] && [ $i -lt 1200 ]; do printf %%s %[2]s > %[3]s; i=$((i+1)); sleep 0.2; done", stop, bad, file))
	c.restart("Deployment", system, "ambitd")
	before := c.restarts()
	c.eventually("the proxy says why it has no stream", func() error {
		since := metav1.NewTime(c.began)
		log, err := c.client.CoreV1().Pods(system).GetLogs(proxy.Name, &corev1.PodLogOptions{SinceTime: &since}).DoRaw(c.ctx)
		if err == nil && !(strings.Contains(string(log), "Unauthenticated") && strings.Contains(string(log), "expired")) {
			err = fmt.Errorf("not yet")
		}
		return err
	})
	c.eventually("proxy-status misses it", func() error {
		out, stderr, err := c.try("proxy-status")
		if err == nil && connected(out, proxy.Name) {
			err = fmt.Errorf("%s%s", out, stderr)
		}
		return err
	})
	c.answers(ns, "client", url)
	end()
	c.within(3*soon, "the proxy is connected", func() error {
		out, stderr, err := c.try("proxy-status")
		if err == nil && !connected(out, proxy.Name) {
			err = fmt.Errorf("%s%s", out, stderr)
		}
		return err
	})
	c.unharmed(load)
	c.works(ns, url)
	c.sameAs(before)
}

// connected says whether a proxy's line of proxy-status names a control plane.
func connected(out, name string) bool {
	for line := range strings.Lines(out) {
		if strings.Contains(line, name) && strings.Contains(line, "ambitd-") {
			return true
		}
	}
	return false
}
