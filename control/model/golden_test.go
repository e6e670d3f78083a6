package model

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/object"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden computes each testdata/CASE.in.yaml and compares everything that comes out with CASE.out. The first line of
// an input may set the model up: "# config: dry-run allow-waypoints visibility network-policies".
func TestGolden(t *testing.T) {
	inputs, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, in := range inputs {
		name := strings.TrimSuffix(filepath.Base(in), ".in.yaml")
		t.Run(name, func(t *testing.T) {
			raw, err := os.ReadFile(in)
			if err != nil {
				t.Fatal(err)
			}
			m, rec := New(configOf(string(raw))), newRecorder(t)
			m.Apply(decode(t, raw))
			m.Flush(rec)
			got := rec.golden(t)
			out := strings.TrimSuffix(in, ".in.yaml") + ".out"
			if *update {
				if err := os.WriteFile(out, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Fatalf("%s differs (run with -update to accept):\n%s", out, diff)
			}
		})
	}
}

func configOf(in string) Config {
	first, _, _ := strings.Cut(in, "\n")
	cfg := Config{
		Network:         "net1",
		DryRun:          strings.Contains(first, "dry-run"),
		AllowWaypoints:  strings.Contains(first, "allow-waypoints"),
		NetworkPolicies: strings.Contains(first, "network-policies"),
	}
	if strings.Contains(first, "visibility") {
		cfg.Visibility = []VisibilityRule{
			{Namespaces: object.LabelSelector{MatchLabels: object.LabelsOf("see", "own")}, Visibility: NamespaceOnly},
			{Namespaces: object.LabelSelector{MatchLabels: object.LabelsOf("see", "none")}, Visibility: Nobody},
		}
	}
	return cfg
}

func decode(t *testing.T, raw []byte) []object.Event {
	t.Helper()
	var events []object.Event
	for _, doc := range intake.NewDecoder(intake.Limits{}).File("in.yaml", raw, nil) {
		for _, it := range doc.Items {
			if it.Object == nil {
				t.Fatalf("the input is refused: %v", it.Entries)
			}
			events = append(events, object.Put(it.Object))
		}
	}
	return events
}

// golden is everything recorded as sorted sections of compact JSON.
func (r *recorder) golden(t *testing.T) string {
	sections := map[string]string{}
	add := func(name string, m proto.Message) { sections[name] = indent(t, m) }
	for k, v := range r.workloads {
		add("workload "+k, v)
	}
	for k, v := range r.services {
		add("service "+k, v)
	}
	for k, v := range r.policies {
		add("policy "+k, v)
	}
	for k, v := range r.reports {
		s := ""
		for _, c := range v.Conditions {
			s += fmt.Sprintf("%s=%t %s: %s\n", c.Type, c.Status, c.Reason, c.Message)
		}
		for _, a := range v.Addresses {
			s += "address " + a.Host + " " + a.Address.String() + "\n"
		}
		for _, w := range v.Warnings {
			s += fmt.Sprintf("warning %s: %s; %s\n", w.Field, w.Problem, w.Fix)
		}
		sections["report "+k.String()] = s
	}
	names := make([]string, 0, len(sections))
	for n := range sections {
		names = append(names, n)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, n := range names {
		fmt.Fprintf(&b, "== %s\n%s\n", n, sections[n])
	}
	return b.String()
}

// indent writes one field per line; nested ones stay on the line.
func indent(t *testing.T, m proto.Message) string {
	t.Helper()
	raw, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		t.Fatal(err)
	}
	keys := make([]string, 0, len(fields))
	for k := range fields {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var b strings.Builder
	for _, k := range keys {
		if k == "rules" { // one rule per line
			fmt.Fprintf(&b, "rules:\n")
			for _, r := range fields[k].([]any) {
				fmt.Fprintf(&b, "  - %s\n", compact(t, r))
			}
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", k, compact(t, fields[k]))
	}
	return b.String()
}

func compact(t *testing.T, v any) string {
	t.Helper()
	b := &bytes.Buffer{}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(addresses(v, false)); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

// addresses makes raw addresses readable wherever they stand.
func addresses(v any, here bool) any {
	switch v := v.(type) {
	case string:
		if raw, err := base64.StdEncoding.DecodeString(v); err == nil && here {
			if a, ok := netip.AddrFromSlice(raw); ok {
				return a.String()
			}
		}
	case []any:
		for i := range v {
			v[i] = addresses(v[i], here || isRaw(v[i]))
		}
	case map[string]any:
		for k := range v {
			v[k] = addresses(v[k], k == "address")
		}
	}
	return v
}

// isRaw guesses whether a list item is an address: base64 of four or sixteen bytes, with its padding.
func isRaw(v any) bool {
	s, ok := v.(string)
	return ok && strings.HasSuffix(s, "==") && (len(s) == 8 || len(s) == 24)
}
