package stories

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/lab/capture"
)

// TestJourney follows a namespace into the mesh and out again: plaintext, enrolment under an open connection, mutual TLS
// on the wire, the client's own address at the application, and back.
func TestJourney(t *testing.T) {
	w := start(t, options{})
	w.namespace("shop")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	vip := w.service("shop", "web", 80, 8080)
	w.serve("shop", "web", 8080)
	clientIP := w.podIP("shop", "client")

	// Before: plaintext on the wire.
	tap := w.watch("node1")
	w.want("shop", "client", vip, "web "+clientIP)
	if report := tap(); !report.Contains("web " + clientIP + " hi") {
		t.Errorf("the answer was not readable on the wire:\n%s", report)
	}
	open, err := w.dial("shop", "client", vip)
	w.must(err)
	defer open.Close()
	if _, err := say(open, "before"); err != nil {
		t.Fatal(err)
	}

	w.enrol("shop")
	// The connection from before lives on.
	if got, err := say(open, "after"); err != nil || !strings.HasSuffix(got, "after") {
		t.Errorf("the connection opened before enrolment: %q, %v", got, err)
	}

	// Inside: only TLS to 15008, and the application still sees the client's own address.
	tap = w.watch("node1")
	w.want("shop", "client", vip, "web "+clientIP)
	w.want("shop", "client", w.podIP("shop", "web")+":8080", "web "+clientIP)
	report := tap()
	if report.Contains(" hi") {
		t.Errorf("plaintext on the wire:\n%s", report)
	}
	tls := false
	for _, f := range report.Flows() {
		tls = tls || f.Server.Port() == 15008 && f.Kind == capture.TLS
	}
	if !tls {
		t.Errorf("no TLS to 15008 on the wire:\n%s", report)
	}
	const client, web = `spiffe://cluster.local/ns/shop/sa/client`, `spiffe://cluster.local/ns/shop/sa/web`
	w.logged("node1", "connection complete", `src.identity="`+client, `dst.identity="`+web, `direction="outbound"`)
	w.logged("node2", "connection complete", `src.identity="`+client, `dst.identity="`+web, `direction="inbound"`)

	// And out again, with a connection open.
	inside, err := w.dial("shop", "client", vip)
	w.must(err)
	defer inside.Close()
	w.must(w.Label(w.soon(), "Namespace", "", "shop", nil, "istio.io/dataplane-mode"))
	w.protocol("shop", "TCP")
	w.want("shop", "client", vip, "web "+clientIP)
}

// watch captures a node's link until the returned function is called.
func (w *world) watch(node string) func() *capture.Report {
	w.Helper()
	tap, err := w.Tap(node)
	w.must(err)
	report := &capture.Report{}
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	go func() { done <- tap.Record(ctx, report.Add) }()
	return sync.OnceValue(func() *capture.Report {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
		tap.Close()
		return report
	})
}
