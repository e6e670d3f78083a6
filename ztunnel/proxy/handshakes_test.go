package proxy

import "testing"

// Whoever can reach port 15008 can open connections there and say nothing. That must not keep peers out that can prove
// who they are.
func TestSilentStrangersDoNotKeepPeersOut(t *testing.T) {
	w := start(t, cartWorld(t), func(c *Config) { c.MaxTunnels = 20 })
	a := w.listen("10.0.0.1:8080")
	// All have been looked at once all but four are gone; before, one of them could still push the peer out.
	const strangers = 40
	gone := make(chan error, strangers)
	for range strangers {
		c, err := w.tryDial("10.0.0.66", "10.0.0.1:15008")
		if err != nil {
			gone <- err
			continue
		}
		go func() {
			_, err := c.Read(make([]byte, 1))
			gone <- err
		}()
	}
	for range strangers - 20/5 {
		if err := <-gone; err == nil {
			t.Error("a stranger was answered")
		}
	}
	s, err := w.open(w.tunnel("10.0.0.9", "shop", "web-sa"), "10.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a.next(t)
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
	third, err := w.tryDial("10.0.0.9", "10.0.0.1:15008")
	if err != nil {
		return // refused before it could say anything
	}
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third tunnel was taken")
	}
}
