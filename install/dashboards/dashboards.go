// Package dashboards defines what Grafana shows of a mesh: six dashboards, as data, and their JSON.
//
// A dashboard is rows of panels, and a panel is PromQL; where things stand on the screen follows from that. The JSON lies in
// the base chart, from where it is installed; a test holds it to this package, and a story holds every query to the metrics
// that the programs really serve. Queries tell programs apart by metrics that only they have, and pods by the labels
// namespace and pod, which every usual way of scraping sets; they rest on no name of a job.
//
// It draws nothing, asks no Prometheus and starts no goroutine. Start reading at All, then at mesh.go.
package dashboards

import "encoding/json"

// A Dashboard is one page.
type Dashboard struct {
	// Name is that of its file, and with "ambit-" in front its uid.
	Name, Title, Text string
	Variables         []Variable
	Rows              []Row
}

// A Variable is something to choose on top of the page, filled from label values.
type Variable struct {
	Name, Title string
	// Query is label_values(SELECTOR, LABEL).
	Query string
	// One value at a time instead of any number of them.
	Single bool
}

// A Row is a headline and the panels below it.
type Row struct {
	Title  string
	Panels []Panel
}

// A Panel shows queries.
type Panel struct {
	Title, Text string
	Kind        Kind
	Unit        string
	// Queries; in a table each is a column, and its legend the column's name.
	Queries []Query
	// Bad is from where on a number is shown in red; nil is never.
	Bad *float64
	// Width of 24. Zero is 8 for curves, 4 for a number, 24 for a table.
	Width int
}

// Kind is what a panel looks like.
type Kind string

// Kinds of panels.
const (
	Curves Kind = "timeseries"
	Number Kind = "stat"
	Table  Kind = "table"
)

// A Query is PromQL and what its results are called.
type Query struct{ Expr, Legend string }

// All returns the dashboards.
func All() []Dashboard {
	return []Dashboard{mesh(), service(), workload(), ztunnel(), waypoint(), controlPlane()}
}

// Units, as Grafana calls them.
const (
	perSecond  = "ops"
	requests   = "reqps"
	bytesRate  = "Bps"
	bytesUnit  = "bytes"
	share      = "percentunit"
	seconds    = "s"
	millis     = "ms"
	count      = "short"
	processors = "none"
)

func curves(title, unit string, queries ...Query) Panel {
	return Panel{Title: title, Kind: Curves, Unit: unit, Queries: queries}
}

func number(title, unit, expr string) Panel {
	return Panel{Title: title, Kind: Number, Unit: unit, Queries: []Query{{expr, ""}}}
}

// alarm is a number that should stay below a limit.
func alarm(title, unit, expr string, bad float64) Panel {
	p := number(title, unit, expr)
	p.Bad = &bad
	return p
}

func (p Panel) saying(text string) Panel { p.Text = text; return p }

func (p Panel) wide(w int) Panel { p.Width = w; return p }

// object is a piece of JSON.
type object = map[string]any

// JSON returns the dashboard as Grafana imports it.
func (d Dashboard) JSON() ([]byte, error) {
	list := []any{object{
		"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0, "current": object{},
	}}
	for _, v := range d.Variables {
		list = append(list, v.json())
	}
	raw, err := json.MarshalIndent(object{
		"uid": "ambit-" + d.Name, "title": "Ambit / " + d.Title, "description": d.Text, "tags": []string{"ambit"},
		"schemaVersion": 39, "editable": true, "graphTooltip": 1, "refresh": "30s", "timezone": "browser",
		"time":       object{"from": "now-1h", "to": "now"},
		"templating": object{"list": list},
		"panels":     d.panels(),
		"links":      []any{object{"type": "dashboards", "tags": []string{"ambit"}, "title": "Ambit", "asDropdown": true, "keepTime": true, "includeVars": true}},
	}, "", "  ")
	return append(raw, '\n'), err
}

var source = object{"type": "prometheus", "uid": "${datasource}"}

func (v Variable) json() object {
	o := object{
		"name": v.Name, "label": v.Title, "type": "query", "datasource": source, "definition": v.Query,
		"query": object{"query": v.Query, "refId": v.Name}, "refresh": 2, "sort": 1, "includeAll": !v.Single, "multi": !v.Single,
	}
	if !v.Single {
		o["allValue"] = ".*"
		o["current"] = object{"text": "All", "value": "$__all", "selected": true}
	}
	return o
}

// panels lays the rows out, from left to right, 24 columns wide.
func (d Dashboard) panels() []any {
	var out []any
	id, y := 1, 0
	for _, r := range d.Rows {
		out = append(out, object{
			"id": id, "type": "row", "title": r.Title, "collapsed": false, "panels": []any{}, "gridPos": object{"x": 0, "y": y, "w": 24, "h": 1},
		})
		id, y = id+1, y+1
		x, tallest := 0, 0
		for _, p := range r.Panels {
			w, h := p.size()
			if x+w > 24 {
				x, y, tallest = 0, y+tallest, 0
			}
			j := p.json()
			j["id"], j["gridPos"] = id, object{"x": x, "y": y, "w": w, "h": h}
			out = append(out, j)
			id, x, tallest = id+1, x+w, max(tallest, h)
		}
		y += tallest
	}
	return out
}

func (p Panel) size() (w, h int) {
	switch p.Kind {
	case Number:
		w, h = 4, 4
	case Table:
		w, h = 24, 9
	default:
		w, h = 8, 8
	}
	if p.Width > 0 {
		w = p.Width
	}
	return w, h
}
