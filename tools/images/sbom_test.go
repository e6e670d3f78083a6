package images

import (
	"encoding/json"
	"runtime"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// sbomIsAttached finds the list of contents as docker's tools do.
func sbomIsAttached(t *testing.T, index v1.ImageIndex, of v1.Image) {
	t.Helper()
	digest, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(m.Manifests, func(d v1.Descriptor) bool { return d.Annotations["vnd.docker.reference.digest"] == digest.String() })
	if i < 0 {
		t.Fatal("no list of contents is attached")
	}
	img, err := index.Image(m.Manifests[i].Digest)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatal(layers, err)
	}
	r, err := layers[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var statement struct {
		Subject   []struct{ Digest map[string]string }
		Predicate spdxDocument
	}
	if err := json.NewDecoder(r).Decode(&statement); err != nil {
		t.Fatal(err)
	}
	if statement.Subject[0].Digest["sha256"] != digest.Hex {
		t.Errorf("it is about %v, not %s", statement.Subject, digest)
	}
	checkSPDX(t, statement.Predicate)
	if !slices.ContainsFunc(statement.Predicate.Packages, func(p spdxPackage) bool {
		return p.Name == "stdlib" && p.References[0].Locator == "pkg:golang/stdlib@"+strings.TrimPrefix(runtime.Version(), "go")
	}) {
		t.Errorf("the standard library is not listed: %+v", statement.Predicate.Packages)
	}
}

// checkSPDX holds a document to what its specification requires: unique identifiers, and relations between known ones.
func checkSPDX(t *testing.T, doc spdxDocument) {
	t.Helper()
	ids := map[string]bool{doc.ID: true}
	for _, p := range doc.Packages {
		if ids[p.ID] {
			t.Errorf("%s is there twice", p.ID)
		}
		ids[p.ID] = true
		if p.Name == "" || p.Location == "" {
			t.Errorf("%+v lacks what it must have", p)
		}
	}
	for _, r := range doc.Relations {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("relation between unknown ones: %+v", r)
		}
	}
}
