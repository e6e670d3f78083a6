package h2spec

import (
	"fmt"
	"testing"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// Run runs every server case, the strict ones included, each on a connection of its own. pick names the server for a case.
func Run(t *testing.T, pick func(id string) *config.Config) {
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		runGroup(t, pick, group)
	}
}

func runGroup(t *testing.T, pick func(id string) *config.Config, group *spec.TestGroup) {
	for i, tc := range append(group.Tests, group.StrictTests...) {
		id := fmt.Sprintf("%s/%d", group.ID(), i+1)
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			cfg := pick(id)
			conn, err := spec.Dial(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			switch err := tc.Run(cfg, conn); err {
			case nil:
			case spec.ErrSkipped:
				t.Skip("h2spec found nothing to test")
			default:
				t.Errorf("%s\n%s\n%v", tc.Desc, tc.Requirement, err)
			}
		})
	}
	for _, g := range group.Groups {
		runGroup(t, pick, g)
	}
}
