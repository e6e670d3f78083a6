package gateways

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

func keyOf(o Object) Key {
	return Key{document.Text(o, "kind"), document.Text(o, "metadata", "namespace"), document.Text(o, "metadata", "name")}
}

// errAddressType is what is wrong with an address of a kind of somebody else.
var errAddressType = errors.New("IPAddress and Hostname are known")

// readGateway reads what deploy needs to know, and the host name that stands for a Service somebody else runs.
func readGateway(o Object) (g deploy.Gateway, manual string, err error) {
	g = deploy.Gateway{
		Namespace: document.Text(o, "metadata", "namespace"), Name: document.Text(o, "metadata", "name"), UID: document.Text(o, "metadata", "uid"),
		Class:  document.Text(o, "spec", "gatewayClassName"),
		Labels: document.Strings(o, "metadata", "labels"), Annotations: document.Strings(o, "metadata", "annotations"),
		InfrastructureLabels:      document.Strings(o, "spec", "infrastructure", "labels"),
		InfrastructureAnnotations: document.Strings(o, "spec", "infrastructure", "annotations"),
	}
	for i, l := range document.Items(o, "spec", "listeners") {
		port := document.Number(l, "port")
		if port < 1 || port > 65535 {
			return g, "", fmt.Errorf("spec.listeners[%d].port %v: a number from 1 to 65535 belongs there", i, l["port"])
		}
		g.Listeners = append(g.Listeners, deploy.Listener{Name: document.Text(l, "name"), Protocol: document.Text(l, "protocol"), Port: int(port)})
	}
	if len(g.Listeners) == 0 {
		return g, "", fmt.Errorf("spec.listeners is empty: a waypoint's has port 15008 and protocol HBONE")
	}
	for i, a := range document.Items(o, "spec", "addresses") {
		value := document.Text(a, "value")
		switch kind := document.Text(a, "type"); {
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
	controller := document.Text(doc, "spec", "controllerName")
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
