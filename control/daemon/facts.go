package daemon

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/xds"
)

// factName is a type of facts as the dump and the metrics call it.
func factName(typeURL string) string {
	return strings.ToLower(typeURL[strings.LastIndexByte(typeURL, '.')+1:])
}

// factDump writes what waypoints and gateways are served: the very bytes that streams send, decoded. Private keys are
// left out.
//
//	{"gateway": [{"name", "version", "resource"}…], "virtualhost": […], "service": […], "destination": […], "secret": […]}
func (d *Daemon) factDump(w http.ResponseWriter, r *http.Request) {
	gateway, part := r.URL.Query().Get("gateway"), r.URL.Query().Get("name")
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriter(w)
	// Errors below are a reader that went away; there is nobody left to tell.
	defer out.Flush()
	list := dumper{out: out}
	fmt.Fprint(out, "{\n")
	for _, c := range d.facts {
		list.open(factName(c.TypeURL()))
		for _, res := range c.Snapshot() {
			if gateway != "" && !slices.Contains(res.Scopes, gateway) || !strings.Contains(res.Name, part) {
				continue
			}
			if m := decodeFact(c, res); m != nil {
				list.item(res, m)
			}
		}
	}
	list.close()
	fmt.Fprint(out, "}\n")
}

func decodeFact(c *xds.Collection, res xds.Resource) proto.Message {
	var m proto.Message
	switch c.TypeURL() {
	case mesh.TypeWaypointGateway:
		m = &waypoint.Gateway{}
	case mesh.TypeWaypointVirtualHost:
		m = &waypoint.VirtualHost{}
	case mesh.TypeWaypointService:
		m = &waypoint.Service{}
	case mesh.TypeWaypointDestination:
		m = &waypoint.Destination{}
	default:
		m = &waypoint.Secret{}
	}
	if proto.Unmarshal(res.Body, m) != nil {
		return nil // only possible if an encoder and a decoder of the same library disagree
	}
	if s, ok := m.(*waypoint.Secret); ok {
		s.PrivateKey = nil
	}
	return m
}
