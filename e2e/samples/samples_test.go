package samples

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
)

// TestEverythingIsUnderstood reads every sample as the control plane does: nothing is refused, doubted or ignored.
func TestEverythingIsUnderstood(t *testing.T) {
	d := intake.NewDecoder(intake.Limits{})
	files := 0
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		files++
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, doc := range d.File(path, data, nil) {
			if doc.Broken || doc.Ignored != "" && !slices.Contains([]string{"apps/Deployment", "batch/Job"}, doc.Ignored) {
				t.Errorf("%s:%d: ignored: %q, broken: %v", path, doc.Line, doc.Ignored, doc.Broken)
			}
			for _, it := range doc.Items {
				for _, e := range it.Entries {
					t.Errorf("%s", e)
				}
				if a, ok := it.Object.(*object.AuthorizationPolicy); ok && a.Namespace == "" {
					t.Errorf("%s: an AuthorizationPolicy without a namespace", path)
				}
			}
		}
		return nil
	})
	if err != nil || files < 10 {
		t.Errorf("%d files, %v", files, err)
	}
}

// TestTokens checks the tokens against the keys that the samples carry.
func TestTokens(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("waypoint", name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	jwks := read("jwt/jwks.json")
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(jwks), &keys); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"details-need-token.yaml", "reviews-by-claim.yaml"} {
		if !strings.Contains(read(file), jwks) {
			t.Errorf("%s has other keys than jwt/jwks.json", file)
		}
	}
	for name, want := range map[string]struct {
		subject string
		groups  int
		valid   bool
	}{"reader": {"alice", 1, true}, "editor": {"bob", 2, true}, "expired": {"alice", 1, false}} {
		token, err := jwt.ParseSigned(read("jwt/"+name+".jwt"), []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			t.Fatal(err)
		}
		var claims jwt.Claims
		var more struct {
			Groups []string `json:"groups"`
		}
		if err := token.Claims(keys.Keys[0], &claims, &more); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		late := time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC)
		err = claims.ValidateWithLeeway(jwt.Expected{Issuer: "https://accounts.bookinfo.example", AnyAudience: jwt.Audience{"bookinfo"}, Time: late}, 0)
		if claims.Subject != want.subject || len(more.Groups) != want.groups || (err == nil) != want.valid {
			t.Errorf("%s: %+v, %v, %v", name, claims, more.Groups, err)
		}
	}
}
