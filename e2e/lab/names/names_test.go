package names

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/lab/services"
	"github.com/miekg/dns"
)

func addrs(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func shop() Table {
	return NewTable([]services.Service{
		{Namespace: "shop", Name: "web", VIPs: addrs("10.96.1.1", "fd00::1"), Ports: []services.Port{{Name: "http", Protocol: "TCP", Number: 80}}},
		{Namespace: "shop", Name: "db", Headless: true, Ports: []services.Port{{Name: "sql", Protocol: "TCP", Number: 5432}},
			Hosts: []services.Host{{Name: "db-0", Addr: addrs("10.244.1.2")[0]}, {Addr: addrs("10.244.2.2")[0]}}},
		{Namespace: "shop", Name: "empty", Headless: true},
		{Namespace: "shop", Name: "far", ExternalName: "www.example.com"},
	}, map[string][]netip.Addr{"www.example.com": addrs("172.30.0.2"), "*.example.org": addrs("172.30.0.3")})
}

func TestAnswers(t *testing.T) {
	tests := []struct {
		name  string
		qtype uint16
		rcode int
		want  []string
	}{
		{"web.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.96.1.1"}},
		{"WEB.shop.svc.Cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, []string{"fd00::1"}},
		{"web.shop.svc.cluster.local.", dns.TypeMX, dns.RcodeSuccess, nil},
		{"_http._tcp.web.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, []string{"web.shop.svc.cluster.local.:80"}},
		{"db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.244.1.2", "10.244.2.2"}},
		{"db-0.db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.244.1.2"}},
		{"10-244-2-2.db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.244.2.2"}},
		{"_sql._tcp.db.shop.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess,
			[]string{"10-244-2-2.db.shop.svc.cluster.local.:5432", "db-0.db.shop.svc.cluster.local.:5432"}},
		{"empty.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, nil},
		{"nobody.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		{"far.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"172.30.0.2", "www.example.com."}},
		{"a.b.example.org.", dns.TypeA, dns.RcodeSuccess, []string{"172.30.0.3"}},
		{"example.net.", dns.TypeA, dns.RcodeNameError, nil},
	}
	for _, tt := range tests {
		m := shop().Answer(new(dns.Msg).SetQuestion(tt.name, tt.qtype))
		if got := values(m); m.Rcode != tt.rcode || !slices.Equal(got, tt.want) {
			t.Errorf("%s %s: %s %v, want %s %v", tt.name, dns.TypeToString[tt.qtype], dns.RcodeToString[m.Rcode], got, dns.RcodeToString[tt.rcode], tt.want)
		}
	}
}

func values(m *dns.Msg) []string {
	var out []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, rr.A.String())
		case *dns.AAAA:
			out = append(out, rr.AAAA.String())
		case *dns.CNAME:
			out = append(out, rr.Target)
		case *dns.SRV:
			out = append(out, rr.Target+":"+itoa(rr.Port))
		}
	}
	slices.Sort(out)
	return out
}

func itoa(p uint16) string {
	return netip.AddrPortFrom(netip.IPv4Unspecified(), p).String()[len("0.0.0.0:"):]
}

// listenBoth finds a port that is free for both protocols: the kernel chooses for one at a time.
func listenBoth(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for try := 0; ; try++ {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", p.LocalAddr().String())
		if err == nil {
			return p, l
		}
		p.Close()
		if try == 20 {
			t.Fatal(err)
		}
	}
}

func TestServesBothProtocols(t *testing.T) {
	p, l := listenBoth(t)
	var s Server
	s.Set(shop())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, []net.PacketConn{p}, []net.Listener{l}) }()
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network}
		m, _, err := c.Exchange(new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA), p.LocalAddr().String())
		if err != nil || len(values(m)) != 1 {
			t.Errorf("%s: %v %v", network, m, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
