package ctl

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/api/labfile"
)

// agentLab is a lab with one node, whose agent answers with pods, and an authority that counts rotations.
func agentLab(t *testing.T, rotated *int) {
	t.Helper()
	t.Setenv(labfile.EnvRoot, filepath.Join(t.TempDir(), "l"))
	dir := labfile.Dir("a")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lab := &labfile.Lab{Name: "a", Dir: dir, Nodes: []labfile.Node{{Name: "node1", CNIAdmin: filepath.Join(dir, "cni.sock")}}}
	lab.Control.CAAdminSocket = filepath.Join(dir, "ca.sock")
	if err := labfile.Write(lab); err != nil {
		t.Fatal(err)
	}
	cni, ca := http.NewServeMux(), http.NewServeMux()
	cni.HandleFunc("GET /pods", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"Pod":"shop/web","Reason":"asked for","Enrolled":true,"Captured":true,"TakenByProxy":true},
			{"Pod":"shop/new","Reason":"asked for","Enrolled":true,"Captured":true},
			{"Pod":"shop/old","Reason":"not asked for","Captured":true,"TakenByProxy":true},
			{"Pod":"other/x","Reason":"not asked for"}]`))
	})
	ca.HandleFunc("POST /rotate", func(http.ResponseWriter, *http.Request) { *rotated++ })
	ca.HandleFunc("GET /roots", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("-----BEGIN…")) })
	serve(t, lab.Nodes[0].CNIAdmin, cni)
	serve(t, lab.Control.CAAdminSocket, ca)
}

func TestEnrolment(t *testing.T) {
	agentLab(t, new(int))
	r := run(t, strings.Fields("enrolment -n shop"))
	if r.code != 0 {
		t.Fatalf("exit code %d: %s", r.code, r.err)
	}
	golden(t, "enrolment", r.out)
	var list []enrolled
	r = run(t, strings.Fields("enrolment -o json"))
	if err := json.Unmarshal([]byte(r.out), &list); err != nil || len(list) != 4 || list[0].Node != "node1" {
		t.Errorf("%v: %s", err, r.out)
	}
	if r = run(t, strings.Fields("enrolment --node node9")); r.code == 0 || !strings.Contains(r.err, "node9") {
		t.Errorf("an unknown node: code %d, %s", r.code, r.err)
	}
}

func TestAuthority(t *testing.T) {
	rotated := 0
	agentLab(t, &rotated)
	if r := run(t, strings.Fields("ca rotate")); r.code != 0 || rotated != 1 || !strings.Contains(r.out, "rotated") {
		t.Errorf("rotate: code %d, %d rotations, %s%s", r.code, rotated, r.out, r.err)
	}
	if r := run(t, strings.Fields("ca roots")); r.out != "-----BEGIN…" {
		t.Errorf("roots: %q %s", r.out, r.err)
	}
	if r := run(t, strings.Fields("ca status -f testdata/help.golden")); r.code != exitData {
		t.Errorf("a file that is no answer: code %d, %s", r.code, r.err)
	}
}

func TestCertificatesAsPEM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dump.json")
	pem := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	dump := `{"workloads":[],"certificates":[
		{"identity":"spiffe://td/ns/a/sa/x","certChain":[{"pem":"` + pem("leaf\n") + `"},{"pem":"` + pem("middle") + `"}],"rootCerts":[{"pem":"` + pem("root") + `"}]},
		{"identity":"spiffe://td/ns/a/sa/y","certChain":[{"pem":"` + pem("other") + `"}],"rootCerts":[{"pem":"` + pem("root") + `"}]}]}`
	if err := os.WriteFile(file, []byte(dump), 0o644); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"--identity sa/x --pem": "leaf\nmiddle\n",
		"--pem-roots":           "root\n",
	} {
		if r := run(t, strings.Fields("zc cert -f "+file+" "+args)); r.out != want {
			t.Errorf("%s: %q %s", args, r.out, r.err)
		}
	}
	if r := run(t, strings.Fields("zc cert --pem --identity sa/z -f "+file)); r.code == 0 {
		t.Error("nothing to print is no error")
	}
}
