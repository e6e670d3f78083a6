package dashboards

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

var update = flag.Bool("update", false, "write the JSON of the dashboards into the chart")

// The chart has exactly these dashboards and alerts.
func TestChartHasThem(t *testing.T) {
	files := filepath.Join("..", "charts", "base", "files")
	want := map[string][]byte{}
	for _, d := range All() {
		raw, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		want[filepath.Join(files, "dashboards", d.Name+".json")] = raw
	}
	rules, err := AlertRules()
	if err != nil {
		t.Fatal(err)
	}
	want[filepath.Join(files, "rules", "ambit.yaml")] = rules
	for path, raw := range want {
		if *update {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, raw, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s is not what this package defines (%v): go test ./install/dashboards -update", path, err)
		}
	}
	for _, dir := range []string{"dashboards", "rules"} {
		have, err := filepath.Glob(filepath.Join(files, dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range have {
			if want[path] == nil {
				t.Errorf("%s is not defined here any more: delete it", path)
			}
		}
	}
}

// Every alert says what is wrong and what to do.
func TestAlerts(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range Alerts() {
		if seen[a.Name] || a.Text == "" || a.Fix == "" || a.For == "" || !slices.Contains([]string{"critical", "warning", "info"}, a.Severity) {
			t.Errorf("%+v", a)
		}
		seen[a.Name] = true
	}
}

// What Grafana needs to show a page at all: identities, and panels that lie beside each other.
func TestPanelsDoNotOverlap(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range All() {
		raw, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			UID    string
			Panels []struct {
				ID      int
				Type    string
				Title   string
				GridPos struct{ X, Y, W, H int }
				Targets []struct{ RefID, Expr string }
			}
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			t.Fatal(err)
		}
		if uids[page.UID] {
			t.Errorf("two dashboards are called %s", page.UID)
		}
		uids[page.UID] = true
		taken, ids := map[[2]int]string{}, map[int]bool{}
		for _, p := range page.Panels {
			if ids[p.ID] || p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: panel %+v", d.Name, p)
			}
			ids[p.ID] = true
			if p.GridPos.X+p.GridPos.W > 24 {
				t.Errorf("%s: %q is wider than the page", d.Name, p.Title)
			}
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %q lies over %q", d.Name, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
		}
	}
}

func TestWraps(t *testing.T) {
	d := Dashboard{Name: "x", Rows: []Row{{"r", []Panel{number("a", count, "up").wide(20), number("b", count, "up").wide(8)}}}}
	panels := d.panels()
	first, second := panels[1].(object)["gridPos"].(object), panels[2].(object)["gridPos"].(object)
	if first["y"] == second["y"] {
		t.Errorf("20 and 8 columns do not fit beside each other: %v, %v", first, second)
	}
}
