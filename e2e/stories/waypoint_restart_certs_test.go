package stories

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/lab"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// envoyCerts are the serial number of the certificate that a waypoint's Envoy uses, and how many roots it trusts.
func (w *world) envoyCerts(pod string) (serial string, roots int, err error) {
	body, err := w.agent(pod, "/certs")
	if err != nil {
		return "", 0, err
	}
	var out struct {
		Certificates []struct {
			CA    []any `json:"ca_cert"`
			Chain []struct {
				Serial string `json:"serial_number"`
			} `json:"cert_chain"`
		}
	}
	if err := json.Unmarshal([]byte(body), &out); err != nil {
		return "", 0, fmt.Errorf("%w in %q", err, body)
	}
	for _, c := range out.Certificates {
		roots = max(roots, len(c.CA))
		if len(c.Chain) > 0 {
			serial = c.Chain[0].Serial
		}
	}
	if serial == "" {
		err = errNotYet
	}
	return serial, roots, err
}

// TestWaypointCertificates renews certificates every few seconds, changes the root, and takes the CA away for a while, with
// connections open and new ones coming: nothing fails.
func TestWaypointCertificates(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2, mesh: mesh.Options{ZtunnelEnv: []string{"SECRET_TTL=" + secretTTL.String()}}})
	url := w.shop(1, "SECRET_TTL="+secretTTL.String())
	pod := w.proxies("shop", "waypoint")[0]
	s := w.storm("shop", "client", url)
	serial, roots, err := w.envoyCerts(pod)
	w.must(err)
	renewed := func(want int) {
		t.Helper()
		w.eventually("Envoy to have another certificate", func() error {
			now, n, err := w.envoyCerts(pod)
			if err == nil && (now == serial || n < want) {
				err = fmt.Errorf("serial %s, %d roots", now, n)
			}
			if err == nil {
				serial = now
			}
			return err
		})
	}
	w.must(w.rotate())
	renewed(roots + 1)
	// What was signed by the old root is renewed, and peers of both kinds meet meanwhile.
	renewed(roots + 1)
	w.must(w.Fail(w.soon(), lab.Fault{Kind: "ca"}))
	w.eventually("a renewal to fail", func() error {
		told, err := w.agent(pod, "/metrics")
		if err == nil && strings.Contains(told, `ambit_ca_client_requests_total{result="error"} 0`) {
			err = errNotYet
		}
		return err
	})
	_, err = w.Heal(w.soon(), lab.Fault{Kind: "ca"})
	w.must(err)
	renewed(1)
	w.unharmed(s)
}
