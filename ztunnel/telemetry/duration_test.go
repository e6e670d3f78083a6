package telemetry

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// A connection that failed after a wait took that long: the time counts from when it was accepted.
func TestFailedConnectionsTakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		r := New(Options{Logs: NewLogs(&out, false, nil)})
		info := ConnInfo{Direction: Outbound, Dst: netip.MustParseAddrPort("10.0.0.1:15008"), Since: time.Now()}
		time.Sleep(10 * time.Second)
		r.Failed(info, Fail(PortBlocked, "", nil))
		if out.lines(`duration="10000ms"`, `reason="port-blocked"`) != 1 {
			t.Errorf("logged %s", out.b.String())
		}
	})
}
