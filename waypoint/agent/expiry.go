package agent

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// outOfDate lists certificates that are served though no client takes them any more, or yet. Envoy does not mind, so that
// nobody else would say so.
func outOfDate(secrets []*waypoint.Secret, now time.Time) []Problem {
	var out []Problem
	for _, s := range secrets {
		block, _ := pem.Decode(s.GetCertificateChain())
		if block == nil {
			continue // refused with the listener
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		text := ""
		switch {
		case now.After(leaf.NotAfter):
			text = fmt.Sprintf("its certificate expired at %s: clients refuse it, renew it", leaf.NotAfter.UTC().Format(time.RFC3339))
		case now.Before(leaf.NotBefore):
			text = fmt.Sprintf("its certificate is not valid before %s: clients refuse it until then", leaf.NotBefore.UTC().Format(time.RFC3339))
		default:
			continue
		}
		out = append(out, Problem{Source: "expiry", Objects: []string{"Secret " + s.GetNamespace() + "/" + s.GetName()}, Text: text})
	}
	return out
}
