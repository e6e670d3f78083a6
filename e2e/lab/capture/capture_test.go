package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// frame builds an Ethernet frame with a TCP or UDP segment.
func frame(proto byte, src, dst string, flags byte, payload string) []byte {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	var seg []byte
	seg = binary.BigEndian.AppendUint16(seg, s.Port())
	seg = binary.BigEndian.AppendUint16(seg, d.Port())
	if proto == 6 {
		seg = append(seg, make([]byte, 8)...)
		seg = append(seg, 5<<4, flags, 0, 0, 0, 0, 0, 0)
	} else {
		seg = append(seg, 0, 0, 0, 0)
	}
	seg = append(seg, payload...)
	eth := make([]byte, 12)
	if s.Addr().Is4() {
		eth = append(eth, 0x08, 0x00)
		ip := make([]byte, 20)
		ip[0], ip[9] = 0x45, proto
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(seg)))
		copy(ip[12:], s.Addr().AsSlice())
		copy(ip[16:], d.Addr().AsSlice())
		return append(append(eth, ip...), seg...)
	}
	eth = append(eth, 0x86, 0xdd)
	ip := make([]byte, 40)
	ip[0], ip[6] = 0x60, proto
	binary.BigEndian.PutUint16(ip[4:], uint16(len(seg)))
	copy(ip[8:], s.Addr().AsSlice())
	copy(ip[24:], d.Addr().AsSlice())
	return append(append(eth, ip...), seg...)
}

const (
	client, server = "10.244.1.2:40000", "10.244.2.3:9080"
	tlsRecord      = "\x17\x03\x03\x00\x10abcdefghijklmnop"
)

func TestKinds(t *testing.T) {
	tests := []struct {
		name   string
		frames [][]byte
		kind   string
		text   string
	}{
		{"handshake only", [][]byte{frame(6, client, server, 2, "")}, Empty, ""},
		{"http", [][]byte{frame(6, client, server, 2, ""), frame(6, client, server, 0x18, "GET /reviews/0 HTTP/1.1\r\nHost: reviews\r\n\r\n")}, HTTP, "GET /reviews/0 HTTP/1.1"},
		{"tls", [][]byte{frame(6, client, server, 0x18, tlsRecord), frame(6, server, client, 0x18, "random middle of a record")}, TLS, ""},
		{"bytes after tls are tls", [][]byte{frame(6, client, server, 0x18, tlsRecord), frame(6, client, server, 0x18, "\x00\x01")}, TLS, ""},
		{"http/2", [][]byte{frame(6, client, server, 0x18, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}, HTTP2, ""},
		{"text", [][]byte{frame(6, client, server, 0x18, "220 hello\n")}, Plaintext, "220 hello"},
		{"dns", [][]byte{frame(17, client, "10.96.0.10:53", 0, "\x00\x01query")}, DNS, ""},
		{"ipv6", [][]byte{frame(6, "[fd00::1]:40000", "[fd00::2]:80", 0x18, "HTTP/1.1 200 OK\r\n")}, HTTP, "HTTP/1.1 200 OK"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var r Report
			for _, f := range tt.frames {
				r.Add(time.Time{}, f)
			}
			flows := r.Flows()
			if len(flows) != 1 || flows[0].Kind != tt.kind || flows[0].Client.Port() != 40000 {
				t.Fatalf("flows %+v, want one %s", flows, tt.kind)
			}
			if tt.text != "" && (!strings.Contains(r.String(), tt.text) || !r.Contains(tt.text)) {
				t.Errorf("report lacks %q:\n%s", tt.text, &r)
			}
		})
	}
}

func TestDirectionFromTheAnswer(t *testing.T) {
	var r Report
	r.Add(time.Time{}, frame(6, server, client, 0x12, ""))
	if f := r.Flows()[0]; f.Server.String() != server {
		t.Errorf("server is %s", f.Server)
	}
}

func TestPcapRoundTrip(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.pcap")
	f, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1, 2)
	want := frame(6, client, server, 2, "x")
	f.Add(at, want)
	f.Add(at, nil)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	n := 0
	err = Read(name, func(got time.Time, p []byte) {
		if n == 0 && (!got.Equal(at) || !bytes.Equal(p, want)) {
			t.Errorf("got %v %x", got, p)
		}
		n++
	})
	if err != nil || n != 2 {
		t.Errorf("read %d packets, %v", n, err)
	}
}

func TestRecordLoopback(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_NET_RAW for packet sockets")
	}
	tap, err := Open("", "lo")
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.WriteString(c, "a word on the wire\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	var r Report
	// What is queued is recorded even though the time is up.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tap.Record(ctx, r.Add); err != nil {
		t.Fatal(err)
	}
	if !r.Contains("a word on the wire") {
		t.Errorf("report:\n%s", &r)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(frame(6, client, server, 0x18, tlsRecord))
	f.Add(frame(17, "[fd00::1]:1", "[fd00::2]:53", 0, "q"))
	f.Add([]byte{})
	f.Fuzz(func(_ *testing.T, b []byte) {
		var r Report
		r.Add(time.Time{}, b)
		r.Add(time.Time{}, append(bytes.Clone(b), b...))
		_ = r.String()
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x4d\x3c\xb2\xa1aaaaaaaaaaaaaaaaaaaa"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = Parse(b, func(_ time.Time, _ []byte) {})
	})
}
