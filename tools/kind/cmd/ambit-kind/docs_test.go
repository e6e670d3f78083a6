package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/tools/kind/node"
)

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile("../../../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestGuide holds docs/kind.md to what there is: its make targets, subcommands, variables and version exist. The stories that need
// a cluster run the rest of it.
func TestGuide(t *testing.T) {
	guide, makefile := read(t, "docs/kind.md"), read(t, "Makefile")
	script := read(t, "tools/kind/test.sh")
	for _, m := range regexp.MustCompile("(?:make|`make) (kind[a-z-]*)").FindAllStringSubmatch(guide, -1) {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("the guide says make %s, which the Makefile has not", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`bin/ambit-kind ([a-z-]+)`).FindAllStringSubmatch(guide, -1) {
		if !strings.Contains(usage, "ambit-kind "+m[1]+" ") {
			t.Errorf("the guide says ambit-kind %s, which there is not", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`([A-Z_]{3,})(?:=[^`]*)?`").FindAllStringSubmatch(guide, -1) {
		if !strings.Contains(usage, m[1]) && !strings.Contains(makefile, "("+m[1]+")") && !strings.Contains(script, "${"+m[1]+":") {
			t.Errorf("the guide says %s, which nothing reads", m[1])
		}
	}
	for _, r := range node.Releases() {
		minor := strings.TrimPrefix(r.Version[:strings.LastIndexByte(r.Version, '.')], "v")
		if !strings.Contains(guide, "Kubernetes "+r.Version) || !strings.Contains(guide, "KUBERNETES="+minor) && r.Version != node.Releases()[0].Version {
			t.Errorf("the guide does not name Kubernetes %s", r.Version)
		}
		if !strings.Contains(usage, minor) {
			t.Errorf("the usage does not name Kubernetes %s", minor)
		}
	}
}

// TestUsage: every subcommand that usage lists is one, and there is no other.
func TestUsage(t *testing.T) {
	source := read(t, "tools/kind/cmd/ambit-kind/main.go")
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  ambit-kind ([a-z-]+)`).FindAllStringSubmatch(usage, -1) {
		listed[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`case "([a-z-]+)":`).FindAllStringSubmatch(source, -1) {
		if !listed[m[1]] {
			t.Errorf("%s is not in the usage", m[1])
		}
		delete(listed, m[1])
	}
	if len(listed) > 0 {
		t.Errorf("the usage lists %v, which there is not", listed)
	}
}
