//go:build kind

package kind

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBugReport gathers everything, and looks in it for what must not be there.
func TestBugReport(t *testing.T) {
	c := open(t)
	url := c.shop("report")
	c.says("waypoint apply -n report --enroll-namespace --wait", "is ready!")
	c.answers("report", "client", url, "-H", "Authorization: Bearer hunter2hunter2")
	c.apply("report", "apiVersion: v1\nkind: Secret\nmetadata: {name: theirs}\nstringData: {password: correct-horse-battery}\n")
	file := filepath.Join(t.TempDir(), "report.tar.gz")
	out, stderr, err := c.try("bug-report", "--output", file, "-n", "report")
	c.must(err)
	secrets := []string{"hunter2hunter2", "correct-horse-battery", "BEGIN EC PRIVATE KEY", "BEGIN PRIVATE KEY", "BEGIN RSA PRIVATE KEY"}
	if s, err := c.client.CoreV1().Secrets(system).Get(c.ctx, "istio-ca-secret", metav1.GetOptions{}); err == nil {
		for line := range strings.Lines(string(s.Data["ca-key.pem"])) {
			if line = strings.TrimSpace(line); len(line) > 20 && !strings.Contains(line, "---") {
				secrets = append(secrets, line)
			}
		}
	}
	files := archive(t, file)
	for name, data := range files {
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				t.Errorf("%s holds a secret (%.8s…)", name, s)
			}
		}
	}
	if len(files["errors.txt"]) == 0 || len(files) < 80 {
		t.Errorf("%d files\n%s%s", len(files), out, stderr)
	}
	t.Logf("%s%s", out, files["errors.txt"])
	for name, want := range map[string]string{
		"summary/proxy-status.txt": "waypoint-", "summary/check.txt": "ambitd", "objects/Secret.json": "istio-ca-secret", "objects/Gateway.json": `"report"`, "summary/enrolment.txt": "web-",
	} {
		if !bytes.Contains(files[name], []byte(want)) {
			t.Errorf("%s has no %q: %.500s", name, want, files[name])
		}
	}
	kinds := map[string]bool{}
	for name := range files {
		if parts := strings.Split(name, "/"); parts[0] == "components" && len(files[name]) > 0 {
			kinds[parts[1]] = true
		}
	}
	for _, k := range []string{"control-plane", "certificate-authority", "ztunnel", "agent", "waypoint"} {
		if !kinds[k] {
			t.Errorf("no answer of any %s", k)
		}
	}
}

// archive reads a report, without the name of its folder.
func archive(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		if out[name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDashboard finds in the picture who calls whom, and how.
func TestDashboard(t *testing.T) {
	c := open(t)
	url := c.shop("picture")
	c.namespace("picture-outside")
	c.apply("picture-outside", plain("visitor"))
	c.ready("picture-outside", "role=client")
	bin := os.Getenv("AMBIT_BIN")
	if bin == "" {
		bin = filepath.Join(root, "bin")
	}
	cmd := exec.CommandContext(c.ctx, filepath.Join(bin, "ambitctl"), "dashboard", "--every", "1s", "--kubeconfig", os.Getenv("KUBECONFIG"))
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	c.must(err)
	c.must(cmd.Start())
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the dashboard ended with %v", err)
		}
	}()
	lines := bufio.NewScanner(stdout)
	if !lines.Scan() {
		t.Fatal("the dashboard prints no address")
	}
	address := lines.Text()
	base, _, _ := strings.Cut(address, "?")
	jar, err := cookiejar.New(nil)
	c.must(err)
	page := &http.Client{Jar: jar}
	if resp, err := page.Get(base + "picture.json"); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("without the key: %v, %v", resp, err)
	}
	resp, err := page.Get(address)
	c.must(err)
	resp.Body.Close()
	c.eventually("the picture shows both callers", func() error {
		for from, to := range map[string]string{"picture": "client", "picture-outside": "visitor"} {
			if _, err := c.fetch(from, to, url); err != nil {
				return err
			}
		}
		resp, err := page.Get(base + "picture.json")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var p struct {
			Edges   []struct{ From, To, Security string }
			Pods    []struct{ Namespace, Name, State string }
			Parts   []struct{ Kind, Version string }
			Missing []string
		}
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
			return err
		}
		seen := map[string]bool{}
		for _, e := range p.Edges {
			seen[e.From+" "+e.To+" "+e.Security] = true
		}
		for _, want := range []string{"picture/client picture/web mutual_tls", "picture-outside/visitor picture/web plaintext"} {
			if !seen[want] {
				return fmt.Errorf("no %s in %v", want, p.Edges)
			}
		}
		in := 0
		for _, pod := range p.Pods {
			if pod.Namespace == "picture" && pod.State == "in" {
				in++
			}
		}
		if in != 4 || len(p.Parts) < 3 {
			return fmt.Errorf("%d pods in the mesh, %d parts", in, len(p.Parts))
		}
		return nil
	})
}
