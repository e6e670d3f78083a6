package proxy

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/ztunnel/inpod"
	"github.com/ambit-mesh/ambit/ztunnel/route"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// ownUID stands for the uid an agent would use.
const ownUID = "own"

// StartOwn accepts HBONE for the proxy's own pod, so that a scraper in the mesh gets at its metrics over mutual TLS: with the
// proxy's identity, under the policies of its pod, and to the metrics port alone. The namespace is the proxy's afterwards.
// Istio ambient wire contract, own metrics.
func (p *Proxy) StartOwn(ctx context.Context, info inpod.Info, ns *inpod.Netns, metrics uint16) error {
	pd := newPod(p, inpod.Pod{UID: ownUID, Info: info, Netns: ns})
	pd.only = metrics
	if err := pd.listen(ctx); err != nil {
		pd.closeListeners()
		return fmt.Errorf("own metrics over HBONE: %w", err)
	}
	return p.begin(pd)
}

// own reports whether this is the proxy's own pod. It is nobody's client here, and its certificate is asked for when the first
// scraper calls.
func (pd *pod) own() bool { return pd.only != 0 }

// admits keeps everything but the metrics of the proxy's own pod out of reach.
func (pd *pod) admits(d route.InboundDecision) error {
	if !pd.own() || d.Addr.Port() == pd.only {
		return nil
	}
	text := fmt.Sprintf("%s: of this proxy's own pod only port %d can be reached", d.Addr, pd.only)
	return telemetry.Fail(telemetry.WrongDestination, text, nil)
}

// source is the address the application sees. In the proxy's own namespace nothing would bring replies to others back.
func (pd *pod) source(client netip.Addr) netip.Addr {
	if pd.own() {
		return netip.Addr{}
	}
	return client
}
