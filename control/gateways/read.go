package gateways

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// at returns the value at a path, or nil.
func at(o Object, path ...string) any {
	var v any = o
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func text(o Object, path ...string) string {
	s, _ := at(o, path...).(string)
	return s
}

// texts is the map of strings at a path; never nil, and a copy.
func texts(o Object, path ...string) map[string]string {
	out := map[string]string{}
	m, _ := at(o, path...).(map[string]any)
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// items are the mappings of the list at a path.
func items(o Object, path ...string) []Object {
	list, _ := at(o, path...).([]any)
	var out []Object
	for _, v := range list {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// whole is the number at a path, 0 if there is none.
func whole(o Object, path ...string) int64 {
	switch n := at(o, path...).(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	case int:
		return int64(n)
	}
	return 0
}

func keyOf(o Object) Key {
	return Key{text(o, "kind"), text(o, "metadata", "namespace"), text(o, "metadata", "name")}
}

// errAddressType is what is wrong with an address of a kind of somebody else.
var errAddressType = errors.New("IPAddress and Hostname are known")

// readGateway reads what deploy needs to know, and the host name that stands for a Service somebody else runs.
func readGateway(o Object) (g deploy.Gateway, manual string, err error) {
	g = deploy.Gateway{
		Namespace: text(o, "metadata", "namespace"), Name: text(o, "metadata", "name"), UID: text(o, "metadata", "uid"),
		Class:  text(o, "spec", "gatewayClassName"),
		Labels: texts(o, "metadata", "labels"), Annotations: texts(o, "metadata", "annotations"),
		InfrastructureLabels:      texts(o, "spec", "infrastructure", "labels"),
		InfrastructureAnnotations: texts(o, "spec", "infrastructure", "annotations"),
	}
	for i, l := range items(o, "spec", "listeners") {
		port := whole(l, "port")
		if port < 1 || port > 65535 {
			return g, "", fmt.Errorf("spec.listeners[%d].port %v: a number from 1 to 65535 belongs there", i, l["port"])
		}
		g.Listeners = append(g.Listeners, deploy.Listener{Name: text(l, "name"), Protocol: text(l, "protocol"), Port: int(port)})
	}
	if len(g.Listeners) == 0 {
		return g, "", fmt.Errorf("spec.listeners is empty: a waypoint's has port 15008 and protocol HBONE")
	}
	for i, a := range items(o, "spec", "addresses") {
		value := text(a, "value")
		switch kind := text(a, "type"); {
		case kind == "Hostname":
			manual = value
		case value == "":
		case kind == "" || kind == "IPAddress":
			ip, err := netip.ParseAddr(value)
			if err != nil {
				return g, "", fmt.Errorf("spec.addresses[%d].value %q is not an IP address", i, value)
			}
			g.Addresses = append(g.Addresses, ip.String())
		default:
			return g, "", fmt.Errorf("spec.addresses[%d].type %q: %w", i, kind, errAddressType)
		}
	}
	return g, manual, nil
}

// builtin is the class a Gateway's class is run as: itself, or the one whose controller it names.
func (r *Reconciler) builtin(class string) (deploy.Class, bool) {
	doc := r.get(Key{Kind: "GatewayClass", Name: class})
	controller := text(doc, "spec", "controllerName")
	for _, c := range deploy.Classes() {
		if doc == nil && c.Name == class || doc != nil && c.Controller == controller {
			return c, true
		}
	}
	return deploy.Class{}, false
}

// ours says whether a label's value marks what the mesh rendered.
func ours(managed string) bool {
	for _, c := range deploy.Classes() {
		if c.Managed == managed {
			return true
		}
	}
	return false
}
