package intake

import (
	"strings"
	"testing"
)

// TestKeysThatVerifyNothing: a key set that no token can be verified with is in force, so its tokens are refused, and
// whoever wrote it is told.
func TestKeysThatVerifyNothing(t *testing.T) {
	for jwks, want := range map[string]string{
		`{"keys": [{"kty": "XYZ"}]}`:                          "no key of the set",
		`{"keys": [{"kty": "oct", "k": "AAAA"}]}`:             "no key of the set",
		`{"keys": [{"kty": "XYZ"}, {"kty": "EC", "x": "A"}]}`: "",
		`{"keys": [{"x": "A"}]}`:                              "has no kty",
	} {
		doc := "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a, namespace: b}\n" +
			"spec: {targetRefs: [{group: \"\", kind: Service, name: c}], jwtRules: [{issuer: me, jwks: '" + jwks + "'}]}\n"
		var said strings.Builder
		for _, d := range NewDecoder(Limits{}).File("x.yaml", []byte(doc), nil) {
			for _, it := range d.Items {
				for _, e := range it.Entries {
					said.WriteString(e.String())
				}
			}
		}
		if got := said.String(); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", jwks, got, want)
		}
	}
}
