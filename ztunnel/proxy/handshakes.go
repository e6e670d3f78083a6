package proxy

import (
	"container/list"
	"fmt"
	"net"
	"sync"

	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// handshakes are the connections to port 15008 whose peers have not proven anything yet. Anybody can open such
// connections and stay silent, so they have a limit of their own, and when it is reached the oldest gives way: an honest
// handshake takes milliseconds.
type handshakes struct {
	mu   sync.Mutex
	open list.List // of *net.TCPConn, oldest first; guarded by mu
}

// begin adds a connection. The returned function takes it out again, and reports whether it was still there.
func (h *handshakes) begin(c *net.TCPConn, limit int) (end func() (stayed bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.open.Len() >= limit {
		// Closing it ends its handshake.
		abort(h.open.Remove(h.open.Front()).(*net.TCPConn))
	}
	own := h.open.PushBack(c)
	return func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		before := h.open.Len()
		h.open.Remove(own) // does nothing when it is out already
		return h.open.Len() < before
	}
}

// maxHandshakes leaves honest peers time even when strangers connect by the thousands.
func (pd *pod) maxHandshakes() int { return max(1, pd.proxy.cfg.MaxTunnels/5) }

func (pd *pod) gaveWay() error {
	return telemetry.Fail(telemetry.TLSFailed, fmt.Sprintf("TLS handshake gave way to newer ones: more than %d peers had not finished theirs", pd.maxHandshakes()), nil)
}
