package jwks

import (
	"encoding/json"
	"testing"
)

// FuzzCheckKeys: whatever a server answers, what is passed on is a set of public keys, written the same way each time.
func FuzzCheckKeys(f *testing.F) {
	for _, s := range []string{goodKeys, `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"x"}]}`, `[]`, `{"keys":[{"kty":"RSA"},{"kty":"EC","d":null}]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		text, err := checkKeys(body)
		if err != nil {
			return
		}
		again, err := checkKeys([]byte(text))
		if err != nil || again != text {
			t.Fatalf("%q becomes %q: %v", text, again, err)
		}
		var set struct{ Keys []map[string]any }
		if err := json.Unmarshal([]byte(text), &set); err != nil || len(set.Keys) == 0 {
			t.Fatalf("%q: %v", text, err)
		}
		for _, k := range set.Keys {
			if k["d"] != nil || k["k"] != nil {
				t.Fatalf("a private key is passed on: %q", text)
			}
		}
	})
}
