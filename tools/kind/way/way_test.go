package way

import (
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	able := Facts{OS: "linux", Root: true, Debian: true, Kubectl: true}
	with := func(f Facts, change func(*Facts)) Facts { change(&f); return f }
	for _, tc := range []struct {
		name  string
		facts Facts
		want  Kind
		says  string // part of the reason or of the error
	}{
		{"nothing said", able, Built, "built here"},
		{"Docker there, nothing said", with(able, func(f *Facts) { f.Docker = true }), Built, "KIND_IMAGE="},
		{"a cluster is given", with(able, func(f *Facts) { f.Kubeconfig, f.Image, f.Docker = "/x", "kindest/node:v1", true }), Given, "KUBECONFIG=/x"},
		{"a published image", with(able, func(f *Facts) { f.Image, f.Docker = "kindest/node:v1", true }), Published, "kindest/node:v1"},
		{"a published image without Docker", with(able, func(f *Facts) { f.Image, f.DockerProblem = "kindest/node:v1", "connection refused" }), "", "connection refused"},
		{"a published image on a Mac", Facts{OS: "darwin", Image: "kindest/node:v1", Docker: true, Kubectl: true}, Published, ""},
		{"a version of a published image", with(able, func(f *Facts) { f.Image, f.Docker, f.Kubernetes = "kindest/node:v1", true, "1.29" }), "", "KUBERNETES=1.29"},
		{"a version to build", with(able, func(f *Facts) { f.Kubernetes = "1.29" }), Built, "built here"},
		{"a published image without kubectl", with(able, func(f *Facts) { f.Image, f.Docker, f.Kubectl = "kindest/node:v1", true, false }), "", "kubectl"},
		{"built without kubectl", with(able, func(f *Facts) { f.Kubectl = false }), Built, ""},
		{"not root", with(able, func(f *Facts) { f.Root, f.Docker = false, true }), "", "needs root; KIND_IMAGE="},
		{"a Mac", Facts{OS: "darwin"}, "", "needs Linux and root and apt-get (Debian or Ubuntu); start Docker"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Decide(tc.facts)
			said := got.Because
			if err != nil {
				said = err.Error()
			}
			if got.Kind != tc.want || (err == nil) == (tc.want == "") || !strings.Contains(said, tc.says) {
				t.Errorf("got %q: %s", got.Kind, said)
			}
		})
	}
}
