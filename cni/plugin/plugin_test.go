package plugin

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// agent answers on pluginevent.sock and remembers what it was asked.
type agent struct {
	dir   string
	asked []string
	code  int
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{dir: t.TempDir(), code: http.StatusOK}
	ln, err := net.Listen("unix", filepath.Join(a.dir, "pluginevent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.asked = append(a.asked, r.Method+" "+r.URL.Path+" "+string(body))
		switch {
		case r.URL.Path == CheckPath:
			fmt.Fprintf(w, `{"Eligible":%v,"Captured":%v}`, strings.Contains(string(body), `"in`), strings.Contains(string(body), `"in"`))
		case a.code != http.StatusOK:
			http.Error(w, "no ztunnel here", a.code)
		}
	}))
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	return a
}

// call runs the plugin as a runtime does.
func call(t *testing.T, command, conf, args string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	c := Call{In: strings.NewReader(conf), Out: &out, Log: &Log{}, Env: func(name string) string {
		return map[string]string{"CNI_COMMAND": command, "CNI_ARGS": args, "CNI_NETNS": "/var/run/netns/x"}[name]
	}}
	err := c.Run(t.Context())
	return strings.TrimSpace(out.String()), err
}

const result = `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1","interface":0},{"address":"fd00::5/64"}],"dns":{}}`

func podArgs(namespace, name string) string {
	return "IgnoreUnknown=1;K8S_POD_NAMESPACE=" + namespace + ";K8S_POD_NAME=" + name + ";K8S_POD_INFRA_CONTAINER_ID=c"
}

func TestAdd(t *testing.T) {
	a := newAgent(t)
	conf := func(extra string) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","name":"x","type":"istio-cni","cni_agent_run_dir":%q,"exclude_namespaces":["kube-system"],"pod_namespace":"ambit-system","prevResult":%s%s}`, a.dir, result, extra)
	}
	const add = `POST /cmdadd {"Netns":"/var/run/netns/x","PodName":"in","PodNamespace":"shop","IPs":[` +
		`{"Interface":0,"Address":{"IP":"10.0.0.5","Mask":"////AA=="},"Gateway":"10.0.0.1"},` +
		`{"Interface":null,"Address":{"IP":"fd00::5","Mask":"//////////8AAAAAAAAAAA=="},"Gateway":""}]}`
	for _, c := range []struct {
		name, conf, args string
		asked            int
	}{
		{"a pod of the mesh", conf(""), podArgs("shop", "in"), 2},
		{"a pod outside", conf(""), podArgs("shop", "out"), 1},
		{"an excluded namespace", conf(""), podArgs("kube-system", "in"), 0},
		{"the agent itself", conf(""), podArgs("ambit-system", "istio-cni-node-x7"), 0},
		{"not from Kubernetes", conf(""), "", 0},
		{"ambient switched off", conf(`,"ambient_enabled":false`), podArgs("shop", "in"), 0},
	} {
		a.asked = nil
		out, err := call(t, "ADD", c.conf, c.args)
		if err != nil || out != result {
			t.Errorf("%s: %v, printed %s", c.name, err, out)
		}
		if len(a.asked) != c.asked || (c.asked == 2 && a.asked[1] != add) {
			t.Errorf("%s: asked %q", c.name, a.asked)
		}
	}
	a.code = http.StatusInternalServerError
	out, err := call(t, "ADD", conf(""), podArgs("shop", "in"))
	if err == nil || !strings.Contains(out, "no ztunnel here") || !json.Valid([]byte(out)) {
		t.Errorf("agent refuses: %v, printed %s", err, out)
	}
	if _, err := call(t, "ADD", strings.ReplaceAll(conf(""), a.dir, "/nowhere"), podArgs("shop", "in")); err == nil || !strings.Contains(err.Error(), "pod shop/in waits") || !strings.Contains(err.Error(), "does not answer on this node") {
		t.Errorf("agent away: %v", err)
	}
}

func TestOtherCommands(t *testing.T) {
	conf := `{"cniVersion":"0.3.1","prevResult":null}`
	for _, command := range []string{"DEL", "CHECK", "STATUS", "GC"} {
		if out, err := call(t, command, conf, podArgs("shop", "in")); err != nil || out != "" {
			t.Errorf("%s: %v %s", command, err, out)
		}
	}
	a := newAgent(t)
	checked := fmt.Sprintf(`{"cniVersion":"1.0.0","cni_agent_run_dir":%q,"prevResult":%s}`, a.dir, result)
	for name, want := range map[string]string{"in": "", "out": "", "in-but-lost": "is not captured"} {
		if out, err := call(t, "CHECK", checked, podArgs("shop", name)); (err == nil) != (want == "") || !strings.Contains(out, want) {
			t.Errorf("CHECK of %s: %v %s", name, err, out)
		}
	}
	if out, err := call(t, "VERSION", "", ""); err != nil || !strings.Contains(out, `"1.1.0"`) {
		t.Errorf("VERSION: %v %s", err, out)
	}
	if out, err := call(t, "ADD", conf, ""); err != nil || out != `{"cniVersion":"0.3.1"}` {
		t.Errorf("first plugin of a chain: %v %s", err, out)
	}
	for want, c := range map[string][2]string{
		`"code":4`: {"MOVE", conf}, `"code":6`: {"ADD", "{"}, `"code":1`: {"ADD", `{"cniVersion":"9"}`},
	} {
		if out, err := call(t, c[0], c[1], ""); err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v %s, want %s", c, err, out, want)
		}
	}
}

// With an API server to ask, pods outside of the mesh start although there is no agent.
func TestAsksTheAPIServer(t *testing.T) {
	asked := 0
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "who?", http.StatusUnauthorized)
			return
		}
		switch r.URL.Path {
		case "/api/v1/namespaces/shop":
			fmt.Fprint(w, `{"metadata":{"labels":{"istio.io/dataplane-mode":"ambient"}}}`)
		case "/api/v1/namespaces/shop/pods/in":
			fmt.Fprint(w, `{"metadata":{"uid":"u"},"spec":{}}`)
		case "/api/v1/namespaces/shop/pods/out":
			fmt.Fprint(w, `{"metadata":{"labels":{"istio.io/dataplane-mode":"none"}}}`)
		default:
			http.NotFound(w, r)
		}
	}))
	defer api.Close()
	a := newAgent(t)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	config := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster: {server: %q, certificate-authority-data: %q}\nusers:\n- name: cni\n  user: {token: secret}\n", api.URL, ca)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := func(dir, config string) string {
		return fmt.Sprintf(`{"cniVersion":"1.0.0","cni_agent_run_dir":%q,"kubernetes":{"kubeconfig":%q}}`, dir, config)
	}
	if _, err := call(t, "ADD", conf(a.dir, config), podArgs("shop", "in")); err != nil || len(a.asked) != 2 || asked != 0 {
		t.Errorf("with an agent: %v, agent asked %q, API server %d times", err, a.asked, asked)
	}
	// While the agent is replaced a pod of the mesh waits a little.
	coming := t.TempDir()
	go func() {
		time.Sleep(200 * time.Millisecond) // the plugin has asked in vain by then
		_ = os.Symlink(filepath.Join(a.dir, "pluginevent.sock"), filepath.Join(coming, "pluginevent.sock"))
	}()
	if out, err := call(t, "ADD", conf(coming, config), podArgs("shop", "in")); err != nil || len(a.asked) != 3 {
		t.Errorf("an agent that comes: %v %s %q", err, out, a.asked)
	}
	asked = 0
	away := t.TempDir()
	if out, err := call(t, "ADD", conf(away, config), podArgs("shop", "out")); err != nil || asked != 2 {
		t.Errorf("outside, agent away: %v %s", err, out)
	}
	for what, c := range map[string]struct{ pod, config, want string }{
		"inside":              {"in", config, "pod shop/in waits to be captured, because it belongs to the mesh (namespace shop is labelled istio.io/dataplane-mode=ambient)"},
		"unknown":             {"who", config, "404"},
		"API server away too": {"out", "/nowhere", "nobody can say"},
	} {
		out, err := call(t, "ADD", conf(away, c.config), podArgs("shop", c.pod))
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s, agent away: %v %s", what, err, out)
		}
	}
	// But the mesh itself has to start, or nobody would ever answer again.
	own := strings.Replace(conf(away, "/nowhere"), "{", `{"pod_namespace":"mesh",`, 1)
	if out, err := call(t, "ADD", own, podArgs("mesh", "ambitd-1")); err != nil {
		t.Errorf("a part of the mesh, nobody can be asked: %v %s", err, out)
	}
	if out, err := call(t, "ADD", own, podArgs("shop", "out")); err == nil {
		t.Errorf("another pod, nobody can be asked: %s", out)
	}
}

func TestLog(t *testing.T) {
	dir := t.TempDir()
	var l Log
	l.SetLevel("debug")
	l.Logger().Debug("hello", "pod", "shop/in")
	for range 2 {
		_ = l.Deliver(t.Context(), dir) // nobody listens at log.sock
	}
	b, err := os.ReadFile(filepath.Join(dir, "istio-cni.log"))
	if err != nil || strings.Count(string(b), `"pod":"shop/in"`) != 2 {
		t.Errorf("%v %s", err, b)
	}
}

func FuzzResult(f *testing.F) {
	f.Add([]byte(result))
	f.Add([]byte(`{"ips":[{"address":"10.0.0.5"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		ips, err := addresses(b)
		if err != nil {
			return
		}
		for _, ip := range ips {
			if len(ip.Address.IP) != len(ip.Address.Mask) {
				t.Fatalf("address %v has a mask of another length", ip.Address)
			}
		}
	})
}

// TestDelNeedsNobody: pods that were started with the mesh end after it has left the node, of which nothing is there but the program.
func TestDelNeedsNobody(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	for _, command := range []string{"DEL", "GC"} {
		conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"n","type":"ambit-cni","cni_agent_run_dir":%q,"kubernetes":{"kubeconfig":%q}}`, gone, gone+"/kubeconfig")
		if out, err := call(t, command, conf, "K8S_POD_NAME=in;K8S_POD_NAMESPACE=shop"); err != nil || out != "" {
			t.Errorf("%s: %v %s", command, err, out)
		}
	}
}
