package stories

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/netns"
	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/cni/redirect"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	meshlab "github.com/ambit-mesh/ambit/e2e/mesh"
)

// TestDedicated runs a ztunnel for one pod alone, inside that pod and with the pod's own token, as a VM or a pod without a
// node proxy would: it reaches the mesh and is reached by it, by identity both ways.
func TestDedicated(t *testing.T) {
	w := start(t, options{nodes: 2})
	w.namespace("shop")
	w.must(w.Label(w.soon(), "Namespace", "", "shop", map[string]string{"istio.io/dataplane-mode": "ambient"}))
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	w.protocol("shop", "HBONE")
	// A pod of another namespace that says itself that it takes HBONE.
	w.namespace("vm")
	w.apply(`
apiVersion: v1
kind: Pod
metadata: {name: box, namespace: vm, labels: {app: box, networking.istio.io/tunnel: http}}
spec:
  nodeName: node1
  serviceAccountName: box
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, infinity]}]
`)
	w.eventually("the pod to run", func() error {
		_, err := w.call("vm", "box", net.JoinHostPort(w.podIP("vm", "box"), "1"), "")
		if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		return nil
	})
	w.protocol("vm", "HBONE")
	w.dedicate("vm", "box", "box", "node1")
	w.serve("vm", "box", 8080)

	w.eventually("box to reach the mesh", func() error { _, err := w.call("vm", "box", vip, "hi"); return err })
	w.want("vm", "box", vip, "web "+w.podIP("vm", "box"))
	w.logged("node2", "connection complete", `src.identity="spiffe://cluster.local/ns/vm/sa/box"`, `direction="inbound"`)
	w.want("shop", "web", net.JoinHostPort(w.podIP("vm", "box"), "8080"), "box "+w.podIP("shop", "web"))
	w.logged("node2", "connection complete", `dst.identity="spiffe://cluster.local/ns/vm/sa/box"`, `direction="outbound"`)
}

// dedicate puts the rules and a proxy of its own into a pod.
func (w *world) dedicate(ns, pod, sa, node string) {
	w.Helper()
	p, err := w.Pod(w.soon(), ns, pod)
	w.must(err)
	space, err := netns.Open(p.Netns)
	w.must(err)
	defer space.Close()
	w.must(redirect.NFTables{}.Apply(space, redirect.Options{ProbeIPv4: netip.MustParseAddr(mesh.ProbeSourceIPv4), ProbeIPv6: netip.MustParseAddr(mesh.ProbeSourceIPv6)}))
	dir := filepath.Join(w.Dir, "mesh")
	key, err := os.ReadFile(filepath.Join(dir, "token.key"))
	w.must(err)
	signer, err := token.ParseSigner(key)
	w.must(err)
	now := time.Now()
	raw, err := token.Mint(signer, token.Claims{
		Namespace: ns, ServiceAccount: sa, Issuer: token.DefaultIssuer, Audiences: []string{mesh.TokenAudience},
		IssuedAt: now, Expiry: now.Add(time.Hour), PodName: pod, Node: node,
	})
	w.must(err)
	file := filepath.Join(w.T.TempDir(), "token")
	w.must(os.WriteFile(file, []byte(raw), 0o600))
	control := w.Control.Addresses[0]
	cmd := exec.Command(filepath.Join(os.Getenv(meshlab.EnvBin), "ztunnel")) // ended by the cleanup below
	log, err := os.Create(filepath.Join(w.Dir, "logs", "daemon_dedicated.log"))
	w.must(err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{
		"NODE_NAME=" + node, "PROXY_MODE=dedicated", "PROXY_WORKLOAD_INFO=" + ns + "/" + pod + "/" + sa, "DNS_PROXY=false",
		"POD_NAME=" + pod, "POD_NAMESPACE=" + ns, "SERVICE_ACCOUNT=" + sa,
		"XDS_ADDRESS=https://" + control + ":15012", "ALT_XDS_HOSTNAME=ambitd.ambit-system.svc", "XDS_ROOT_CA=" + filepath.Join(dir, "roots.pem"),
		"CA_ADDRESS=https://" + control + ":15013", "ALT_CA_HOSTNAME=ambit-ca.ambit-system.svc", "CA_ROOT_CA=" + filepath.Join(dir, "roots.pem"),
		"AUTH_TOKEN=" + file,
	}
	w.must(netspace.Do(p.Netns, cmd.Start))
	w.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			w.Errorf("the dedicated proxy ended: %v", err)
		}
	})
}
