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

// The chart has exactly these dashboards.
func TestChartHasThem(t *testing.T) {
	dir := filepath.Join("..", "charts", "base", "files", "dashboards")
	var want []string
	for _, d := range All() {
		raw, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, d.Name+".json")
		want = append(want, path)
		if *update {
			if err := os.MkdirAll(dir, 0o755); err != nil {
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
	have, err := filepath.Glob(filepath.Join(dir, "*"))
	slices.Sort(want)
	if err != nil || !slices.Equal(have, want) {
		t.Errorf("the chart has %v, want %v", have, want)
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
