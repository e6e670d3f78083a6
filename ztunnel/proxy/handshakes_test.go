package proxy

import (
	"net"
	"testing"
)

// Whoever can reach port 15008 can open connections there and say nothing. That must not keep peers out that can prove
// who they are.
func TestSilentStrangersDoNotKeepPeersOut(t *testing.T) {
	w := start(t, cartWorld(t), func(c *Config) { c.MaxTunnels = 20 })
	a := w.listen("10.0.0.1:8080")
	var silent []net.Conn
	for range 40 {
		silent = append(silent, w.dial("10.0.0.66", "10.0.0.1:15008"))
	}
	s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a.next(t)
	// The first to come gave way.
	if _, err := silent[0].Read(make([]byte, 1)); err == nil {
		t.Error("a stranger was answered")
	}
	w.logged(`src.addr=10.0.0.66:`, `reason="tls-failed"`, "handshake")
}

// Peers that are through are not in anybody's way.
func TestTunnelsAreBounded(t *testing.T) {
	w := start(t, cartWorld(t), func(c *Config) { c.MaxTunnels = 2 })
	w.listen("10.0.0.1:8080")
	for range 2 {
		s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	third := w.dial("10.0.0.9", "10.0.0.1:15008")
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third tunnel was taken")
	}
}
