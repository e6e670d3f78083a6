package main

import (
	"fmt"
	"strings"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

// layer7 has the columns of Gateways, routes and what is for services and Gateways; no head for other kinds.
func layer7(kind string) ([]string, func(resource.Object) []string) {
	switch kind {
	case "Gateway":
		return []string{"CLASS", "ADDRESS", "PROGRAMMED"}, func(o resource.Object) []string {
			return []string{dash(o.Text("spec", "gatewayClassName")), strings.Join(field(o, "value", "status", "addresses"), ","), stateOf(o, "Programmed")}
		}
	case "GatewayClass":
		return []string{"CONTROLLER", "ACCEPTED"}, func(o resource.Object) []string {
			return []string{dash(o.Text("spec", "controllerName")), stateOf(o, "Accepted")}
		}
	case "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute":
		return []string{"KIND", "HOSTNAMES", "PARENTS"}, func(o resource.Object) []string {
			return []string{kind, dash(join(o.At("spec", "hostnames"))), dash(strings.Join(references(o, "Gateway", "spec", "parentRefs"), ","))}
		}
	case "VirtualService":
		return []string{"KIND", "GATEWAYS", "HOSTS"}, func(o resource.Object) []string {
			return []string{kind, dash(join(o.At("spec", "gateways"))), dash(join(o.At("spec", "hosts")))}
		}
	case "DestinationRule":
		return []string{"KIND", "HOST", "SUBSETS"}, func(o resource.Object) []string {
			return []string{kind, dash(o.Text("spec", "host")), strings.Join(field(o, "name", "spec", "subsets"), ",")}
		}
	case "ServiceEntry":
		return []string{"KIND", "HOSTS", "LOCATION", "RESOLUTION"}, func(o resource.Object) []string {
			return []string{kind, dash(join(o.At("spec", "hosts"))), dash(o.Text("spec", "location")), dash(o.Text("spec", "resolution"))}
		}
	case "RequestAuthentication", "LocalRateLimitPolicy", "ExtensionPolicy", "WasmPlugin", "Telemetry":
		return []string{"KIND", "FOR"}, func(o resource.Object) []string { return []string{kind, selectorOf(o)} }
	}
	return nil, nil
}

// stateOf is a condition's status, Unknown without one.
func stateOf(o resource.Object, kind string) string {
	list, _ := o.At("status", "conditions").([]any)
	for _, c := range list {
		if m := (resource.Object{"c": c}); m.Text("c", "type") == kind {
			return m.Text("c", "status")
		}
	}
	return "Unknown"
}

// targets are what a policy is for, other than pods.
func targets(o resource.Object) []string {
	return append(references(o, "", "spec", "targetRefs"), references(resource.Object{"l": []any{o.At("spec", "targetRef")}}, "", "l")...)
}

// references are Kind/name of the references in a list, of kind missing where they do not say.
func references(o resource.Object, missing string, path ...string) []string {
	list, _ := o.At(path...).([]any)
	var out []string
	for _, v := range list {
		m, ok := v.(map[string]any)
		if !ok {
			continue
		}
		r := resource.Object(m)
		kind := r.Text("kind")
		if kind == "" {
			kind = missing
		}
		out = append(out, strings.TrimPrefix(fmt.Sprintf("%s/%s", kind, r.Text("name")), "/"))
	}
	return out
}
