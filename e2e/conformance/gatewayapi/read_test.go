package gatewayapi

import (
	"strings"
	"testing"

	// One small package of the module keeps it in go.mod; its tests are read as files.
	_ "sigs.k8s.io/gateway-api/conformance/utils/config"
)

func TestRead(t *testing.T) {
	dir, err := Dir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tests, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, test := range tests {
		cases += len(test.Cases)
		t.Logf("%s: %d cases, features %s", test.Name, len(test.Cases), strings.Join(test.Features, " "))
		for _, m := range test.Manifests {
			if text, err := Manifest(dir, m); err != nil || !strings.Contains(text, "kind:") {
				t.Errorf("%s: %v", m, err)
			}
		}
	}
	if len(tests) < 20 || cases < 60 {
		t.Errorf("%d tests with %d cases were read; the module has more", len(tests), cases)
	}
}
