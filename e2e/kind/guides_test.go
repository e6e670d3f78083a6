//go:build kind

package kind

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/guides"
)

// guideLimit is for one guide, on two cores.
const guideLimit = 5 * time.Minute

// playgrounds are the namespaces that guides make, and delete at their end.
var playgrounds = []string{"shop", "bookinfo", "outside"}

// TestGuides executes the guides of docs/kubernetes on the cluster, one after the other: each cleans up behind itself.
func TestGuides(t *testing.T) {
	c := open(t)
	files, err := filepath.Glob(root + "/docs/kubernetes/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no guides: %v", err)
	}
	bin := os.Getenv("AMBIT_BIN")
	if bin == "" {
		bin = root + "/bin"
	}
	if bin, err = filepath.Abs(bin); err != nil {
		t.Fatal(err)
	}
	dir := root
	if c.hub.name != "" {
		// Guides name the samples as they lie in a checkout.
		dir = t.TempDir()
		c.must(c.hub.samples(root, dir))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".md"), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			steps, err := guides.Parse(f)
			if err != nil || len(steps) == 0 {
				t.Fatalf("%s: %d steps, %v", file, len(steps), err)
			}
			for i := range steps {
				steps[i].Command = c.hub.images(steps[i].Command)
			}
			whole, c := c, c.in(t) // the part's context has ended when it is cleaned up
			// What a guide that failed has left would be in the way of the next one.
			tidy := func() {
				for _, ns := range playgrounds {
					c.gone(ns)
				}
			}
			tidy()
			t.Cleanup(func() {
				if t.Failed() { // in the middle, with a part of the mesh changed by hand
					if out, stderr, err := whole.try("upgrade"); err != nil {
						t.Errorf("the mesh is not as it was: %v: %s%s", err, out, stderr)
					}
				}
				tidy()
			})
			// A lab that runs on this machine would come before the cluster, so there is none to be seen.
			env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "NO_COLOR=1", "TMPDIR="+t.TempDir(), labfile.EnvRoot+"="+t.TempDir(), "AMBIT_LAB=")
			for _, problem := range (guides.Session{Dir: dir, Env: env, Limit: guideLimit}).Follow(t.Context(), file, steps) {
				t.Error(problem)
			}
		})
	}
}
