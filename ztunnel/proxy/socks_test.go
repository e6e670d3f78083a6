package proxy

import (
	"bytes"
	"io"
	"net/netip"
	"testing"

	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
	"github.com/ambit-mesh/ambit/ztunnel/telemetry"
)

// socksName is the address of a request by name.
func socksByName(name string, port uint16) []byte {
	return append(append([]byte{3, byte(len(name))}, name...), byte(port>>8), byte(port))
}

func TestSOCKS(t *testing.T) {
	st := payWorld(t, payPod("pay", "pay-sa", "10.0.0.2"), Service("shop", "empty", []string{"10.96.0.9"}, 80, 8080))
	w := start(t, st, func(c *Config) { c.SOCKS5 = true })
	p := w.peer("10.0.0.2:15008", "pay-sa", 200)
	outside := w.listen("10.9.9.9:443")
	for _, tt := range []struct {
		name    string
		command byte
		to      []byte
		code    byte
	}{
		{"service by name", 1, socksByName("pay.shop.svc.cluster.local", 80), 0},
		{"short name", 1, socksByName("PAY", 80), 0},
		{"service by address", 1, []byte{1, 10, 96, 0, 2, 0, 80}, 0},
		{"mapped address", 1, append(append([]byte{4}, netip.MustParseAddr("::ffff:10.96.0.2").AsSlice()...), 0, 80), 0},
		{"address in words", 1, socksByName("10.96.0.2", 80), 0},
		{"nobody there", 1, []byte{1, 10, 96, 0, 9, 0, 80}, 4},
		{"unknown name", 1, socksByName("example.com", 443), 4},
		{"refused", 1, []byte{1, 10, 9, 9, 9, 0, 1}, 5},
		{"our own port", 1, []byte{1, 127, 0, 0, 1, 15001 >> 8, 15001 & 0xff}, 1},
		{"bind", 2, []byte{1, 10, 96, 0, 2, 0, 80}, 7},
		{"address type", 1, []byte{9}, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := w.dial("127.0.0.1", "127.0.0.1:15080")
			if _, err := c.Write([]byte{5, 2, 2, 0}); err != nil {
				t.Fatal(err)
			}
			chosen := make([]byte, 2)
			if _, err := io.ReadFull(c, chosen); err != nil || !bytes.Equal(chosen, []byte{5, 0}) {
				t.Fatalf("method % x, %v", chosen, err)
			}
			if _, err := c.Write(append([]byte{5, tt.command, 0}, tt.to...)); err != nil {
				t.Fatal(err)
			}
			answer := make([]byte, 10)
			if _, err := io.ReadFull(c, answer); err != nil || answer[0] != 5 || answer[1] != tt.code {
				t.Fatalf("answer % x, %v", answer, err)
			}
			if tt.code != 0 {
				if _, err := c.Read(answer); err != io.EOF {
					t.Errorf("ends with %v", err)
				}
				return
			}
			if in := <-p.asked; in.Authority() != "10.0.0.2:8080" || in.Header("forwarded") == "" {
				t.Errorf("asked for %s", in.Authority())
			}
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			c.Close()
			w.logged(`src.addr=10.0.0.1:`, `dst.service="pay.shop.svc.cluster.local"`, `direction="outbound"`)
		})
	}
	if len(outside.calls) != 0 {
		t.Error("somebody was called by mistake")
	}
}

func TestSOCKSRefusesMethods(t *testing.T) {
	w := start(t, payWorld(t), func(c *Config) { c.SOCKS5 = true })
	c := w.dial("127.0.0.1", "127.0.0.1:15080")
	if _, err := c.Write([]byte{5, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, []byte{5, 0xff}) {
		t.Errorf("% x, %v", got, err)
	}
	// Loopback only: who comes from elsewhere would act as the pod.
	if c, err := w.tryDial("10.0.0.9", "10.0.0.1:15080"); err == nil {
		c.Close()
		t.Error("reached from outside")
	}
	// Without the setting there is nothing.
	v := start(t, payWorld(t), nil)
	if c, err := v.tryDial("127.0.0.1", "127.0.0.1:15080"); err == nil {
		c.Close()
		t.Error("open unasked")
	}
}

func TestSOCKSCodes(t *testing.T) {
	for reason, want := range map[telemetry.Reason]byte{
		telemetry.PeerDenied: 2, telemetry.WaypointRequired: 2, telemetry.ConnectRefused: 5, telemetry.Unresolvable: 4, telemetry.TLSFailed: 1,
	} {
		if got := socksCode(telemetry.Fail(reason, "", nil)); got != want {
			t.Errorf("%s: %d, want %d", reason, got, want)
		}
	}
}
