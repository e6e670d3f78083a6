package envoytest

import (
	"maps"
	"time"
)

// Provoke is TryApply for worlds that have something Envoy alone can find wrong. It returns what Envoy said, by type, and
// forgets it: Envoy keeps what it had.
func (p *Proxy) Provoke(w *World) map[string]string {
	p.t.Helper()
	p.control.apply(p.t, w.Env(p.Options))
	quiet := 0
	for end := time.Now().Add(patience); time.Now().Before(end) && quiet < 5; time.Sleep(10 * time.Millisecond) {
		if quiet++; p.control.pending() {
			quiet = 0
		}
	}
	p.control.mu.Lock()
	defer p.control.mu.Unlock()
	said := maps.Clone(p.control.refused)
	clear(p.control.refused)
	return said
}
