package daemon

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
)

// configDump writes what is served: the very bytes that streams send, decoded.
//
//	{"workloads": [{"name", "version", "resource"}…], "services": […], "policies": […]}
func (d *Daemon) configDump(w http.ResponseWriter, r *http.Request) {
	part := r.URL.Query().Get("name")
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	// Errors below are a reader that went away; there is nobody left to tell.
	defer out.Flush()
	var services []xds.Resource
	list := dumper{out: out}
	fmt.Fprint(out, "{\n")
	list.open("workloads")
	for _, res := range d.addresses.Snapshot() {
		if !strings.Contains(res.Name, part) {
			continue
		}
		var a workload.Address
		if err := proto.Unmarshal(res.Body, &a); err != nil {
			continue // only possible if an encoder and a decoder of the same library disagree
		}
		if a.GetService() != nil {
			services = append(services, res)
			continue
		}
		list.item(res, a.GetWorkload())
	}
	list.open("services")
	for _, res := range services {
		var a workload.Address
		if proto.Unmarshal(res.Body, &a) == nil {
			list.item(res, a.GetService())
		}
	}
	list.open("policies")
	for _, res := range d.policies.Snapshot() {
		var a security.Authorization
		if strings.Contains(res.Name, part) && proto.Unmarshal(res.Body, &a) == nil {
			list.item(res, &a)
		}
	}
	list.close()
	fmt.Fprint(out, "}\n")
}

// dumper writes named lists of resources.
type dumper struct {
	out   *bufio.Writer
	begun bool
	items int
}

func (l *dumper) open(name string) {
	if l.begun {
		fmt.Fprint(l.out, "\n  ],\n")
	}
	l.begun, l.items = true, 0
	fmt.Fprintf(l.out, "  %q: [", name)
}

func (l *dumper) close() { fmt.Fprint(l.out, "\n  ]\n") }

func (l *dumper) item(res xds.Resource, m proto.Message) {
	raw, err := protojson.MarshalOptions{UseProtoNames: false}.Marshal(m)
	if err != nil {
		return
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return
	}
	b, err := json.Marshal(struct {
		Name     string `json:"name"`
		Version  string `json:"version,omitempty"`
		Resource any    `json:"resource"`
	}{res.Name, res.Version, readable(v)})
	if err != nil {
		return
	}
	if l.items++; l.items > 1 {
		l.out.WriteByte(',')
	}
	l.out.WriteString("\n    ")
	l.out.Write(b)
}

// readable turns the raw addresses in a decoded message into text.
func readable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, f := range v {
			s, isText := f.(string)
			switch {
			case k == "address" && isText:
				v[k] = addressText(s)
			case k == "addresses":
				if l, ok := f.([]any); ok {
					for i := range l {
						if s, ok := l[i].(string); ok {
							l[i] = addressText(s)
						} else {
							l[i] = readable(l[i])
						}
					}
				}
			default:
				v[k] = readable(f)
			}
		}
	case []any:
		for i := range v {
			v[i] = readable(v[i])
		}
	}
	return v
}

func addressText(s string) string {
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		return s
	}
	if a, ok := netip.AddrFromSlice(raw); ok {
		return a.String()
	}
	return s
}
