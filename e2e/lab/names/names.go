// Package names is the lab's name server: Services and pods below svc.cluster.local, and names of the outside world that
// a lab declares. It forwards nothing, since a lab has no way out.
//
// Answers come from an immutable table that Set replaces. Run owns its listeners' goroutines and waits for them.
// Start reading at Table.
package names

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ambit-mesh/ambit/e2e/lab/services"
	"github.com/miekg/dns"
)

// Domain is the cluster domain.
const Domain = "cluster.local"

const ttl = 5

// Table maps lower case names with a final dot to what is known about them.
type Table map[string]Entry

// Entry is one name.
type Entry struct {
	Addrs []netip.Addr
	Alias string
	SRV   []SRV
}

// SRV is where a named port of a headless Service is.
type SRV struct {
	Port   uint16
	Target string
}

// NewTable lists the names of services, plus extra names with their addresses.
func NewTable(list []services.Service, extra map[string][]netip.Addr) Table {
	t := Table{}
	for _, s := range list {
		t.add(s)
	}
	for name, addrs := range extra {
		t[dns.CanonicalName(name)] = Entry{Addrs: addrs}
	}
	return t
}

func (t Table) add(s services.Service) {
	name := dns.CanonicalName(s.Name + "." + s.Namespace + ".svc." + Domain)
	if s.ExternalName != "" {
		t[name] = Entry{Alias: dns.CanonicalName(s.ExternalName)}
		return
	}
	if !s.Headless {
		t[name] = Entry{Addrs: s.VIPs}
		for _, p := range s.Ports {
			t.srv(p, name, []SRV{{p.Number, name}})
		}
		return
	}
	// A headless Service exists even while nothing is behind it.
	e := Entry{}
	var targets []string
	for _, h := range s.Hosts {
		e.Addrs = append(e.Addrs, h.Addr)
		label := h.Name
		if label == "" {
			label = strings.NewReplacer(".", "-", ":", "-").Replace(h.Addr.String())
		}
		host := label + "." + name
		one := t[host]
		one.Addrs = append(one.Addrs, h.Addr)
		t[host] = one
		targets = append(targets, host)
	}
	t[name] = e
	for _, p := range s.Ports {
		var records []SRV
		seen := map[string]bool{}
		for _, host := range targets {
			if !seen[host] {
				records = append(records, SRV{p.Number, host})
			}
			seen[host] = true
		}
		t.srv(p, name, records)
	}
}

func (t Table) srv(p services.Port, name string, records []SRV) {
	if p.Name != "" {
		t["_"+p.Name+"._"+strings.ToLower(p.Protocol)+"."+name] = Entry{SRV: records}
	}
}

// Answer builds the reply to a query.
func (t Table) Answer(req *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(req)
	m.Authoritative, m.RecursionAvailable = true, true
	if len(req.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return m
	}
	q := req.Question[0]
	name := dns.CanonicalName(q.Name)
	owner := q.Name
	for range 8 {
		e, ok := t.find(name)
		if !ok {
			m.Rcode = dns.RcodeNameError
			return m
		}
		if e.Alias == "" {
			t.records(m, q.Qtype, owner, e)
			return m
		}
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: e.Alias})
		name, owner = e.Alias, e.Alias
	}
	m.Rcode = dns.RcodeServerFailure
	return m
}

// find also matches declared wildcards of the outside world, as *.example.com.
func (t Table) find(name string) (Entry, bool) {
	if e, ok := t[name]; ok {
		return e, true
	}
	for rest := name; ; {
		_, after, ok := strings.Cut(rest, ".")
		if !ok || after == "" {
			return Entry{}, false
		}
		if e, ok := t["*."+after]; ok {
			return e, true
		}
		rest = after
	}
}

func (t Table) records(m *dns.Msg, qtype uint16, owner string, e Entry) {
	for _, a := range e.Addrs {
		switch {
		case qtype == dns.TypeA && a.Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: header(owner, dns.TypeA), A: net.IP(a.AsSlice())})
		case qtype == dns.TypeAAAA && a.Is6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: net.IP(a.AsSlice())})
		}
	}
	if qtype == dns.TypeSRV {
		for _, s := range e.SRV {
			m.Answer = append(m.Answer, &dns.SRV{Hdr: header(owner, dns.TypeSRV), Priority: 0, Weight: 1, Port: s.Port, Target: s.Target})
		}
	}
	rand.Shuffle(len(m.Answer), func(i, j int) {
		// An alias stays in front of what it leads to.
		if m.Answer[i].Header().Rrtype != dns.TypeCNAME && m.Answer[j].Header().Rrtype != dns.TypeCNAME {
			m.Answer[i], m.Answer[j] = m.Answer[j], m.Answer[i]
		}
	})
}

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

// Server answers from the table it was last given.
type Server struct {
	table atomic.Pointer[Table]
}

// Set replaces the table.
func (s *Server) Set(t Table) { s.table.Store(&t) }

// ServeDNS answers one query.
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	t := s.table.Load()
	if t == nil {
		t = &Table{}
	}
	m := t.Answer(req)
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size := dns.MinMsgSize
		if o := req.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
			m.SetEdns0(uint16(size), false)
		}
		m.Truncate(size)
	}
	// A client that has gone away is no trouble of the server's.
	_ = w.WriteMsg(m)
}

// Run serves on the given sockets until ctx ends, and closes them.
func (s *Server) Run(ctx context.Context, packets []net.PacketConn, listeners []net.Listener) error {
	var servers []*dns.Server
	for _, p := range packets {
		servers = append(servers, &dns.Server{PacketConn: p, Handler: s})
	}
	for _, l := range listeners {
		servers = append(servers, &dns.Server{Listener: l, Handler: s})
	}
	errs := make(chan error, len(servers))
	var wg sync.WaitGroup
	for _, srv := range servers {
		ready := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(ready) }
		ended := make(chan struct{})
		wg.Go(func() {
			defer close(ended)
			errs <- srv.ActivateAndServe()
		})
		// A server that has not started cannot be shut down.
		select {
		case <-ready:
		case <-ended:
		}
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
		err = fmt.Errorf("name server: %w", err)
	}
	for _, srv := range servers {
		_ = srv.Shutdown()
	}
	wg.Wait()
	return err
}
