package telemetry

import (
	"log/slog"
	"net/netip"
	"strconv"
	"time"

	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/state"
)

// accessTarget is the target of access-log lines.
const accessTarget = "access"

// accessLog writes the lines about connections. A nil Logs writes nothing.
type accessLog struct {
	logs   *Logs
	limits *limiter
}

func (a accessLog) wants(level slog.Level) bool {
	return a.logs != nil && a.logs.levels.Enabled(accessTarget, level)
}

func (a accessLog) opened(c *Connection) {
	if !a.wants(slog.LevelDebug) {
		return
	}
	n := a.logs.begin(slog.LevelDebug, accessTarget, "connection opened")
	n.ends(&c.info)
	a.logs.end(n)
}

func (a accessLog) complete(c *Connection, err error) {
	level := slog.LevelInfo
	if err != nil {
		level = slog.LevelError
	}
	if !a.wants(level) {
		return
	}
	n := a.logs.begin(level, accessTarget, "connection complete")
	n.ends(&c.info)
	// Bytes are told from the pod's point of view, other than in the metrics: what it sent and what it received.
	sent, received := c.Bytes()
	if c.info.Direction == Inbound {
		sent, received = received, sent
	}
	n.number("bytes_sent", sent)
	n.number("bytes_recv", received)
	n.duration(time.Since(c.opened))
	if err != nil {
		n.failure(err)
	}
	a.logs.end(n)
}

func (a accessLog) refused(info *ConnInfo, err error) {
	if n := a.warning("connection failed", info, ReasonOf(err)); n != nil {
		n.failure(err)
		a.logs.end(n)
	}
}

func (a accessLog) tolerated(info *ConnInfo, text string) {
	if n := a.warning("connection goes around a waypoint", info, WaypointRequired); n != nil {
		n.quoted("because", text)
		n.quoted("reason", WaypointRequired.String())
		a.logs.end(n)
	}
}

// ends writes the fields both ends of a connection have, in the order of istio/ztunnel src/proxy/metrics.rs. A field
// without a value is left out.
func (n *line) ends(info *ConnInfo) {
	source, dest := (*Peer)(nil), info.Peer
	if info.Direction == Inbound {
		source, dest = dest, source
	}
	n.addr("src.addr", info.Src)
	n.end("src.", info.Source, source, info.SourceID)
	if info.ClientIP.IsValid() {
		n.quoted("src.client.addr", info.ClientIP.Unmap().String())
	}
	if !info.ClientID.IsZero() {
		n.quoted("src.client.identity", info.ClientID.String())
	}
	n.addr("dst.addr", info.Dst)
	if info.HBONEAddr != "" {
		n.bare("dst.hbone_addr", info.HBONEAddr)
	}
	if info.Service != nil {
		n.quoted("dst.service", info.Service.Hostname)
	}
	n.end("dst.", info.Destination, dest, info.DestID)
	n.quoted("direction", info.Direction.String())
}

func (n *line) addr(k string, a netip.AddrPort) {
	if !a.IsValid() {
		return
	}
	n.key(k)
	if n.json {
		n.buf = append(n.buf, '"')
	}
	n.buf = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).AppendTo(n.buf)
	if n.json {
		n.buf = append(n.buf, '"')
	}
}

func (n *line) end(prefix string, w *state.Workload, p *Peer, id identity.ID) {
	var name, namespace, cluster string
	switch {
	case w != nil:
		name, namespace, cluster = w.Name, w.Namespace, w.ClusterID
	case p != nil:
		name, namespace, cluster = p.Workload, p.Namespace, p.Cluster
	}
	n.known(prefix, "workload", name)
	n.known(prefix, "namespace", namespace)
	if !id.IsZero() {
		n.known(prefix, "identity", id.String())
	}
	n.known(prefix, "cluster", cluster)
}

func (n *line) known(prefix, k, v string) {
	if v != "" {
		n.quoted(prefix+k, v)
	}
}

// duration writes whole milliseconds, as "12ms".
func (n *line) duration(d time.Duration) {
	n.key("duration")
	n.buf = append(n.buf, '"')
	n.buf = strconv.AppendInt(n.buf, d.Milliseconds(), 10)
	n.buf = append(n.buf, 'm', 's', '"')
}

// failure writes the text of an error; the reason's code stands next to it, for whoever searches.
func (n *line) failure(err error) {
	n.quoted("error", err.Error())
	n.quoted("reason", ReasonOf(err).String())
}
