package telemetry

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// Direction is which end of a connection this proxy stands at.
type Direction uint8

const (
	// Outbound: the pod of this proxy opened the connection; the reporter is the source.
	Outbound Direction = iota
	// Inbound: the pod of this proxy accepts it; the reporter is the destination.
	Inbound
)

// String returns "outbound" or "inbound".
func (d Direction) String() string {
	if d == Inbound {
		return "inbound"
	}
	return "outbound"
}

// ConnInfo is what is known of a connection when it opens. Nil pointers and zero values are things not known.
type ConnInfo struct {
	Direction Direction
	// Src and Dst are the ends of the TCP connection: the client, and the socket address that is dialed.
	Src, Dst netip.AddrPort
	// HBONEAddr is what the tunnel was asked for, empty without one.
	HBONEAddr           string
	Source, Destination *state.Workload
	SourceID, DestID    identity.ID // proven by mutual TLS; zero without it
	// ClientID and ClientIP are of the client that Source, a waypoint, speaks for.
	ClientID  identity.ID
	ClientIP  netip.Addr
	Service   *state.Service
	MutualTLS bool
	// Since is when the connection was accepted; zero means when it is opened.
	Since time.Time
	// Peer fills in for Source (inbound) or Destination (outbound) where no workload is known but the peer described itself
	// in baggage.
	Peer *Peer
}

// Peer is how a peer on another network describes itself.
type Peer struct {
	Workload, Namespace, CanonicalName, CanonicalRevision, Cluster, Region, Zone string
}

// Connection follows one connection from open to end. Its methods may be called from several goroutines.
type Connection struct {
	rec      *Recorder
	info     ConnInfo
	series   *series
	opened   time.Time
	request  atomic.Int64
	response atomic.Int64
	closed   atomic.Bool
}

// Open counts a new connection and returns what follows it. Close must be called.
func (r *Recorder) Open(info ConnInfo) *Connection {
	c := &Connection{rec: r, info: info, opened: info.Since}
	if c.opened.IsZero() {
		c.opened = time.Now()
	}
	c.series = r.traffic.acquire(labelsOf(&info, "-"))
	c.series.opened.Add(1)
	r.log.opened(c)
	return c
}

// Info returns what the connection was opened with.
func (c *Connection) Info() ConnInfo { return c.info }

// AddRequest counts bytes that went from the client to the server.
func (c *Connection) AddRequest(n int64) {
	c.request.Add(n)
	c.series.received.Add(n)
}

// AddResponse counts bytes that went from the server to the client.
func (c *Connection) AddResponse(n int64) {
	c.response.Add(n)
	c.series.sent.Add(n)
}

// Bytes returns what has been counted so far in each direction.
func (c *Connection) Bytes() (request, response int64) { return c.request.Load(), c.response.Load() }

// Duration returns how long the connection has been open.
func (c *Connection) Duration() time.Duration { return time.Since(c.opened) }

// Close ends the connection: it writes the access-log line and counts the end, and the failure if err is one. Only the
// first call counts.
func (c *Connection) Close(err error) {
	if !c.closed.CompareAndSwap(false, true) {
		return
	}
	if reason := ReasonOf(err); reason.Flags() == "-" {
		c.series.closed.Add(1)
	} else {
		// The flags are known only now, so that a failed connection was opened in one series and is closed in another.
		// istio/ztunnel src/proxy/metrics.rs record_internal.
		s := c.rec.traffic.acquire(labelsOf(&c.info, reason.Flags()))
		s.closed.Add(1)
		s.failed.Add(1)
		c.rec.traffic.release(s)
	}
	c.rec.traffic.release(c.series)
	c.rec.log.complete(c, err)
}

// Refused records a connection that ended before it was known what it was: one that could not be read or had nowhere to go.
// It is one short log line, and one failure in the metrics. From the moment source and destination are known, Failed is
// the one to call.
func (r *Recorder) Refused(info ConnInfo, err error) {
	s := r.traffic.acquire(labelsOf(&info, ReasonOf(err).Flags()))
	s.failed.Add(1)
	r.traffic.release(s)
	r.log.refused(&info, err)
}

// Bypassed counts a connection that did not come through the waypoint it should have come through, refused or not.
func (r *Recorder) Bypassed(gateway, service string, open bool) {
	outcome := "refused"
	if open {
		outcome = "open"
	}
	r.bypassed.WithLabelValues(gateway, service, outcome).Inc()
}

// Tolerated logs a connection that is carried though it went around a waypoint.
func (r *Recorder) Tolerated(info ConnInfo, text string) { r.log.tolerated(&info, text) }

// Failed records a connection that ended before it carried anything though it was known what it was: one that policy
// denied, or whose destination could not be reached. It counts as opened and closed, and has a full line in the log.
func (r *Recorder) Failed(info ConnInfo, err error) { r.Open(info).Close(err) }
