// Package depcheck holds the workspace to its import rules: who may import whom, and why.
//
// It reads the packages of the workspace through the go command and compares them with Rules. It knows nothing about
// what the packages do. Start reading at Rules; the test beside it is what runs in CI.
package depcheck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Prefix is the import path every package of the workspace starts with.
const Prefix = "github.com/ambit-mesh/ambit/"

// A Package is the part of `go list -json` that the rules look at.
type Package struct {
	ImportPath   string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
	Doc          string
	Name         string
	Dir          string
}

// An Allow lets one module or package import others of the workspace.
type Allow struct {
	From   string   // module or package path below Prefix
	To     []string // modules or packages below Prefix
	Reason string
}

// A Forbid keeps a dependency out, directly and through others.
type Forbid struct {
	From   string   // path below Prefix; packages below it are meant too
	Except []string // packages below From that are the door
	Path   string   // import path prefix that must not be reached
	Reason string
}

// Allowed says which module may import which. A module may always import itself.
var Allowed = []Allow{
	{"api", nil, "a leaf: what two processes agree on knows neither of them"},
	{"ca", []string{"api"}, "identity speaks the wire and nothing else"},
	{"ztunnel", []string{"api", "ca"}, "the node proxy meets the control plane on the wire"},
	{"waypoint", []string{"api", "ca", "ztunnel/state", "ztunnel/authz"}, "a waypoint reads the same facts as a ztunnel"},
	{"waypoint/deploy", []string{"api"}, "pure rendering, so that the control plane may import it"},
	{"control", []string{"api", "ca", "waypoint/deploy"}, "the control plane meets the data plane on the wire"},
	{"cni", []string{"api"}, "redirection must stay small and start first"},
	{"install", []string{"api"}, "the CLI talks to running parts, it does not contain them"},
	{"install/ctl", []string{"api", "control/analyze"}, "and judges files that no part has seen yet, with the control plane's own eyes"},
	{"e2e", []string{"api", "ca", "control", "ztunnel", "waypoint", "cni", "install"}, "proof may touch everything"},
	{"tools", nil, "developer tools work on the tree, not with it"},
}

// Forbidden keeps Kubernetes behind its doors and upstream protos out of binaries that carry ours.
var Forbidden = []Forbid{
	{From: "", Path: "istio.io/istio", Reason: "the protos are ours, written from the wire facts; the monorepo is never linked"},
	{From: "api", Path: "k8s.io/", Reason: "a leaf that every binary drinks from stays small"},
	{From: "ca", Path: "k8s.io/", Reason: "identities are issued on laptops and VMs too"},
	{From: "ztunnel", Path: "k8s.io/", Reason: "the node proxy never talks to Kubernetes"},
	{From: "cni", Except: []string{"cni/kube", "cni/cmd/ambit-cni-agent"}, Path: "k8s.io/", Reason: "one door: cni/kube; the plugin, which runs for every pod, stays small"},
	{From: "control/model", Path: "k8s.io/", Reason: "the model works on slim objects; decoding is control/intake's and control/kube's"},
	{From: "control/push", Path: "k8s.io/", Reason: "as for control/model"},
	{From: "control/object", Path: "k8s.io/", Reason: "slim objects are plain Go"},
	{From: "control", Except: []string{"control/kube", "control/daemon", "control/cmd"}, Path: "k8s.io/client-go", Reason: "one door: control/kube"},
	{From: "install", Except: []string{"install/apply", "install/cluster", "install/ctl", "install/cmd"}, Path: "k8s.io/client-go", Reason: "one door: install/apply"},
}

// badNames are package names that say nothing about their content.
var badNames = []string{"util", "utils", "common", "helpers", "misc", "base", "types", "pkg", "lib", "internal"}

// List returns the packages of the workspace whose root is dir.
func List(dir string) ([]Package, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps,Doc,Name,Dir", "work")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return nil, fmt.Errorf("go list: %w\n%s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("go list: %w", err)
	}
	var pkgs []Package
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p Package
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("decode go list: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}

// Check returns one line for every broken rule.
func Check(pkgs []Package) []string {
	var out []string
	for _, p := range pkgs {
		rel, ours := strings.CutPrefix(p.ImportPath, Prefix)
		if !ours {
			continue
		}
		out = append(out, checkImports(rel, p)...)
		out = append(out, checkForbidden(rel, p)...)
		out = append(out, checkName(rel, p)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func checkImports(rel string, p Package) []string {
	rule, ok := ruleFor(rel)
	if !ok {
		return []string{rel + ": no rule names its module; add one with a reason"}
	}
	var out []string
	for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
		to, ours := strings.CutPrefix(imp, Prefix)
		if !ours || module(to) == module(rel) || slices.ContainsFunc(rule.To, func(a string) bool { return within(to, a) }) {
			continue
		}
		out = append(out, fmt.Sprintf("%s imports %s: %s may import %v only (%s)", rel, to, rule.From, rule.To, rule.Reason))
	}
	return out
}

func checkForbidden(rel string, p Package) []string {
	var out []string
	for _, f := range Forbidden {
		if !within(rel, f.From) || slices.ContainsFunc(f.Except, func(e string) bool { return within(rel, e) }) {
			continue
		}
		// Whoever imports a door reaches what is behind it: only the door's own command may.
		for _, d := range p.Deps {
			if strings.HasPrefix(d, f.Path) {
				out = append(out, fmt.Sprintf("%s reaches %s: %s", rel, d, f.Reason))
				break
			}
		}
	}
	return out
}

func checkName(rel string, p Package) []string {
	var out []string
	if last := rel[strings.LastIndex(rel, "/")+1:]; slices.Contains(badNames, last) {
		out = append(out, rel+": the package name says nothing about its content")
	}
	if p.Doc == "" {
		out = append(out, rel+": no package doc")
	}
	return out
}

// ruleFor finds the most specific rule.
func ruleFor(rel string) (Allow, bool) {
	var best Allow
	found := false
	for _, a := range Allowed {
		if within(rel, a.From) && (!found || len(a.From) > len(best.From)) {
			best, found = a, true
		}
	}
	return best, found
}

func module(rel string) string {
	m, _, _ := strings.Cut(rel, "/")
	return m
}

func within(rel, root string) bool {
	return root == "" || rel == root || strings.HasPrefix(rel, root+"/")
}
