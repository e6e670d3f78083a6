// Package gatewayapi reads the mesh tests of Gateway API's conformance module as data: their manifests, and what they
// expect of which request, out of the composite literals of their source. That way they run against a lab without an API
// server, and a newer version of the module brings its new cases by itself.
//
// It runs nothing and knows no lab: e2e/stories does. What it cannot read of a test is an error and never left out in
// silence. Start reading at Read.
package gatewayapi

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Module is where the tests are from; the version is that of go.mod.
const Module = "sigs.k8s.io/gateway-api/conformance"

// Namespaces the manifests make. Gateway API conformance/utils/suite.
const (
	Namespace         = "gateway-conformance-mesh"
	ConsumerNamespace = "gateway-conformance-mesh-consumer"
)

// Test is one of the mesh tests.
type Test struct {
	Name      string
	Features  []string
	Manifests []string // files below the module
	Cases     []Case
	// Weights are the expected shares of backends, by the beginning of their names.
	Weights map[string]float64
}

// Case is one request and what is expected. The names are the module's.
type Case struct {
	TestCaseName    string
	Request         Request
	ExpectedRequest *struct {
		Request       // embedded, as there
		AbsentHeaders []string
	}
	RedirectRequest *struct{ Scheme, Host, Port, Path string }
	Response        struct {
		StatusCode  int
		StatusCodes []int
		Headers     map[string]string

		AbsentHeaders []string
	}
	Backend, Namespace string

	// Client is the namespace of the pod echo-v1 that asks.
	Client string `json:"-"`
}

// Request is what is sent, or what arrives.
type Request struct {
	Host, Method, Path, Protocol string
	Headers                      map[string]string
	UnfollowRedirect             bool
}

// PodAddress stands in a host for the address of pod echo-v2.
const PodAddress = "{address of echo-v2}"

// Dir finds the module's files.
func Dir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", Module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		return "", fmt.Errorf("find %s: %w; \"go mod download\" fetches it", Module, err)
	}
	return dir, nil
}

// Read reads all mesh tests below the module's folder, by name.
func Read(dir string) ([]Test, error) {
	files, err := filepath.Glob(filepath.Join(dir, "tests", "mesh", "*.go"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no mesh tests below %s: %w", dir, err)
	}
	var tests []Test
	same := map[string]string{} // tests that do what another one does
	byVar := map[string]int{}
	for _, name := range files {
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			v, ok := g.Specs[0].(*ast.ValueSpec)
			if !ok || len(v.Values) != 1 {
				continue
			}
			lit, ok := v.Values[0].(*ast.CompositeLit)
			if !ok || typeName(lit.Type) != "suite.ConformanceTest" {
				continue
			}
			t, other, err := readTest(lit)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
			}
			if other != "" {
				same[t.Name] = other
			}
			byVar[v.Names[0].Name] = len(tests)
			tests = append(tests, t)
		}
	}
	for i := range tests {
		if other, ok := same[tests[i].Name]; ok {
			tests[i].Cases = tests[byVar[other]].Cases
		}
		if len(tests[i].Cases) == 0 {
			return nil, fmt.Errorf("%s: no case was found in its source", tests[i].Name)
		}
	}
	slices.SortFunc(tests, func(a, b Test) int { return strings.Compare(a.Name, b.Name) })
	return tests, nil
}

// Manifest is the text of a file of the module.
func Manifest(dir, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	return string(data), err
}

// readTest reads a composite literal of suite.ConformanceTest; other is the variable whose Test it shares.
func readTest(lit *ast.CompositeLit) (t Test, other string, err error) {
	e := &evaluator{names: map[string]any{}}
	for _, el := range lit.Elts {
		kv := el.(*ast.KeyValueExpr)
		switch kv.Key.(*ast.Ident).Name {
		case "ShortName":
			t.Name, _ = e.value(kv.Value).(string)
		case "Features":
			t.Features = texts(e.value(kv.Value))
		case "Manifests":
			t.Manifests = texts(e.value(kv.Value))
		case "Test":
			switch f := kv.Value.(type) {
			case *ast.FuncLit:
				err = e.body(f.Body, &t)
			case *ast.SelectorExpr:
				other = f.X.(*ast.Ident).Name
			}
		}
	}
	if err == nil {
		err = e.err
	}
	return t, other, err
}

// body finds the requests in a test's function: lists of them, and single ones for weights.
func (e *evaluator) body(b *ast.BlockStmt, t *Test) (err error) {
	lists := map[string][]Case{}
	clients := map[string]string{}
	decode := func(v any, to any) {
		data, bad := json.Marshal(v)
		if bad == nil {
			bad = json.Unmarshal(data, to)
		}
		if bad != nil && err == nil {
			err = bad
		}
	}
	ast.Inspect(b, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			name, ok := n.Lhs[0].(*ast.Ident)
			if !ok || len(n.Rhs) != 1 {
				return true
			}
			switch v := n.Rhs[0].(type) {
			case *ast.CompositeLit:
				switch typeName(v.Type) {
				case "[]http.ExpectedResponse":
					var list []Case
					decode(e.value(v), &list)
					lists[name.Name] = list
					t.Cases = append(t.Cases, list...)
					return false
				case "map[string]float64":
					decode(e.value(v), &t.Weights)
					return false
				}
			case *ast.CallExpr:
				if f := typeName(v.Fun); strings.HasPrefix(f, "echo.ConnectToApp") {
					clients[name.Name] = Namespace
					if len(v.Args) == 4 {
						clients[name.Name], _ = e.value(v.Args[3]).(string)
					}
				}
			case *ast.BasicLit, *ast.SelectorExpr:
				e.names[name.Name] = e.value(v)
			}
		case *ast.CompositeLit: // one by itself
			if typeName(n.Type) == "http.ExpectedResponse" {
				var one Case
				decode(e.value(n), &one)
				t.Cases = append(t.Cases, one)
				return false
			}
		case *ast.RangeStmt:
			e.askedBy(n, lists, clients, t)
		}
		return true
	})
	for i := range t.Cases {
		if t.Cases[i].Client == "" {
			t.Cases[i].Client = Namespace
		}
	}
	return err
}

// askedBy notes whose client goes through a list.
func (e *evaluator) askedBy(loop *ast.RangeStmt, lists map[string][]Case, clients map[string]string, t *Test) {
	list, ok := loop.X.(*ast.Ident)
	if !ok {
		return
	}
	ast.Inspect(loop.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.SelectorExpr)
		if !ok || !strings.HasPrefix(call.Sel.Name, "MakeRequest") {
			return true
		}
		x, ok := call.X.(*ast.Ident)
		if !ok {
			return true
		}
		for i := range t.Cases {
			if slices.ContainsFunc(lists[list.Name], func(c Case) bool { return c.TestCaseName == t.Cases[i].TestCaseName }) {
				t.Cases[i].Client = clients[x.Name]
			}
		}
		return true
	})
}
