package daemon

import (
	"context"
	"time"

	"github.com/ambit-mesh/ambit/ca/certs"
)

// revocationCheck is how often the list is looked at, and so how late a revocation may take effect.
const revocationCheck = 5 * time.Second

func (z *ztunnel) tlsPolicy() certs.Policy {
	p := certs.Policy{
		PostQuantum: z.cfg.CompliancePolicy == "pqc", FIPS: z.cfg.CompliancePolicy == "fips", TLS12: z.cfg.TLS12,
	}
	if z.revoked != nil {
		p.Revoked = z.revoked.Revoked
	}
	return p
}

// followRevocations applies a changed list to tunnels that are open.
func (z *ztunnel) followRevocations(ctx context.Context) error {
	if z.revoked == nil {
		return nil
	}
	tick := time.NewTicker(revocationCheck)
	defer tick.Stop()
	for {
		changed, err := z.revoked.Refresh()
		if err != nil {
			z.log.Error("revocation list not read, the last good one stays", "error", err)
		}
		if changed {
			z.proxy.Revoke(z.revoked.Revoked)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
