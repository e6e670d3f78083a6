package hbone

import "time"

// floodMeter counts frames that cost us work without carrying anything: PING, SETTINGS, empty DATA, resets of young
// streams. A peer that sends them faster than any honest one would is cut off with ENHANCE_YOUR_CALM.
// RFC 9113 §10.5; CVE-2019-9512, -9515, -9518 and CVE-2023-44487 are this abuse.
type floodMeter struct {
	tokens float64
	last   time.Time
}

const (
	floodBurst = 10_000
	floodRate  = 1_000 // per second
)

// spend takes n tokens and reports whether there were enough.
func (m *floodMeter) spend(n float64) bool {
	now := time.Now()
	if m.last.IsZero() {
		m.tokens = floodBurst
	} else {
		m.tokens = min(floodBurst, m.tokens+floodRate*now.Sub(m.last).Seconds())
	}
	m.last = now
	m.tokens -= n
	return m.tokens >= 0
}
