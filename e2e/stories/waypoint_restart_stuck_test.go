package stories

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	api "github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
	"github.com/ambit-mesh/ambit/install/admin"
)

// agent asks the agent of a waypoint's pod by its admin socket, whatever the answer's status.
func (w *world) agent(pod, path string) (string, error) {
	pods, err := w.Get(w.ctx, "Pod", "shop", pod)
	if err != nil || len(pods) != 1 {
		return "", errors.Join(err, errNotYet)
	}
	socket := mesh.AdminSocket(w.Lab, pods[0].UID())
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return admin.DialUnix(ctx, socket) },
	}}
	resp, err := c.Get("http://agent" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestWaypointStartsAlone starts waypoint pods while the control plane or the CA is away: they are not ready and say what
// they wait for, those that were there go on serving, and all is well when the missing one is back.
func TestWaypointStartsAlone(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	for _, c := range []struct{ kind, says string }{
		{"control", "control plane (connect to the control plane at"},
		{"ca", "certificate (ask certificate authority"},
	} {
		s := w.storm("shop", "client", url)
		before := w.proxies("shop", "waypoint")
		w.must(w.Fail(w.soon(), lab.Fault{Kind: c.kind}))
		w.must(w.Restart(w.soon(), "Deployment", "shop", "waypoint"))
		w.eventually("a new pod to say what it waits for", func() error {
			for _, pod := range w.proxies("shop", "waypoint") {
				if pod == before[0] {
					continue
				}
				told, err := w.agent(pod, "/readyz")
				if err == nil && strings.HasPrefix(told, "not ready") && strings.Contains(told, c.says) {
					return nil
				}
				return errors.Join(err, fmt.Errorf("it says %q", told))
			}
			return errNotYet
		})
		if got := w.proxies("shop", "waypoint"); len(got) != 2 {
			t.Errorf("%s is away: the pods are %v", c.kind, got)
		}
		_, err := w.Heal(w.soon(), lab.Fault{Kind: c.kind})
		w.must(err)
		w.must(w.Settled(w.soon(), "Deployment", "shop", "waypoint", nil))
		w.gone("shop", before[0])
		w.recovered()
		w.unharmed(s)
	}
}

// expired writes a token of an account whose time is over, and returns where it is.
func (w *world) expired(account string) string {
	w.Helper()
	data, err := os.ReadFile(filepath.Join(w.Dir, "mesh", "token.key"))
	w.must(err)
	key, err := token.ParseSigner(data)
	w.must(err)
	raw, err := token.Mint(key, token.Claims{
		Namespace: "shop", ServiceAccount: account, Issuer: token.DefaultIssuer, Audiences: []string{api.TokenAudience},
		IssuedAt: time.Now().Add(-2 * time.Hour), Expiry: time.Now().Add(-time.Hour),
	})
	w.must(err)
	file := filepath.Join(w.Dir, account)
	w.must(os.WriteFile(file, []byte(raw), 0o644)) // the pod's user reads it
	return file
}

// TestWaypointStuck starts waypoints that cannot work, each for a reason that operators know from three in the morning:
// the Gateway's status, the pod's log or the agent's readiness names it.
func TestWaypointStuck(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient")
	const gateway, ready = "Gateway", "/readyz"
	cases := []struct{ name, env, where, says string }{
		{"no-envoy", "{name: AMBIT_ENVOY, value: /nowhere/envoy}", gateway, "/nowhere/envoy was named (--envoy or AMBIT_ENVOY): stat /nowhere/envoy: no such file"},
		{"other-envoy", "{name: AMBIT_ENVOY, value: /bin/true}", gateway, "/bin/true was named (--envoy or AMBIT_ENVOY) but does not say its version"},
		{"no-address", `{name: XDS_ADDRESS, value: "ftp://x"}`, gateway, `XDS_ADDRESS: "ftp://x" is no address: write https://HOST:PORT`},
		{"wrong-host", `{name: XDS_ADDRESS, value: "https://nowhere.ambit-system.svc:15012"}`, ready, "lookup nowhere.ambit-system.svc"},
		{"wrong-port", `{name: XDS_ADDRESS, value: "https://ambitd.ambit-system.svc:15999"}`, ready, "connect to the control plane at ambitd.ambit-system.svc:15999"},
		{"no-token", "{name: AUTH_TOKEN, value: /nowhere/token}", ready, "open /nowhere/token: no such file"},
		{"bad-token", "{name: AUTH_TOKEN, value: /etc/istio/pod/labels}", ready, "/etc/istio/pod/labels holds no token"},
		{"old-token", "{name: AUTH_TOKEN, value: /var/lib/old-token}", ready, "expired"},
		{"no-roots", "{name: XDS_ROOT_CA, value: /etc/istio/pod/labels}", ready, "/etc/istio/pod/labels (XDS_ROOT_CA) contains no certificate"},
		{"other-gateway", "{name: GATEWAY_NAME, value: somebody}", ready, "there is no Gateway shop/somebody"},
	}
	var all strings.Builder
	old := w.expired("old-token")
	for _, c := range cases {
		all.WriteString(strings.NewReplacer(
			"name: waypoint,", "name: "+c.name+",", "name: quick}", "name: with-"+c.name+"}", "name: quick,", "name: with-"+c.name+",",
			"- {name: AMBIT_DRAIN_WAIT", "- "+c.env+"\n            - {name: AMBIT_DRAIN_WAIT",
			"          containers:\n          - name: istio-proxy\n", `          volumes: [{name: old, hostPath: {path: "`+old+`"}}]
          containers:
          - name: istio-proxy
            volumeMounts: [{name: old, mountPath: /var/lib/old-token, readOnly: true}]
`).Replace(quickWaypoint))
	}
	w.apply(all.String())
	for _, c := range cases {
		w.eventually(c.name+" to say what it lacks", func() error {
			g, err := w.Get(w.ctx, "Gateway", "shop", c.name)
			if err != nil || len(g) != 1 {
				return errors.Join(err, errNotYet)
			}
			told := ""
			for _, cond := range conditions(g[0].At("status")) {
				if cond["type"] == "Programmed" && cond["status"] == "False" {
					told = fmt.Sprint(cond["message"])
				}
			}
			if !strings.Contains(told, c.name+"-") {
				return fmt.Errorf("the status names no pod: %q", told)
			}
			if c.where == ready {
				for _, pod := range w.proxies("shop", c.name) {
					told, err = w.agent(pod, ready)
				}
			}
			if !strings.Contains(told, c.says) {
				return errors.Join(err, fmt.Errorf("it says %q", told))
			}
			return nil
		})
	}
	if told := w.ambitctl("waypoint", "status", "-n", "shop", "--wait=false"); !strings.Contains(told, "no such file") {
		t.Errorf("ambitctl says\n%s", told)
	}
}
