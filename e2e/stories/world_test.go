package stories

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

func TestMain(m *testing.M) {
	lab.Main()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	root, err := os.MkdirTemp("", "ambit-stories")
	if err == nil {
		defer os.RemoveAll(root)
		err = errors.Join(os.Setenv(labfile.EnvRoot, filepath.Join(root, "lab")), programs(root))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// programs makes sure that the mesh's binaries are there: those `make build` made, or fresh ones.
func programs(root string) error {
	if os.Getenv(mesh.EnvBin) != "" {
		return nil
	}
	bin := filepath.Join(root, "bin")
	if err := os.Setenv(mesh.EnvBin, bin); err != nil {
		return err
	}
	args := []string{"build", "-buildvcs=false", "-o", bin + "/"}
	for _, dir := range []string{"ca/cmd", "control/cmd", "cni/cmd", "ztunnel/cmd", "waypoint/cmd", "install/cmd", "e2e/cmd", "e2e/apps"} {
		if _, err := os.Stat(filepath.Join("../..", dir)); err == nil {
			args = append(args, "./"+dir+"/...")
		}
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the mesh: %w\n%s", err, out)
	}
	return nil
}

// patience is how long anything in a story may take. Nothing takes nearly as long on an idle machine.
const patience = 30 * time.Second

// world is one story's lab with the mesh on it.
type world struct {
	*testing.T
	*lab.Lab
	ctx context.Context
}

// options of a world; the zero value is three nodes of Ambit.
type options struct {
	nodes     int
	dualStack bool
	mesh      mesh.Options
	// names are those of the outside world.
	names map[string][]string
	// change may replace daemons before they start.
	change func([]lab.Daemon) []lab.Daemon
}

func start(t *testing.T, o options) *world {
	t.Helper()
	w := up(t, o)
	daemons, err := mesh.DaemonsWith(w.Lab, o.mesh)
	if err != nil {
		t.Fatal(err)
	}
	if o.change != nil {
		daemons = o.change(daemons)
	}
	w.must(w.Lab.Run(w.ctx, daemons...))
	w.must(w.DaemonsReady(w.soon(), nil))
	return w
}

// up is a lab without a mesh.
func up(t *testing.T, o options) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make network namespaces")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	name := fmt.Sprintf("s%d-%s", os.Getpid()%10000, strings.ToLower(strings.TrimPrefix(t.Name(), "Test")))
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)[:min(len(name), 18)], "-")
	l, err := lab.Up(ctx, lab.Spec{Name: name, Nodes: o.nodes, DualStack: o.dualStack, Names: o.names, Path: []string{os.Getenv(mesh.EnvBin)}})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, Lab: l, ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			w.tell()
		}
		if err := lab.Clean(name); err != nil {
			t.Error(err)
		}
	})
	return w
}

// tell prints what the daemons said, for a story that failed.
func (w *world) tell() {
	logs, _ := filepath.Glob(filepath.Join(w.Dir, "logs", "daemon_*.log"))
	for _, f := range append(logs, filepath.Join(w.Dir, "supervisor.log")) {
		if data, err := os.ReadFile(f); err == nil {
			lines := strings.Split(strings.TrimSpace(string(data)), "\n")
			w.Logf("%s (last lines):\n%s", filepath.Base(f), strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) soon() context.Context {
	ctx, cancel := context.WithTimeout(w.ctx, patience)
	w.Cleanup(cancel)
	return ctx
}

// eventually asks until the answer is nil.
func (w *world) eventually(what string, ask func() error) {
	w.Helper()
	ctx := w.soon()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.Fatalf("%s: %v", what, err)
		}
	}
}

func (w *world) apply(yaml string) {
	w.Helper()
	if _, err := w.Apply(w.soon(), []byte(yaml), "default"); err != nil {
		w.Fatal(err)
	}
}

// delete removes what the YAML names.
func (w *world) remove(yaml string) {
	w.Helper()
	if _, err := w.Delete(w.soon(), []byte(yaml), "default"); err != nil {
		w.Fatal(err)
	}
}

// namespace makes one with labels.
func (w *world) namespace(name string, labels ...string) {
	w.Helper()
	w.apply(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {%s}}\n", name, strings.Join(labels, ", ")))
}

// pod starts a pod that does nothing; its service account is its app's name. Annotations are written like
// key: value.
func (w *world) pod(ns, app, name, node string, annotations ...string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s}, annotations: {%s}}
spec:
  nodeName: %s
  serviceAccountName: %s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, infinity]}]
`, name, ns, app, strings.Join(annotations, ", "), node, app))
	w.eventually("pod "+name+" to run", func() error {
		pods, err := w.Get(w.ctx, "Pod", ns, name)
		if err == nil && (len(pods) != 1 || pods[0].Text("status", "phase") != "Running") {
			err = errors.New("not yet")
		}
		return err
	})
}

// service puts a virtual address before the pods of an app.
func (w *world) service(ns, app string, port, target int) (vip string) {
	w.Helper()
	w.apply(fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[2]s, namespace: %[1]s}
spec: {selector: {app: %[2]s}, ports: [{name: tcp, port: %[3]d, targetPort: %[4]d}]}
`, ns, app, port, target))
	svc, err := w.Get(w.soon(), "Service", ns, app)
	w.must(err)
	return net.JoinHostPort(svc[0].Text("spec", "clusterIP"), fmt.Sprint(port))
}

func (w *world) podIP(ns, name string) string {
	w.Helper()
	pods, err := w.Get(w.soon(), "Pod", ns, name)
	w.must(err)
	if len(pods) != 1 {
		w.Fatalf("pod %s/%s: %d of them", ns, name, len(pods))
	}
	return pods[0].Text("status", "podIP")
}

// enrol takes a namespace into the mesh and waits until every node knows that its pods take HBONE.
func (w *world) enrol(ns string) {
	w.Helper()
	w.must(w.Label(w.soon(), "Namespace", "", ns, map[string]string{"istio.io/dataplane-mode": "ambient"}))
	w.protocol(ns, "HBONE")
}

// protocol waits until all nodes see all running pods of a namespace with a protocol, and its services.
func (w *world) protocol(ns, protocol string) {
	w.Helper()
	pods, err := w.Get(w.soon(), "Pod", ns, "")
	w.must(err)
	services, err := w.Get(w.soon(), "Service", ns, "")
	w.must(err)
	for _, n := range w.Nodes {
		w.eventually(fmt.Sprintf("%s to see %s by %s", n.Name, ns, protocol), func() error {
			d, err := w.dump(n.Name)
			if err != nil {
				return err
			}
			seen := 0
			for _, wl := range d.Workloads {
				if wl.Namespace == ns && wl.Protocol == protocol && wl.Status == "Healthy" {
					seen++
				}
			}
			known := 0
			for _, svc := range d.Services {
				if svc.Namespace == ns {
					known++
				}
			}
			if seen != len(pods) || known < len(services) {
				return fmt.Errorf("%d of %d pods, %d of %d services", seen, len(pods), known, len(services))
			}
			return nil
		})
	}
}

// dump is what a story reads of a ztunnel's config_dump.
type dump struct {
	Workloads []struct {
		UID, Name, Namespace, Protocol, Status string
		AuthorizationPolicies                  []string
	}
	Policies []struct{ Name, Namespace string }
	Services []struct {
		Name, Namespace, Hostname string
		VIPs                      []string
		Waypoint                  *struct{ Destination string }
		Endpoints                 map[string]struct{ Status string }
	}
	Certificates []struct {
		Identity, State string
		CertChain       []struct{ PEM, SerialNumber, ValidFrom, ExpirationTime string }
		RootCerts       []struct{ PEM string }
	}
	WorkloadState map[string]struct {
		State       string
		Connections struct {
			Inbound, Outbound []struct{ Src, OriginalDst, ActualDst, Protocol string }
		}
		Info struct{ Name, Namespace string }
	}
}

func (w *world) dump(node string) (d dump, err error) {
	body, err := w.admin(node, "/config_dump")
	if err != nil {
		return d, err
	}
	return d, json.Unmarshal(body, &d)
}

func (w *world) admin(node, path string) ([]byte, error) {
	n, _ := w.Node(node)
	return getUnix(w.ctx, n.ZtunnelAdmin, path)
}

func getUnix(ctx context.Context, socket, path string) ([]byte, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// logged waits for a line of a node's ztunnel that contains all of the words.
func (w *world) logged(node string, words ...string) string {
	w.Helper()
	var found string
	w.eventually(fmt.Sprintf("a line of ztunnel on %s with %q", node, words), func() error {
		data, err := w.DaemonLog("ztunnel@" + node)
		if err != nil {
			return err
		}
	line:
		for line := range strings.Lines(string(data)) {
			for _, word := range words {
				if !strings.Contains(line, word) {
					continue line
				}
			}
			found = line
			return nil
		}
		return errors.New("none yet")
	})
	return found
}

// inside opens a socket in a pod.
func (w *world) inside(ns, pod string, open func() error) error {
	p, err := w.Pod(w.ctx, ns, pod)
	if err != nil {
		return err
	}
	return netspace.Do(p.Netns, open)
}

// dial connects from a pod.
func (w *world) dial(ns, pod, addr string) (net.Conn, error) {
	var c net.Conn
	err := w.inside(ns, pod, func() (err error) {
		c, err = net.DialTimeout("tcp", addr, 15*time.Second)
		return err
	})
	return c, err
}

// server answers each line with "<who> <address of the client> <line>" from a port inside a pod.
type server struct {
	who string
	l   net.Listener
	wg  sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu
}

func (w *world) serve(ns, pod string, port int) *server {
	w.Helper()
	s := &server{who: pod, conns: map[net.Conn]bool{}}
	w.must(w.inside(ns, pod, func() (err error) {
		s.l, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	}))
	s.wg.Go(s.accept)
	w.Cleanup(s.close)
	return s
}

func (s *server) close() {
	s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *server) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.wg.Go(func() {
			defer c.Close()
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			for sc := bufio.NewScanner(c); sc.Scan(); {
				if _, err := fmt.Fprintf(c, "%s %s %s\n", s.who, strings.TrimPrefix(host, "::ffff:"), sc.Text()); err != nil {
					break
				}
			}
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		})
	}
}

// say sends a line over a connection and returns the answer.
func say(c net.Conn, line string) (string, error) {
	if err := c.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(c, "%s\n", line); err != nil {
		return "", err
	}
	var b strings.Builder
	for one := make([]byte, 1); ; {
		if _, err := c.Read(one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return b.String(), nil
		}
		b.WriteByte(one[0])
	}
}

// call makes one connection from a pod, says a line, and returns the answer.
func (w *world) call(ns, pod, addr, line string) (string, error) {
	c, err := w.dial(ns, pod, addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return say(c, line)
}

// want calls and compares.
func (w *world) want(ns, pod, addr, answer string) {
	w.Helper()
	got, err := w.call(ns, pod, addr, "hi")
	if err != nil || got != answer+" hi" {
		w.Fatalf("%s/%s to %s: %q, %v; want %q", ns, pod, addr, got, err, answer+" hi")
	}
}

// refused wants a call to fail.
func (w *world) refused(ns, pod, addr string) {
	w.Helper()
	if got, err := w.call(ns, pod, addr, "hi"); err == nil {
		w.Fatalf("%s/%s to %s: answered %q, want a refusal", ns, pod, addr, got)
	}
}

// enrolled wants so many pods of a namespace to be captured and handed over.
func (w *world) enrolled(ns string, n int) error {
	pods, err := w.Get(w.ctx, "Pod", ns, "")
	if err != nil {
		return err
	}
	got := 0
	for _, p := range pods {
		if p.Text("metadata", "annotations", "ambient.istio.io/redirection") == "enabled" {
			got++
		}
	}
	if got != n {
		return fmt.Errorf("%d of %d pods", got, n)
	}
	return nil
}

// seesHBONE waits until one node reaches so many pods of a namespace by HBONE.
func (w *world) seesHBONE(node, ns string, n int) error {
	w.Helper()
	w.eventually(node+" to reach "+ns+" by HBONE", func() error {
		d, err := w.dump(node)
		if err != nil {
			return err
		}
		got := 0
		for _, wl := range d.Workloads {
			if wl.Namespace == ns && wl.Protocol == "HBONE" {
				got++
			}
		}
		if got != n {
			return fmt.Errorf("%d of %d pods", got, n)
		}
		return nil
	})
	return nil
}
