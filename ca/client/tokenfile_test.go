package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTokenFile: what is no token is said where it is read, not where it is used.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	for text, want := range map[string]string{
		"eyJh.eyJp.c2ln\n":   "eyJh.eyJp.c2ln",
		"":                   "",
		"\n":                 "",
		"app=\"a\"\nb=\"c\"": "",
		"Bearer x":           "",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := TokenFile(path)()
		if (want == "") != (err != nil) || want != "" && got != want || err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}
