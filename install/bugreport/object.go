package bugreport

import (
	"fmt"
	"maps"
	"slices"
)

// Object is a document as decoded from JSON.
type Object = map[string]any

// Keep returns an object without what is nobody's business: contents of Secrets, values of environment variables, and
// bookkeeping. Of a foreign pod only what the mesh looks at is left. The object itself is not changed.
func Keep(o Object, own bool) Object {
	out := cleaned(o).(Object)
	meta, _ := out["metadata"].(Object)
	delete(meta, "managedFields")
	if a, ok := meta["annotations"].(Object); ok {
		// It repeats the whole object, with everything that was just taken out.
		delete(a, "kubectl.kubernetes.io/last-applied-configuration")
	}
	switch out["kind"] {
	case "Secret":
		for _, field := range []string{"data", "stringData"} {
			if data, ok := out[field].(Object); ok {
				out[field] = sizes(data)
			}
		}
	case "ConfigMap":
		if !own {
			for _, field := range []string{"data", "binaryData"} {
				if data, ok := out[field].(Object); ok {
					out[field] = sizes(data)
				}
			}
		}
	case "Pod":
		if spec, ok := out["spec"].(Object); ok && !own {
			out["spec"] = podSpec(spec)
		}
	}
	return out
}

// sizes keeps the names of entries and how long they are.
func sizes(data Object) Object {
	out := Object{}
	for k, v := range data {
		out[k] = fmt.Sprintf("%s %d bytes", hidden, len(fmt.Sprint(v)))
	}
	return out
}

// podSpec is what of a foreign pod has to do with the mesh. Commands and arguments are not among it: passwords stand there.
func podSpec(spec Object) Object {
	out := Object{}
	for _, k := range []string{"nodeName", "serviceAccountName", "hostNetwork", "dnsPolicy", "dnsConfig", "hostAliases", "readinessGates", "terminationGracePeriodSeconds", "hostname", "subdomain", "tolerations"} {
		if v, ok := spec[k]; ok {
			out[k] = v
		}
	}
	for _, list := range []string{"initContainers", "containers"} {
		containers, _ := spec[list].([]any)
		var kept []any
		for _, c := range containers {
			c, _ := c.(Object)
			short := Object{}
			for _, k := range []string{"name", "image", "ports", "resources", "restartPolicy", "securityContext"} {
				if v, ok := c[k]; ok {
					short[k] = v
				}
			}
			for _, k := range []string{"readinessProbe", "livenessProbe", "startupProbe"} {
				if p, ok := c[k].(Object); ok {
					p = maps.Clone(p)
					delete(p, "exec")
					short[k] = p
				}
			}
			kept = append(kept, short)
		}
		if kept != nil {
			out[list] = kept
		}
	}
	return out
}

// cleaned copies a value, without values of environment variables, whoever has them: pods, their templates, Wasm plugins.
func cleaned(v any) any {
	switch v := v.(type) {
	case Object:
		out := make(Object, len(v))
		for k, x := range v {
			if list, ok := x.([]any); ok && k == "env" {
				out[k] = variables(list)
				continue
			}
			out[k] = cleaned(x)
		}
		return out
	case []any:
		out := slices.Clone(v)
		for i := range out {
			out[i] = cleaned(out[i])
		}
		return out
	}
	return v
}

// plain are variables of the mesh's own programs that say how they are set up.
var plain = map[string]bool{
	"TRUST_DOMAIN": true, "CLUSTER_ID": true, "ISTIO_META_CLUSTER_ID": true, "NETWORK": true, "ISTIO_META_NETWORK": true, "XDS_ADDRESS": true, "CA_ADDRESS": true,
	"CA_ADDR": true, "AMBIT_REDIRECTION": true, "AMBIENT_DNS_CAPTURE": true, "AMBIENT_IPV6": true, "LOG_LEVEL": true, "RUST_LOG": true, "LOG_FORMAT": true,
	"AMBIT_LOG_LEVEL": true, "ROOT_NAMESPACE": true, "CLUSTER_DOMAIN": true, "EXCLUDE_NAMESPACES": true, "AMBIENT_ENABLEMENT_SELECTOR": true,
}

func variables(list []any) []any {
	out := make([]any, 0, len(list))
	for _, x := range list {
		v, ok := x.(Object)
		if !ok {
			out = append(out, x)
			continue
		}
		v = maps.Clone(v)
		name, _ := v["name"].(string)
		if _, has := v["value"]; has && !plain[name] {
			v["value"] = hidden
		}
		out = append(out, v)
	}
	return out
}
