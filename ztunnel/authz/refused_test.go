package authz_test

import (
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/identity"
	"github.com/ambit-mesh/ambit/ztunnel/authz"
	. "github.com/ambit-mesh/ambit/ztunnel/state/statetest"
)

// A policy that cannot be read must not leave open what it was to close.
func TestPolicyThatCannotBeReadCloses(t *testing.T) {
	policy := func(action security.Action, cidr []byte) *security.Authorization {
		return &security.Authorization{Name: "p", Namespace: "shop", Scope: security.Scope_NAMESPACE, Action: action, Rules: []*security.Rule{{
			Clauses: []*security.Clause{{Matches: []*security.Match{{SourceIps: []*security.Address{{Address: cidr, Length: 8}}}}}},
		}}}
	}
	dry := policy(security.Action_DENY, []byte{1, 2, 3})
	dry.DryRun = true
	unknown := policy(7, []byte{10, 0, 0, 0})
	selected := policy(security.Action_ALLOW, []byte{1, 2, 3})
	selected.Scope = security.Scope_WORKLOAD_SELECTOR
	for _, tt := range []struct {
		name  string
		last  *security.Authorization // what was known before
		now   *security.Authorization
		allow bool
	}{
		{"allow", nil, policy(security.Action_ALLOW, []byte{1, 2, 3}), false},
		{"deny", nil, policy(security.Action_DENY, []byte{1, 2, 3}), false},
		{"last good version allows", policy(security.Action_ALLOW, []byte{10, 0, 0, 0}), policy(security.Action_ALLOW, []byte{1, 2, 3}), true},
		{"dry run", nil, dry, true},
		{"action of the future", nil, unknown, true},
		{"for others", nil, selected, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			st := World(t, Pod("shop", "cart", "cart-sa", "10.0.0.1"))
			if tt.last != nil {
				Put(t, st, tt.last)
			}
			apply := func(p *security.Authorization) int {
				body, err := proto.Marshal(p)
				if err != nil {
					t.Fatal(err)
				}
				return len(st.Apply(mesh.TypeAuthorization, []xds.Raw{{Name: "shop/p", Body: body}}, nil))
			}
			allowed := func() bool {
				s := st.Current()
				return authz.Check(s, s.Workload(mesh.PodUID(mesh.DefaultClusterID, "shop", "cart")), authz.Connection{
					Source:   identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "web"},
					SourceIP: netip.MustParseAddr("10.0.0.9"), DestIP: netip.MustParseAddr("10.0.0.1"), DestPort: 80,
				}).Allow
			}
			if n := apply(tt.now); n != 1 {
				t.Fatalf("%d resources refused, want 1", n)
			}
			if got := allowed(); got != tt.allow {
				t.Errorf("allowed: %t, want %t", got, tt.allow)
			}
			// A version that can be read takes over.
			if n := apply(policy(security.Action_ALLOW, []byte{10, 0, 0, 0})); n != 0 || !allowed() {
				t.Errorf("after it was mended: %d refused, allowed %t", n, allowed())
			}
		})
	}
}
