package stories

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab"
)

// TestWaypointBadNetwork loses every twentieth packet on the way from node to node and to the control plane: requests and
// changes are slow, and nothing fails. Then the control plane's cable is pulled: everything goes on, and what changed meanwhile is in
// force when it is back.
func TestWaypointBadNetwork(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	// Where packets come seconds late, an application that ends must wait longer for the last requests that were sent to it.
	w.apply(strings.Replace(shopDeployment("v1", 2), "sleep: {seconds: 1}", "sleep: {seconds: 4}", 1))
	w.must(w.Settled(w.soon(), "Deployment", "shop", "web-v1", nil))
	w.synced()
	for _, host := range []string{"node1", "node2", lab.ControlHost} {
		// What goes from pod to pod passes two hosts.
		w.must(w.In(w.ctx, host, func() error { return lose(40) }))
	}
	s := w.storm("shop", "client", url)
	for i := range 3 {
		w.now(churnHTTPRoute(fmt.Sprint(i)))
		if a := w.status("shop", "client", "GET "+url, http.StatusOK); a.Back.Get("Step") != fmt.Sprint(i) {
			t.Errorf("step %d is answered by %q", i, a.Back.Get("Step"))
		}
	}
	w.must(w.Restart(w.soon(), "Deployment", "shop", "web-v1"))
	w.must(w.Settled(w.soon(), "Deployment", "shop", "web-v1", nil))

	link := lab.Fault{Kind: "link", Host: lab.ControlHost}
	w.must(w.Fail(w.soon(), link))
	w.apply(churnHTTPRoute("while it was away"))
	down := time.Now()
	w.eventually("a second without control plane", func() error {
		if a := w.status("shop", "client", "GET "+url, http.StatusOK); a.Back.Get("Step") != "2" {
			t.Errorf("without control plane, it is answered by %q", a.Back.Get("Step"))
		}
		if time.Since(down) < time.Second {
			return errNotYet
		}
		return nil
	})
	_, err := w.Heal(w.soon(), link)
	w.must(err)
	w.eventually("the change to be in force", func() error {
		a, err := w.fetch("shop", "client", "GET "+url)
		if err == nil && a.Back.Get("Step") != "while it was away" {
			err = errNotYet
		}
		return err
	})
	w.unharmed(s)
}
