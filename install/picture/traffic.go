package picture

import (
	"bufio"
	"cmp"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// flow is one kind of traffic between two ends.
type flow struct {
	from, to, security, via string
}

// counts are what was counted of a flow.
type counts struct {
	opened, failed, requests, refusals, errors float64
	flags                                      string // sorted, separated by commas
}

// Traffic is what proxies counted.
type Traffic map[flow]counts

// maxLine bounds a line of metrics.
const maxLine = 1 << 20

// Add reads the metrics of a node proxy or a waypoint, in Prometheus' text format. Only what has to do with traffic is looked at.
func (t Traffic) Add(metrics io.Reader, waypoints func(namespace, workload string) string) error {
	lines := bufio.NewScanner(metrics)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, "istio_tcp_connections_") || strings.HasPrefix(line, "istio_requests_total{") {
			t.line(line, waypoints)
		}
	}
	return lines.Err()
}

func (t Traffic) line(line string, waypoints func(namespace, workload string) string) {
	name, labels, value, ok := parse(line)
	if !ok {
		return
	}
	f := flow{security: "plaintext"}
	if labels["connection_security_policy"] == "mutual_tls" {
		f.security = "mutual_tls"
	}
	sourceNS, sourceWL := labels["source_workload_namespace"], labels["source_workload"]
	if waypoints(sourceNS, sourceWL) != "" {
		return // the waypoint tells for whom it calls
	}
	f.from = end(sourceNS, labels["source_canonical_service"], sourceWL)
	f.to = end(labels["destination_service_namespace"], labels["destination_service_name"], "")
	if f.to == "" {
		f.to = end(labels["destination_workload_namespace"], labels["destination_canonical_service"], labels["destination_workload"])
	}
	f.from, f.to = cmp.Or(f.from, outside), cmp.Or(f.to, outside)
	via := waypoints(labels["destination_workload_namespace"], labels["destination_workload"])
	var c counts
	switch reporter := labels["reporter"]; {
	case name == "istio_requests_total" && (reporter == "waypoint" || reporter == "source"):
		// A waypoint's own name is not among the labels; its service tells it.
		c.requests = value
		switch code := labels["response_code"]; {
		case strings.HasPrefix(code, "4"):
			c.refusals = value
		case strings.HasPrefix(code, "5"), code == "0":
			c.errors = value
		}
	// What the client's proxy counts, the server's counts as well: only callers without a proxy are known to it alone.
	case reporter == "source", reporter == "destination" && f.security == "plaintext":
		f.via = via
		switch name {
		case "istio_tcp_connections_opened_total":
			c.opened = value
		case "istio_tcp_connections_failed_total":
			c.failed, c.flags = value, labels["response_flags"]
		default:
			return
		}
	default:
		return
	}
	old := t[f]
	t[f] = counts{old.opened + c.opened, old.failed + c.failed, old.requests + c.requests, old.refusals + c.refusals, old.errors + c.errors, joined(old.flags, c.flags)}
}

// outside is whoever the mesh does not know.
const outside = "/outside"

func end(namespace, name, otherwise string) string {
	if name == "" || name == "unknown" {
		name = otherwise
	}
	if name == "" || name == "unknown" || namespace == "unknown" {
		return ""
	}
	return namespace + "/" + name
}

func joined(a, b string) string {
	for _, more := range strings.Split(b, ",") {
		a = with(a, more)
	}
	return a
}

func with(a, b string) string {
	if b == "" || b == "-" || slices.Contains(strings.Split(a, ","), b) {
		return a
	}
	if a == "" {
		return b
	}
	list := append(strings.Split(a, ","), b)
	slices.Sort(list)
	return strings.Join(list, ",")
}

// parse takes name{label="value",…} number apart.
func parse(line string) (name string, labels map[string]string, value float64, ok bool) {
	name, rest, ok := strings.Cut(line, "{")
	if !ok {
		return "", nil, 0, false
	}
	labels = map[string]string{}
	for rest != "" && rest[0] != '}' {
		key, after, ok := strings.Cut(strings.TrimPrefix(rest, ","), `="`)
		if !ok {
			return "", nil, 0, false
		}
		var text strings.Builder
		i := 0
		for ; i < len(after) && after[i] != '"'; i++ {
			if after[i] == '\\' && i+1 < len(after) {
				i++
				if after[i] == 'n' {
					text.WriteByte('\n')
					continue
				}
			}
			text.WriteByte(after[i])
		}
		if i == len(after) {
			return "", nil, 0, false
		}
		labels[key] = text.String()
		rest = after[i+1:]
	}
	if rest == "" {
		return "", nil, 0, false
	}
	number, _, _ := strings.Cut(strings.TrimSpace(rest[1:]), " ")
	value, err := strconv.ParseFloat(number, 64)
	return name, labels, value, err == nil
}

// edges joins what is counted of connections with what is counted of requests, and adds rates.
func edges(in Input) []Edge {
	via := map[string]string{}
	for _, s := range services(in.Known) {
		via[id(s.Namespace, s.Name)] = s.Waypoint
	}
	merge := func(t Traffic) map[flow]counts {
		out := map[flow]counts{}
		for f, c := range t {
			if c.requests > 0 && f.via == "" {
				if w := via[f.to]; w != "" {
					f.via = w
				}
			}
			if f.via != "" {
				// A waypoint is named by its service's name in a dump, and by its workload in metrics.
				f.via = cmp.Or(via[f.to], f.via)
			}
			if c.opened+c.requests == 0 {
				// A connection that was not made was not safe or unsafe: it counts to one that was, if there is one.
				f.security = ""
			}
			o := out[f]
			out[f] = counts{o.opened + c.opened, o.failed + c.failed, o.requests + c.requests, o.refusals + c.refusals, o.errors + c.errors, joined(o.flags, c.flags)}
		}
		for f, c := range out {
			made := flow{f.from, f.to, "mutual_tls", f.via}
			if o, ok := out[made]; ok && f.security == "" {
				o.failed, o.flags = o.failed+c.failed, joined(o.flags, c.flags)
				out[made] = o
				delete(out, f)
			}
		}
		return out
	}
	now, before := merge(in.Traffic), merge(in.Before)
	seconds := in.Now.Sub(in.BeforeTime).Seconds()
	var out []Edge
	for f, c := range now {
		e := Edge{From: f.from, To: f.to, Security: f.security, Via: f.via, Connections: c.opened, Failed: c.failed, Requests: c.requests, Refusals: c.refusals, Errors: c.errors}
		if c.flags != "" {
			e.Flags = strings.Split(c.flags, ",")
		}
		if in.Before != nil && seconds > 0 && seconds < time.Hour.Seconds() {
			b := before[f]
			e.Rate = (c.opened + c.failed - b.opened - b.failed) / seconds
			if c.requests > 0 {
				e.Rate = (c.requests - b.requests) / seconds
			}
			e.Rate = max(0, e.Rate) // a proxy that was restarted counts from 0
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Security, b.Security), cmp.Compare(a.Via, b.Via))
	})
	return out
}
