package model

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPoolIsAFunctionOfItsTenants lets hosts and reserved addresses come and go over a tiny range, where nearly everything
// collides, and asks after each step that the outcome is that of serving the hosts in order of age.
func TestPoolIsAFunctionOfItsTenants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const size = 7
		small := func() *ring {
			r := newPool().v4
			r.size = size
			r.at = func(i uint64, t tenant) netip.Addr {
				h := t.hash()
				return netip.AddrFrom4([4]byte{240, 240, 0, byte((h%size + i*(1+(h>>32)%(size-1))) % size)})
			}
			return &r
		}
		r := small()
		type host struct{ created time.Time }
		hosts := map[tenant]host{}
		reserved := map[netip.Addr]int{}
		none := func(tenant) {}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			tn := tenant{"ns", "se", fmt.Sprint(rapid.IntRange(0, 11).Draw(rt, "host"))}
			a := netip.AddrFrom4([4]byte{240, 240, 0, byte(rapid.IntRange(0, size-1).Draw(rt, "addr"))})
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				r.reserve(a, none)
				reserved[a]++
			case 1:
				if reserved[a] > 0 {
					r.release(a, none)
					if reserved[a]--; reserved[a] == 0 {
						delete(reserved, a)
					}
				}
			case 2:
				r.remove(tn, none)
				delete(hosts, tn)
			default:
				if _, ok := hosts[tn]; !ok {
					h := host{time.Unix(int64(rapid.IntRange(0, 3).Draw(rt, "created")), 0)}
					hosts[tn] = h
					r.insert(tn, h.created, 0, none)
				}
			}
			taken := map[netip.Addr]bool{}
			left := map[tenant]host{}
			for k, v := range hosts {
				left[k] = v
			}
			for len(left) > 0 {
				var oldest *lease
				for k, v := range left {
					if l := (&lease{tenant: k, created: v.created}); oldest == nil || l.before(oldest) {
						oldest = l
					}
				}
				delete(left, oldest.tenant)
				var want netip.Addr
				for i := uint64(0); i < size && !want.IsValid(); i++ {
					if a := r.at(i, oldest.tenant); !taken[a] && reserved[a] == 0 {
						want = a
						taken[a] = true
					}
				}
				if got := r.leases[oldest.tenant].addr; got != want {
					rt.Fatalf("%v has %v, want %v", oldest.tenant, got, want)
				}
			}
		}
	})
}
