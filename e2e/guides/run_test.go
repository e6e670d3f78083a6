package guides

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/e2e/mesh"
)

const (
	root = "../.."
	// limit is for one guide, on a machine that is busy with other tests.
	limit = 2 * time.Minute
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run finds the mesh's programs: those that `make build` made, or fresh ones.
func run(m *testing.M) int {
	if os.Getenv(mesh.EnvBin) != "" || os.Geteuid() != 0 {
		return m.Run()
	}
	bin, err := os.MkdirTemp("", "ambit-bin")
	if err == nil {
		defer os.RemoveAll(bin)
		build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "./ca/cmd/...", "./control/cmd/...", "./cni/cmd/...",
			"./ztunnel/cmd/...", "./waypoint/cmd/...", "./install/cmd/...", "./e2e/cmd/ambit-lab", "./e2e/apps/...")
		build.Dir = root
		var out []byte
		if out, err = build.CombinedOutput(); err != nil {
			err = fmt.Errorf("build the mesh: %w\n%s", err, out)
		}
	}
	if err == nil {
		err = os.Setenv(mesh.EnvBin, bin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// TestGuides runs every command of every guide, on labs of the guide's own, and compares what it prints.
func TestGuides(t *testing.T) {
	files, err := filepath.Glob(root + "/docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no guides: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".md"), func(t *testing.T) {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			steps, err := Parse(f)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if len(steps) == 0 {
				t.Skip("the guide has no commands")
			}
			follow(t, file, steps)
		})
	}
}

// TestTour runs the first tour of the README. Its blocks are unmarked, and it expects nothing but success.
func TestTour(t *testing.T) {
	data, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tour, ok := strings.Cut(string(data), "## A first tour")
	if ok {
		_, tour, ok = strings.Cut(tour, "```")
	}
	if ok {
		_, tour, _ = strings.Cut(tour, "\n")
		tour, _, ok = strings.Cut(tour, "```")
	}
	if !ok {
		t.Fatal("the README has no first tour")
	}
	var lines []string
	for line := range strings.SplitSeq(tour, "\n") {
		// The tour names the folder of a checkout's programs; the test has them elsewhere.
		if !strings.HasPrefix(line, "export PATH=") {
			lines = append(lines, line)
		}
	}
	follow(t, "README.md", []Step{{Line: 1, Command: strings.Join(lines, "\n")}})
}

// TestREADMENamesEveryGuide keeps the list of guides complete.
func TestREADMENamesEveryGuide(t *testing.T) {
	data, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(root + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	onCluster, err := filepath.Glob(root + "/docs/kubernetes/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, onCluster...) {
		if name, _ := filepath.Rel(root, file); !bytes.Contains(data, []byte("("+name+")")) {
			t.Errorf("README.md has no link to %s", name)
		}
	}
}

// follow runs the steps of a guide in one shell, as a reader would.
func follow(t *testing.T, file string, steps []Step) {
	if os.Geteuid() != 0 {
		t.Skip("labs are made of network namespaces, which only root may make")
	}
	t.Parallel()
	bin, err := filepath.Abs(os.Getenv(mesh.EnvBin))
	if err != nil {
		t.Fatal(err)
	}
	// Sockets lie below and have short paths, so not t.TempDir.
	labs, err := os.MkdirTemp("", "guide")
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), labfile.EnvRoot+"="+labs, "AMBIT_LAB=", "KUBECONFIG="+labs+"/none", "NO_COLOR=1", "TMPDIR="+t.TempDir())
	t.Cleanup(func() {
		clean := exec.Command(filepath.Join(bin, "ambit-lab"), "down", "--all")
		clean.Env = env
		if out, err := clean.CombinedOutput(); err != nil {
			t.Errorf("clean up: %v\n%s", err, out)
		}
		os.RemoveAll(labs)
	})
	began := time.Now()
	for _, problem := range (Session{Dir: root, Env: env, Limit: limit}).Follow(t.Context(), file, steps) {
		t.Error(problem)
	}
	t.Logf("%d blocks in %s", len(steps), time.Since(began).Round(10*time.Millisecond))
}
