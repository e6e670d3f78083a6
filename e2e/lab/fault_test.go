package lab

import (
	"strings"
	"testing"
	"time"
)

func TestDaemonsAndFaults(t *testing.T) {
	l := up(t, "fault", Spec{Nodes: 2})
	apply(t, l, webYAML)
	settled(t, l)
	ctx := limit(t, 60*time.Second)
	d := Daemon{Name: "z@node1", Kind: "ztunnel", Host: "node1", Args: []string{"testapp", "serve", "9000", "z"},
		Env: []string{"AMBIT_TEST_LAB=" + l.Name}, Ready: "http://127.0.0.1:9000/"}
	if err := l.Run(ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := l.DaemonsReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
	first := daemonPid(t, l)
	if err := l.Fail(ctx, Fault{Kind: "ztunnel", Host: "node1", Restart: true}); err != nil {
		t.Fatal(err)
	}
	for daemonPid(t, l) == first || daemonPid(t, l) == 0 {
		if err := l.poll(ctx, "daemon to be started again"); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Fail(ctx, Fault{Kind: "node", Host: "node1"}); err != nil {
		t.Fatal(err)
	}
	before := podNames(t, l)
	// Everything on the node is dead, and stays in its place, since the node may come back.
	for daemonPid(t, l) != 0 || phase(t, l, "client") != "Pending" {
		if err := l.poll(ctx, "node to be dead"); err != nil {
			t.Fatal(err)
		}
	}
	if healed, err := l.Heal(ctx, Fault{}); err != nil || len(healed) != 1 {
		t.Fatalf("heal: %v %v", healed, err)
	}
	settled(t, l)
	if err := l.DaemonsReady(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if after := podNames(t, l); after != before {
		t.Errorf("pods were %s before and are %s after", before, after)
	}
	if got := get(t, l, "client", "http://web/"); !strings.Contains(got, "v1") {
		t.Errorf("after the node came back: %q", got)
	}
	cutLink(t, l)
	if err := l.Fail(ctx, Fault{Kind: "ztunnel", Host: "node2"}); err == nil {
		t.Error("a daemon that is not there was broken")
	}
	if err := l.Stop(ctx, "z@node1"); err != nil {
		t.Error(err)
	}
}

// cutLink partitions the client's node: the Service has an endpoint on each node, so some requests fail, and after the
// link is healed none.
func cutLink(t *testing.T, l *Lab) {
	t.Helper()
	ctx := limit(t, 30*time.Second)
	if err := l.Fail(ctx, Fault{Kind: "link", Host: "node1"}); err != nil {
		t.Fatal(err)
	}
	// The name server is on the other side.
	if out, err := l.Output(ctx, "default", "client", "testapp", "get", "http://web/"); err == nil {
		t.Errorf("across a cut link: %q", out)
	}
	if _, err := l.Heal(ctx, Fault{Kind: "link"}); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if got := get(t, l, "client", "http://web/"); !strings.Contains(got, "v1") {
			t.Errorf("after the link was healed: %q", got)
		}
	}
}

func podNames(t *testing.T, l *Lab) string {
	t.Helper()
	pods, err := l.Get(t.Context(), "pod", "default", "")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range pods {
		names = append(names, p.Name())
	}
	return strings.Join(names, " ")
}

func phase(t *testing.T, l *Lab, pod string) string {
	t.Helper()
	pods, err := l.Get(t.Context(), "pod", "default", pod)
	if err != nil || len(pods) != 1 {
		t.Fatalf("%v %v", pods, err)
	}
	return pods[0].Text("status", "phase")
}

func daemonPid(t *testing.T, l *Lab) int {
	t.Helper()
	st, err := l.Status(t.Context())
	if err != nil || len(st.Daemons) != 1 {
		t.Fatalf("%+v %v", st, err)
	}
	return st.Daemons[0].Pid
}
