package dns

import (
	"net"
	"testing"
	"time"
)

// TestAnswersFromBoundAddress: an answer comes from the address that was asked; a connected client takes no other.
func TestAnswersFromBoundAddress(t *testing.T) {
	for _, bound := range []string{"127.0.0.77:0", "127.0.0.1:0", "[::1]:0"} {
		pc, err := net.ListenPacket("udp", bound)
		if err != nil {
			t.Logf("%s: %v", bound, err)
			continue
		}
		defer pc.Close()
		c, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		sender(pc)([]byte("answer"), c.LocalAddr())
		b := make([]byte, 16)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(b); err != nil || string(b[:n]) != "answer" {
			t.Errorf("%s: %q, %v", bound, b[:n], err)
		}
	}
}
