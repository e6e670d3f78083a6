package dashboards

// json is the panel without its place.
func (p Panel) json() object {
	defaults := object{"unit": p.Unit, "min": 0}
	options := object{}
	switch p.Kind {
	case Curves:
		defaults["custom"] = object{"fillOpacity": 10, "showPoints": "never", "lineWidth": 1}
		options = object{
			"legend":  object{"displayMode": "table", "placement": "bottom", "calcs": []string{"lastNotNull", "max"}, "showLegend": true},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
	case Number:
		options = object{"colorMode": "value", "graphMode": "area", "reduceOptions": object{"calcs": []string{"lastNotNull"}}}
		steps := []any{object{"color": "green", "value": nil}}
		if p.Bad != nil {
			steps = append(steps, object{"color": "red", "value": *p.Bad})
		}
		defaults["thresholds"] = object{"mode": "absolute", "steps": steps}
	}
	out := object{
		"type": string(p.Kind), "title": p.Title, "description": p.Text, "datasource": source, "options": options,
		"fieldConfig": object{"defaults": defaults, "overrides": p.overrides()}, "targets": p.targets(),
	}
	if p.Kind == Table {
		out["transformations"] = p.columns()
	}
	return out
}

func (p Panel) targets() []any {
	var out []any
	for i, q := range p.Queries {
		t := object{"refId": refID(i), "expr": q.Expr, "legendFormat": q.Legend, "datasource": source}
		if p.Kind == Table {
			t["instant"], t["format"], t["legendFormat"] = true, "table", ""
		}
		out = append(out, t)
	}
	return out
}

// columns joins the queries of a table into one, a row for each set of labels.
func (p Panel) columns() []any {
	names := object{}
	for i, q := range p.Queries {
		names["Value #"+refID(i)] = q.Legend
	}
	return []any{
		object{"id": "merge", "options": object{}},
		object{"id": "organize", "options": object{"excludeByName": object{"Time": true}, "renameByName": names}},
	}
}

// overrides give the columns of a table their units, which follow from what they are called.
func (p Panel) overrides() []any {
	out := []any{}
	if p.Kind != Table {
		return out
	}
	for _, q := range p.Queries {
		unit, ok := columnUnits[q.Legend]
		if !ok {
			continue
		}
		out = append(out, object{
			"matcher": object{"id": "byName", "options": q.Legend}, "properties": []any{object{"id": "unit", "value": unit}},
		})
	}
	return out
}

var columnUnits = map[string]string{
	"Requests": requests, "Success": share, "p50": millis, "p90": millis, "p99": millis,
	"Connections": perSecond, "Failed": perSecond, "To clients": bytesRate, "To servers": bytesRate,
}

func refID(i int) string { return string(rune('A' + i)) }
