package scrape

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// page is what is looked at of a dashboard of Grafana.
type page struct {
	Title  string
	Panels []struct {
		Type, Title string
		Targets     []struct{ Expr, LegendFormat string }
	}
	Templating struct {
		List []struct {
			Name, Type string
			Query      json.RawMessage
		}
	}
}

var (
	legend      = regexp.MustCompile(`\{\{\s*([a-zA-Z_]+)\s*\}\}`)
	labelValues = regexp.MustCompile(`^label_values\((.*),\s*([a-z_]+)\)$`)
	used        = regexp.MustCompile(`\$\{?([a-z_]+)\}?`)
)

// Dashboard returns what is wrong with the queries of a dashboard, and how many it has.
func (m Metrics) Dashboard(raw []byte) (queries int, problems []string) {
	var p page
	if err := json.Unmarshal(raw, &p); err != nil {
		return 0, []string{err.Error()}
	}
	wrong := func(where string, more ...string) {
		for _, s := range more {
			problems = append(problems, p.Title+": "+where+": "+s)
		}
	}
	known := []string{"__rate_interval", "__interval", "__range"}
	for _, v := range p.Templating.List {
		known = append(known, v.Name)
		if v.Type != "query" {
			continue
		}
		var q struct{ Query string }
		if err := json.Unmarshal(v.Query, &q); err != nil {
			wrong("variable "+v.Name, err.Error())
			continue
		}
		queries++
		parts := labelValues.FindStringSubmatch(q.Query)
		if parts == nil {
			wrong("variable "+v.Name, fmt.Sprintf("%q is not label_values(SELECTOR, LABEL)", q.Query))
			continue
		}
		labels, more := m.Query(parts[1])
		wrong("variable "+v.Name, more...)
		if more == nil && !slices.Contains(labels, parts[2]) {
			wrong("variable "+v.Name, "there is no label "+parts[2])
		}
	}
	for _, panel := range p.Panels {
		for _, t := range panel.Targets {
			queries++
			labels, more := m.Query(t.Expr)
			wrong(panel.Title, more...)
			for _, v := range used.FindAllStringSubmatch(t.Expr, -1) {
				if !slices.Contains(known, v[1]) {
					wrong(panel.Title, "there is no variable "+v[1])
				}
			}
			for _, l := range legend.FindAllStringSubmatch(t.LegendFormat, -1) {
				if more == nil && !slices.Contains(labels, l[1]) {
					wrong(panel.Title, fmt.Sprintf("its legend has %s, which %s has not: %v", l[1], strings.TrimSpace(t.Expr), labels))
				}
			}
		}
	}
	return queries, problems
}

var alertLabel = regexp.MustCompile(`\$labels\.([a-zA-Z_]+)`)

// Rules returns what is wrong with a file of alerting rules, and how many it has.
func (m Metrics) Rules(raw []byte) (alerts int, problems []string) {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalStrict(raw, &struct{ Groups any }{}); err != nil {
		return 0, []string{err.Error()}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		return 0, []string{err.Error()}
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			alerts++
			labels, more := m.Query(r.Expr)
			for _, text := range r.Annotations {
				for _, l := range alertLabel.FindAllStringSubmatch(text, -1) {
					if more == nil && !slices.Contains(labels, l[1]) {
						more = append(more, fmt.Sprintf("its text has the label %s, which %s has not: %v", l[1], r.Expr, labels))
					}
				}
			}
			for _, text := range more {
				problems = append(problems, "alert "+r.Alert+": "+text)
			}
		}
	}
	return alerts, problems
}
