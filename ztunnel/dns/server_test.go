package dns_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/ambit-mesh/ambit/ztunnel/dns"
	"github.com/ambit-mesh/ambit/ztunnel/state"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// upstream is a name server outside the mesh. It answers every A question with 203.0.113.1, "big." with more than fits
// a datagram, and never answers "mute.".
type upstream struct {
	udp net.PacketConn
	tcp net.Listener
	wg  sync.WaitGroup
}

func startUpstream(t *testing.T) (*upstream, netip.AddrPort) {
	t.Helper()
	u := &upstream{}
	var err error
	for range 20 { // the same port must be free for both
		if u.udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if u.tcp, err = net.Listen("tcp", u.udp.LocalAddr().String()); err == nil {
			break
		}
		u.udp.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	u.wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := u.udp.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := u.answer(buf[:n], 512); answer != nil {
				// A forged answer first, with another id: it must be passed over.
				forged := append([]byte(nil), answer...)
				forged[0] ^= 0xff
				u.udp.WriteTo(forged, from)
				u.udp.WriteTo(answer, from)
			}
		}
	})
	u.wg.Go(func() {
		for {
			c, err := u.tcp.Accept()
			if err != nil {
				return
			}
			u.wg.Go(func() {
				defer c.Close()
				msg, err := readFramed(c)
				if err != nil {
					return
				}
				writeFramed(c, u.answer(msg, 65535))
			})
		}
	})
	t.Cleanup(func() { u.udp.Close(); u.tcp.Close(); u.wg.Wait() })
	return u, u.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

func (u *upstream) answer(msg []byte, limit int) []byte {
	var m dnsmessage.Message
	if m.Unpack(msg) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := q.Name.String()
	if strings.HasPrefix(name, "mute.") {
		return nil
	}
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if strings.HasPrefix(name, "gone.") {
		m.RCode = dnsmessage.RCodeNameError
	}
	count := 1
	if strings.HasPrefix(name, "big.") {
		count = 100
	}
	for i := range count {
		if q.Type == dnsmessage.TypeA && m.RCode == 0 {
			m.Answers = append(m.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 5}, Body: &dnsmessage.AResource{A: [4]byte{203, 0, 113, byte(i + 1)}},
			})
		}
	}
	if q.Type == dnsmessage.TypeMX {
		m.Answers = append(m.Answers, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 5}, Body: &dnsmessage.MXResource{Pref: 1, MX: q.Name},
		})
	}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	if len(out) > limit {
		m.Answers, m.Truncated = nil, true
		out, _ = m.Pack()
	}
	return out
}

func readFramed(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

func writeFramed(w io.Writer, msg []byte) {
	w.Write(binary.BigEndian.AppendUint16(nil, uint16(len(msg))))
	w.Write(msg)
}

// proxy is a running server under test.
type proxy struct {
	udp, tcp string
	rec      *telemetry.Recorder
	log      *bytes.Buffer
	stop     func()
}

func start(t *testing.T, st *state.State, change func(*dns.Config)) *proxy {
	t.Helper()
	_, server := startUpstream(t)
	p := &proxy{rec: telemetry.New(telemetry.Options{}), log: &bytes.Buffer{}}
	levels, err := telemetry.NewLevels("debug")
	if err != nil {
		t.Fatal(err)
	}
	cfg := dns.Config{
		Zone: zone, State: st.Current,
		Client:   func(s *state.Snapshot) *state.Workload { return s.Pod("Kubernetes", "shop", "client") },
		Upstream: dns.Upstream{Servers: []netip.AddrPort{server}},
		Dial: func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.String())
		},
		Metrics: p.rec.DNS, Logger: telemetry.NewLogs(p.log, false, levels).Logger("dns"),
	}
	if change != nil {
		change(&cfg)
	}
	s := dns.New(cfg)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.udp, p.tcp = pc.LocalAddr().String(), l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.ServePacket(ctx, pc); err != nil {
			t.Errorf("ServePacket: %v", err)
		}
	})
	wg.Go(func() {
		if err := s.ServeStream(ctx, l); err != nil {
			t.Errorf("ServeStream: %v", err)
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(p.stop)
	return p
}

func pack(t testing.TB, name string, typ dnsmessage.Type, edns int) []byte {
	t.Helper()
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 4711, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: typ, Class: dnsmessage.ClassINET}},
	}
	if edns > 0 {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(edns, 0, false); err != nil {
			t.Fatal(err)
		}
		m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
	}
	out, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *proxy) ask(t *testing.T, network string, msg []byte) string {
	t.Helper()
	addr := p.udp
	if network == "tcp" {
		addr = p.tcp
	}
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if network == "tcp" {
		writeFramed(c, msg)
		answer, err := readFramed(c)
		if err != nil {
			return err.Error()
		}
		return describe(t, answer)
	}
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65535)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return describe(t, buf[:n])
}

func describe(t *testing.T, answer []byte) string {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil {
		t.Fatalf("answer cannot be read: %v", err)
	}
	if m.ID != 4711 || !m.Response {
		t.Fatalf("answer has header %+v", m.Header)
	}
	parts := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	for flag, set := range map[string]bool{"aa": m.Authoritative, "tc": m.Truncated, "no-ra": !m.RecursionAvailable} {
		if set {
			parts = append(parts, flag)
		}
	}
	slices.Sort(parts[1:])
	var rrs []string
	for _, rr := range m.Answers {
		switch b := rr.Body.(type) {
		case *dnsmessage.AResource:
			rrs = append(rrs, fmt.Sprintf("%s=%s/%d", rr.Header.Name, netip.AddrFrom4(b.A), rr.Header.TTL))
		case *dnsmessage.AAAAResource:
			rrs = append(rrs, fmt.Sprintf("%s=%s/%d", rr.Header.Name, netip.AddrFrom16(b.AAAA), rr.Header.TTL))
		case *dnsmessage.CNAMEResource:
			rrs = append(rrs, fmt.Sprintf("%s>%s/%d", rr.Header.Name, b.CNAME, rr.Header.TTL))
		default:
			rrs = append(rrs, rr.Header.Type.String())
		}
	}
	if len(rrs) > 3 {
		rrs = []string{fmt.Sprint(len(rrs), " records")}
	}
	for _, rr := range m.Additionals {
		if rr.Header.Type == dnsmessage.TypeOPT {
			rrs = append(rrs, "edns")
		}
	}
	return strings.Join(append(parts, rrs...), " ")
}

func TestServer(t *testing.T) {
	st := names(t)
	for i := range 100 {
		Put(t, st, In(Pod("shop", fmt.Sprint("many-", i), "sa", fmt.Sprintf("10.1.0.%d", i+1)), "shop/many.shop.svc.cluster.local", 80, 80))
	}
	Put(t, st, Service("shop", "many", nil, 80, 80))
	p := start(t, st, nil)
	tests := []struct {
		name      string
		typ       dnsmessage.Type
		edns      int
		udp, tcp  string
		sameOnTCP bool
	}{
		{name: "cart.shop.svc.cluster.local.", typ: dnsmessage.TypeA, udp: "Success aa cart.shop.svc.cluster.local.=10.96.0.1/30", sameOnTCP: true},
		{name: "CaRt.", typ: dnsmessage.TypeA, udp: "Success aa CaRt.=10.96.0.1/30", sameOnTCP: true},
		{name: "cart.", typ: dnsmessage.TypeAAAA, udp: "Success aa cart.=fd96::1/30", sameOnTCP: true},
		{name: "pay.other.", typ: dnsmessage.TypeAAAA, udp: "Success aa", sameOnTCP: true},
		{name: "cart.", typ: dnsmessage.TypeA, edns: 1232, udp: "Success aa cart.=10.96.0.1/30 edns", sameOnTCP: true},
		{name: "WWW.example.com.shop.svc.cluster.local.", typ: dnsmessage.TypeA, sameOnTCP: true,
			udp: "Success aa WWW.example.com.shop.svc.cluster.local.>WWW.example.com./30 WWW.example.com.=240.0.0.1/30"},
		{name: "elsewhere.org.", typ: dnsmessage.TypeA, udp: "Success elsewhere.org.=203.0.113.1/5", sameOnTCP: true},
		{name: "gone.elsewhere.org.", typ: dnsmessage.TypeA, udp: "NameError", sameOnTCP: true},
		{name: "cart.shop.svc.cluster.local.", typ: dnsmessage.TypeMX, udp: "Success TypeMX", sameOnTCP: true},
		{name: "secret.other.", typ: dnsmessage.TypeA, udp: "Success secret.other.=203.0.113.1/5", sameOnTCP: true},
		{name: "many.", typ: dnsmessage.TypeA, udp: "Success aa tc 25 records", tcp: "Success aa 100 records"},
		{name: "many.", typ: dnsmessage.TypeA, edns: 4096, udp: "Success aa 100 records edns", sameOnTCP: true},
		{name: "big.elsewhere.org.", typ: dnsmessage.TypeA, udp: "Success tc", tcp: "Success 100 records"},
	}
	for _, tt := range tests {
		if tt.sameOnTCP {
			tt.tcp = tt.udp
		}
		msg := pack(t, tt.name, tt.typ, tt.edns)
		if got := p.ask(t, "udp", msg); got != tt.udp {
			t.Errorf("%s %s over UDP: %s, want %s", tt.name, tt.typ, got, tt.udp)
		}
		if got := p.ask(t, "tcp", msg); got != tt.tcp {
			t.Errorf("%s %s over TCP: %s, want %s", tt.name, tt.typ, got, tt.tcp)
		}
	}
	p.stop()
	for _, want := range []string{
		"\tdebug\tdns\tdns request\tsrc.workload=\"client\" src.namespace=\"shop\" query=\"A\" domain=\"cart.shop.svc.cluster.local\" result=\"served\" endpoints=1\n",
		`domain="elsewhere.org" result="forwarded"`,
	} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("log lacks %q:\n%.500s", want, p.log)
		}
	}
}

func TestRealResolver(t *testing.T) {
	p := start(t, names(t), nil)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		addr := p.udp
		if strings.HasPrefix(network, "tcp") {
			addr = p.tcp
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}
	addrs, err := r.LookupHost(t.Context(), "cart.shop.svc.cluster.local.")
	slices.Sort(addrs)
	if err != nil || strings.Join(addrs, " ") != "10.96.0.1 fd96::1" {
		t.Errorf("LookupHost = %v, %v", addrs, err)
	}
}

func TestFailures(t *testing.T) {
	refused := func(c *dns.Config) { c.Upstream.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")} }
	tests := []struct {
		name   string
		change func(*dns.Config)
		msg    []byte
		want   string
	}{
		{"unknown client", func(c *dns.Config) { c.Client = func(*state.Snapshot) *state.Workload { return nil } }, pack(t, "cart.", dnsmessage.TypeA, 0), "ServerFailure"},
		{"no upstream", func(c *dns.Config) { c.Upstream.Servers = nil }, pack(t, "elsewhere.org.", dnsmessage.TypeA, 0), "ServerFailure"},
		{"upstream refuses", refused, pack(t, "elsewhere.org.", dnsmessage.TypeA, 512), "ServerFailure edns"},
		{"second upstream answers", func(c *dns.Config) {
			c.Upstream.Servers = append([]netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:1")}, c.Upstream.Servers...)
		}, pack(t, "elsewhere.org.", dnsmessage.TypeA, 0), "Success elsewhere.org.=203.0.113.1/5"},
		{"no question", nil, []byte{4711 >> 8, 4711 & 255, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "FormatError"},
		{"cut off question", nil, pack(t, "cart.", dnsmessage.TypeA, 0)[:14], "FormatError"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, names(t), tt.change)
			for _, network := range []string{"udp", "tcp"} {
				if got := p.ask(t, network, tt.msg); got != tt.want {
					t.Errorf("%s: %s, want %s", network, got, tt.want)
				}
			}
		})
	}
}

// What must not be answered is not: the next question gets the first answer.
func TestSilence(t *testing.T) {
	p := start(t, names(t), nil)
	c, err := net.Dial("udp", p.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	response := pack(t, "cart.", dnsmessage.TypeA, 0)
	response[2] |= 0x80
	for _, msg := range [][]byte{{1, 2, 3}, response, pack(t, "cart.", dnsmessage.TypeA, 0)} {
		if _, err := c.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got := describe(t, buf[:n]); got != "Success aa cart.=10.96.0.1/30" {
		t.Errorf("first answer is %s", got)
	}
}

func TestLimits(t *testing.T) {
	p := start(t, names(t), func(c *dns.Config) { c.MaxForwards, c.MaxConns = 1, 1 })
	mute, err := net.Dial("udp", p.udp)
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	// One question that waits for upstream fills the limit; datagrams are read in order, so the next one finds it full.
	if _, err := mute.Write(pack(t, "mute.elsewhere.org.", dnsmessage.TypeA, 0)); err != nil {
		t.Fatal(err)
	}
	if got := p.ask(t, "udp", pack(t, "elsewhere.org.", dnsmessage.TypeA, 0)); got != "ServerFailure" {
		t.Errorf("beyond the limit: %s", got)
	}
	if got := p.ask(t, "udp", pack(t, "cart.", dnsmessage.TypeA, 0)); got != "Success aa cart.=10.96.0.1/30" {
		t.Errorf("a local answer needs no upstream, but: %s", got)
	}
	first, err := net.Dial("tcp", p.tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	writeFramed(first, pack(t, "cart.", dnsmessage.TypeA, 0))
	if _, err := readFramed(first); err != nil {
		t.Fatal(err)
	}
	if got := p.ask(t, "tcp", pack(t, "cart.", dnsmessage.TypeA, 0)); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
		t.Errorf("second TCP client: %s", got)
	}
	writeFramed(first, pack(t, "cart.", dnsmessage.TypeA, 0))
	if _, err := readFramed(first); err != nil {
		t.Errorf("the first client's second question: %v", err)
	}
}

// Whatever a client sends is answered by a well-formed message or by silence.
func FuzzQuestion(f *testing.F) {
	f.Add(pack(f, "cart.", dnsmessage.TypeA, 0))
	f.Add(pack(f, "www.example.com.shop.svc.cluster.local.", dnsmessage.TypeAAAA, 4096))
	f.Add([]byte{0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1})
	st := names(f)
	client, server := net.Pipe()
	client.Close()
	server.Close()
	s := dns.New(dns.Config{
		Zone: zone, State: st.Current, Client: func(s *state.Snapshot) *state.Workload { return s.Pod("Kubernetes", "shop", "client") },
		Dial: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return server, nil }, Logger: slog.New(slog.DiscardHandler),
	})
	f.Fuzz(func(t *testing.T, msg []byte) {
		pc := &onePacket{msg: msg}
		if err := s.ServePacket(t.Context(), pc); err != nil {
			t.Fatal(err)
		}
		pc.mu.Lock()
		defer pc.mu.Unlock()
		for _, answer := range pc.sent {
			var p dnsmessage.Parser
			h, err := p.Start(answer)
			if err != nil || !h.Response || len(msg) < 12 || binary.BigEndian.Uint16(msg) != h.ID {
				t.Fatalf("answer % x to % x", answer, msg)
			}
		}
	})
}

// onePacket is a datagram socket that receives one message and then is closed.
type onePacket struct {
	net.PacketConn
	msg []byte

	mu   sync.Mutex
	read bool
	sent [][]byte
}

func (p *onePacket) ReadFrom(b []byte) (int, net.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.read {
		return 0, nil, net.ErrClosed
	}
	p.read = true
	return copy(b, p.msg), &net.UDPAddr{}, nil
}

func (p *onePacket) WriteTo(b []byte, _ net.Addr) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, b)
	return len(b), nil
}

func (p *onePacket) Close() error { return nil }
