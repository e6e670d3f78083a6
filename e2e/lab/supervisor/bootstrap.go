package supervisor

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/fabric"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/services"
)

// bootstrap applies what every cluster has from the start: nodes, namespaces and the name server's Service.
func (s *Supervisor) bootstrap() error {
	for i, n := range s.nodes {
		labels := map[string]string{
			"kubernetes.io/hostname":        n.host.Name,
			"topology.kubernetes.io/region": "lab",
			"topology.kubernetes.io/zone":   fmt.Sprintf("zone-%c", 'a'+i%26),
		}
		maps.Copy(labels, s.start.NodeLabels[n.host.Name])
		n.labels = labels
		if err := s.put(s.nodeObject(n)); err != nil {
			return err
		}
	}
	for _, ns := range []string{"default", "kube-system", "ambit-system"} {
		doc := fmt.Sprintf("{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {kubernetes.io/metadata.name: %s}}}", ns, ns)
		if err := s.putYAML(doc); err != nil {
			return err
		}
	}
	control, _ := s.plan.Host(fabric.ControlHost)
	vips := services.DNSAddrs(s.start.DualStack)
	if err := s.putYAML(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: %q
  clusterIPs: [%s]
  ports:
  - {name: dns, protocol: UDP, port: 53}
  - {name: dns-tcp, protocol: TCP, port: 53}
`, vips[0], quoted(vips))); err != nil {
		return err
	}
	for i, a := range control.Addrs {
		family := []string{"IPv4", "IPv6"}[i]
		if err := s.putYAML(fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-%s, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: %s
ports: [{name: dns, protocol: UDP, port: 53}, {name: dns-tcp, protocol: TCP, port: 53}]
endpoints: [{addresses: [%q], conditions: {ready: true}}]
`, strings.ToLower(family), family, a)); err != nil {
			return err
		}
	}
	s.dirty = true
	return nil
}

func quoted(addrs []netip.Addr) string {
	list := make([]string, len(addrs))
	for i, a := range addrs {
		list[i] = fmt.Sprintf("%q", a)
	}
	return strings.Join(list, ", ")
}

func (s *Supervisor) nodeObject(n *node) resource.Object {
	var addresses []any
	for _, a := range n.host.Addrs {
		addresses = append(addresses, map[string]any{"type": "InternalIP", "address": a.String()})
	}
	addresses = append(addresses, map[string]any{"type": "Hostname", "address": n.host.Name})
	ready := "True"
	if n.failed {
		ready = "False"
	}
	o := resource.Object{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": n.host.Name},
		"spec": map[string]any{"podCIDR": n.host.PodCIDRs[0].String(), "podCIDRs": anyTexts(n.host.PodCIDRs)},
		"status": map[string]any{
			"addresses":  addresses,
			"conditions": []any{map[string]any{"type": "Ready", "status": ready, "lastTransitionTime": now()}},
		},
	}
	o.SetLabels(n.labels, nil)
	return o
}

func anyTexts[T fmt.Stringer](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v.String()
	}
	return out
}

func now() string { return time.Now().UTC().Format(time.RFC3339) }

func (s *Supervisor) putYAML(doc string) error {
	o, err := resource.Parse([]byte(doc), "default")
	if err != nil {
		return fmt.Errorf("built-in object: %w", err)
	}
	return s.put(o)
}

// writeHostFiles makes the name resolution files of a host's own processes.
func (s *Supervisor) writeHostFiles(h fabric.Host) error {
	dir := s.runDir(h.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("host folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), s.resolvConf("ambit-system"), 0o644); err != nil {
		return fmt.Errorf("host folder: %w", err)
	}
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, other := range s.plan.Hosts {
		for _, a := range other.Addrs {
			fmt.Fprintf(&b, "%s %s\n", a, other.Name)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("host folder: %w", err)
	}
	return nil
}

func (s *Supervisor) resolvConf(namespace string) []byte {
	var b strings.Builder
	for _, a := range services.DNSAddrs(s.start.DualStack) {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	fmt.Fprintf(&b, "search %s.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n", namespace)
	return []byte(b.String())
}

// serve opens the lab's name server and API.
func (s *Supervisor) serve(ctx context.Context, background func(string, func(context.Context) error)) error {
	control, _ := s.plan.Host(fabric.ControlHost)
	var packets []net.PacketConn
	var listeners []net.Listener
	err := netspace.Do(netspace.Path(control.Netns), func() error {
		for _, a := range append(control.Addrs, netip.MustParseAddr("127.0.0.1")) {
			at := netip.AddrPortFrom(a, 53)
			p, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
			if err != nil {
				return err
			}
			packets, listeners = append(packets, p), append(listeners, l)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("name server: %w", err)
	}
	background("name server", func(ctx context.Context) error { return s.dns.Run(ctx, packets, listeners) })
	l, err := net.Listen("unix", s.path(SocketFile))
	if err != nil {
		return fmt.Errorf("api socket: %w", err)
	}
	background("api", func(ctx context.Context) error { return s.serveAPI(ctx, l) })
	return nil
}

// rotateLogs keeps every log file below a limit. Processes append to the open file, so it is copied and cut, not renamed.
func (s *Supervisor) rotateLogs(ctx context.Context) error {
	const limit = 8 << 20
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		_ = filepath.WalkDir(s.path("logs"), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".log") {
				return nil
			}
			if info, err := d.Info(); err == nil && info.Size() > limit {
				s.cutLog(path)
			}
			return nil
		})
	}
}

func (s *Supervisor) cutLog(path string) {
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path+".1", data, 0o644)
	}
	if err == nil {
		err = os.Truncate(path, 0)
	}
	if err != nil {
		s.log.Warn("log file keeps growing", "file", path, "error", err)
	}
}
