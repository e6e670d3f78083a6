package scrape

import (
	"strings"
	"testing"
)

const sample = `# HELP shop_requests_total Requests.
# TYPE shop_requests_total counter
shop_requests_total{reporter="waypoint",code="200"} 3
# HELP shop_seconds How long.
# TYPE shop_seconds histogram
shop_seconds_bucket{path="/",le="1"} 3
shop_seconds_bucket{path="/",le="+Inf"} 3
shop_seconds_sum{path="/"} 1
shop_seconds_count{path="/"} 3
`

func known(t *testing.T) Metrics {
	t.Helper()
	m := New()
	if n, problems := m.Add([]byte(sample)); n != 2 || problems != nil {
		t.Fatal(n, problems)
	}
	return m
}

// What a dashboard may get wrong is found, and what is right passes.
func TestQuery(t *testing.T) {
	for query, want := range map[string]string{
		`sum by (code) (rate(shop_requests_total{reporter="waypoint",pod=~"$pod"}[$__rate_interval]))`: "",
		`histogram_quantile(0.9, sum by (path, le) (rate(shop_seconds_bucket[5m])))`:                   "",
		`shop_requests_total and on (namespace, pod) shop_seconds_count`:                               "",
		`topk(3, sum by (code) (shop_requests_total)) or vector(0)`:                                    "",
		`sum(up) / sum(shop_seconds_sum)`:                                                              "",
		`rate(shop_request_total[5m])`:                                                                 "no program serves shop_request_total",
		`shop_requests_total{codes="200"}`:                                                             "has no label codes",
		`shop_requests_total{reporter="waypiont"}`:                                                     `never has reporter="waypiont"`,
		`sum by (path) (shop_requests_total)`:                                                          "no label path to group by",
		`histogram_quantile(0.9, sum by (path) (rate(shop_seconds_bucket[5m])))`:                       "needs the label le",
		`sum(shop_requests_total) and on (pod) shop_seconds_count`:                                     "both sides need the label pod",
		`sum(rate(shop_requests_total{[5m]))`:                                                          "no PromQL",
		`{__name__=~"shop_requests_total|shop_other_total"}`:                                           "no program serves shop_other_total",
		`rate(shop_seconds[5m])`:                                                                       "no program serves shop_seconds",
	} {
		_, problems := known(t).Query(query)
		if got := strings.Join(problems, "; "); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

func TestDashboard(t *testing.T) {
	const text = `{"title": "Shop", "templating": {"list": [
	  {"name": "datasource", "type": "datasource", "query": "prometheus"},
	  {"name": "code", "type": "query", "query": {"query": "label_values(shop_requests_total, code)"}},
	  {"name": "other", "type": "query", "query": {"query": "label_values(shop_requests_total, nothing)"}}]},
	 "panels": [{"type": "row", "title": "r"},
	  {"type": "timeseries", "title": "good", "targets": [{"expr": "sum by (code) (shop_requests_total{code=~\"$code\"})", "legendFormat": "{{code}}"}]},
	  {"type": "timeseries", "title": "bad", "targets": [{"expr": "sum(shop_requests_total{code=~\"$missing\"})", "legendFormat": "{{code}}"}]}]}`
	n, problems := known(t).Dashboard([]byte(text))
	got := strings.Join(problems, "\n")
	if n != 4 || len(problems) != 3 {
		t.Errorf("%d queries, problems:\n%s", n, got)
	}
	for _, want := range []string{"variable other: there is no label nothing", "bad: there is no variable missing", "bad: its legend has code"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not found in\n%s", want, got)
		}
	}
}

func TestLint(t *testing.T) {
	m := New()
	for text, want := range map[string]string{
		"# HELP requests Requests.\n# TYPE requests counter\nrequests 1\n": "_total",
		"# TYPE a_total counter\na_total 1\n":                              "no help text",
		"a_total{b=} 1\n":                                                  "format",
	} {
		if _, problems := m.Add([]byte(text)); !strings.Contains(strings.Join(problems, ";"), want) {
			t.Errorf("%q: %v, want %q", text, problems, want)
		}
	}
}

func TestRules(t *testing.T) {
	const text = `
groups:
- name: shop
  rules:
  - {alert: Good, expr: 'shop_requests_total > 1', annotations: {summary: "{{ $labels.pod }} {{ $labels.code }}"}}
  - {alert: Bad, expr: 'sum(shop_requests_total) > 1', annotations: {summary: "{{ $labels.pod }}"}}
  - {alert: Gone, expr: 'shop_gone > 1'}
`
	n, problems := known(t).Rules([]byte(text))
	got := strings.Join(problems, "\n")
	if n != 3 || len(problems) != 2 || !strings.Contains(got, "alert Bad: its text has the label pod") || !strings.Contains(got, "alert Gone: no program serves shop_gone") {
		t.Errorf("%d alerts: %s", n, got)
	}
}
