package scrape

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// Query returns what is wrong with a query, and the labels that its results have.
func (m Metrics) Query(expr string) (found []string, problems []string) {
	e, err := parser.NewParser(parser.Options{}).ParseExpr(substitute(expr))
	if err != nil {
		return nil, []string{fmt.Sprintf("%q is no PromQL: %v", expr, err)}
	}
	c := checker{metrics: m}
	found = c.labels(e)
	slices.Sort(c.problems)
	return found, slices.Compact(c.problems)
}

// substitute puts something in for the variables of a dashboard.
func substitute(expr string) string {
	expr = strings.NewReplacer("$__rate_interval", "5m", "$__interval", "1m", "$__range", "1h").Replace(expr)
	return variable.ReplaceAllString(expr, ".*")
}

var variable = regexp.MustCompile(`\$\{?[a-z_]+\}?`)

type checker struct {
	metrics  Metrics
	problems []string
}

func (c *checker) wrong(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// labels returns those that an expression's results have; nil for a number.
func (c *checker) labels(e parser.Expr) []string {
	switch e := e.(type) {
	case *parser.VectorSelector:
		return c.selector(e.LabelMatchers)
	case *parser.MatrixSelector:
		return c.labels(e.VectorSelector)
	case *parser.SubqueryExpr:
		return c.labels(e.Expr)
	case *parser.ParenExpr:
		return c.labels(e.Expr)
	case *parser.UnaryExpr:
		return c.labels(e.Expr)
	case *parser.StepInvariantExpr:
		return c.labels(e.Expr)
	case *parser.AggregateExpr:
		return c.aggregate(e)
	case *parser.BinaryExpr:
		return c.binary(e)
	case *parser.Call:
		var out []string
		for _, a := range e.Args {
			out = append(out, c.labels(a)...)
		}
		if e.Func.Name == "histogram_quantile" {
			if !slices.Contains(out, "le") {
				c.wrong("%s: histogram_quantile needs the label le", e)
			}
			out = slices.DeleteFunc(out, func(l string) bool { return l == "le" })
		}
		return out
	}
	return nil
}

// selector finds the metrics that are meant, which may be several.
func (c *checker) selector(ms []*labels.Matcher) []string {
	var name *labels.Matcher
	for _, l := range ms {
		if l.Name == labels.MetricName {
			name = l
		}
	}
	if name == nil {
		c.wrong("a selector without a metric: %v", ms)
		return nil
	}
	var metrics []string
	for n := range c.metrics {
		if name.Matches(n) {
			metrics = append(metrics, n)
		}
	}
	if name.Type == labels.MatchRegexp {
		for alternative := range strings.SplitSeq(name.Value, "|") {
			if _, ok := c.metrics[alternative]; !ok && regexp.QuoteMeta(alternative) == alternative {
				c.wrong("no program serves %s", alternative)
			}
		}
	}
	if len(metrics) == 0 {
		c.wrong("no program serves %s", name.Value)
		return nil
	}
	var out []string
	for _, n := range metrics {
		for _, l := range ms {
			values, ok := c.metrics[n][l.Name]
			if l.Name != labels.MetricName && !ok {
				c.wrong("%s has no label %s; it has %v", n, l.Name, c.metrics.Labels(n))
			}
			if ok && l.Type == labels.MatchEqual && !slices.Contains(TargetLabels, l.Name) && !values[l.Value] && !values[""] {
				c.wrong("%s never has %s=%q", n, l.Name, l.Value)
			}
		}
		out = append(out, c.metrics.Labels(n)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *checker) aggregate(e *parser.AggregateExpr) []string {
	in := c.labels(e.Expr)
	if in == nil {
		return nil // said already
	}
	for _, l := range e.Grouping {
		if !slices.Contains(in, l) {
			c.wrong("%s: there is no label %s to group by", e, l)
		}
	}
	switch {
	case e.Op == parser.TOPK || e.Op == parser.BOTTOMK:
		return in
	case e.Without:
		return slices.DeleteFunc(in, func(l string) bool { return slices.Contains(e.Grouping, l) })
	}
	return append([]string{}, e.Grouping...)
}

func (c *checker) binary(e *parser.BinaryExpr) []string {
	left, right := c.labels(e.LHS), c.labels(e.RHS)
	if left == nil {
		return right
	}
	if right == nil || e.VectorMatching == nil {
		return left
	}
	for _, l := range e.VectorMatching.MatchingLabels {
		if e.VectorMatching.On && (!slices.Contains(left, l) || !slices.Contains(right, l)) {
			c.wrong("%s: both sides need the label %s", e, l)
		}
	}
	return append(left, e.VectorMatching.Include...)
}
