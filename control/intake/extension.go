package intake

import (
	"encoding/json"
	"fmt"
	"strings"

	extensions "istio.io/api/extensions/v1alpha1"
	istiotype "istio.io/api/type/v1beta1"

	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/control/object"
)

// wasmPlugin converts a WasmPlugin. Istio pkg/config/validation ValidateWasmPlugin.
func (r *reader) wasmPlugin(m object.Meta, spec *extensions.WasmPlugin) *object.Extension {
	out := &object.Extension{Meta: m, Kind: object.KindWasmPlugin}
	out.Selector, out.TargetRefs = r.policyTargets(spec.Selector, spec.TargetRef, spec.TargetRefs, m.Namespace)
	out.Spec = r.newExtension(m, waypoint.Extension_Phase(spec.Phase), spec.Priority)
	for i, s := range spec.Match {
		out.Scopes = append(out.Scopes, r.extensionScope(s.Mode, s.Ports, at("spec", "match", i)))
	}
	r.wasm(out, &extensions.WasmConfig{
		Url: spec.Url, Sha256: spec.Sha256, PluginConfig: spec.PluginConfig, PluginName: spec.PluginName,
		FailStrategy: spec.FailStrategy, VmConfig: spec.VmConfig, Type: spec.Type,
	}, at("spec"))
	r.leftOut(spec)
	return out
}

// trafficExtension converts a TrafficExtension: the same for Wasm, and Lua.
func (r *reader) trafficExtension(m object.Meta, spec *extensions.TrafficExtension) *object.Extension {
	out := &object.Extension{Meta: m, Kind: object.KindTrafficExtension}
	out.Selector, out.TargetRefs = r.policyTargets(spec.Selector, nil, spec.TargetRefs, m.Namespace)
	out.Spec = r.newExtension(m, waypoint.Extension_Phase(spec.Phase), spec.Priority)
	for i, s := range spec.Match {
		out.Scopes = append(out.Scopes, r.extensionScope(s.Mode, s.Ports, at("spec", "match", i)))
	}
	switch c := spec.FilterConfig.(type) {
	case *extensions.TrafficExtension_Wasm:
		r.wasm(out, c.Wasm, at("spec", "wasm"))
	case *extensions.TrafficExtension_Lua:
		r.lua(out, c.Lua.GetInlineCode(), at("spec", "lua", "inlineCode"))
	default:
		r.refuse(at("spec"), "it is not said what the extension is", "write wasm or lua")
	}
	r.leftOut(spec)
	return out
}

// newExtension starts an extension. The phases have the same numbers everywhere; the test beside this says so.
func (r *reader) newExtension(m object.Meta, phase waypoint.Extension_Phase, priority *wrapperspb.Int32Value) *waypoint.Extension {
	return &waypoint.Extension{Namespace: m.Namespace, Name: m.Name, Phase: phase, Priority: priority.GetValue()}
}

func (r *reader) extensionScope(mode istiotype.WorkloadMode, ports []*istiotype.PortSelector, path []any) object.ExtensionScope {
	var out object.ExtensionScope
	switch mode {
	case istiotype.WorkloadMode_CLIENT:
		out.Side = object.ClientSide
	case istiotype.WorkloadMode_SERVER:
		out.Side = object.ServerSide
	}
	if r.fewer(len(ports), maxValues, sub(path, "ports"), "port") {
		for i, p := range ports {
			n, _ := r.port(int64(p.Number), sub(path, "ports", i, "number"))
			out.Ports = append(out.Ports, n)
		}
	}
	return out
}

// maxLua bounds a script, which every proxy of its targets compiles.
const maxLua = 64 << 10

func (r *reader) lua(out *object.Extension, code string, path []any) {
	switch {
	case strings.TrimSpace(code) == "":
		r.refuse(path, "the script is empty", "write functions envoy_on_request or envoy_on_response")
	case len(code) > maxLua:
		r.refuse(path, fmt.Sprintf("the script has %d characters, at most %d are allowed", len(code), maxLua), "shorten it")
	case !strings.Contains(code, "envoy_on_request") && !strings.Contains(code, "envoy_on_response"):
		r.warn(path, "the script has neither envoy_on_request nor envoy_on_response and does nothing", "write one of the functions")
	}
	out.Spec.Kind = &waypoint.Extension_Lua{Lua: &waypoint.Lua{Source: code}}
}

func (r *reader) wasm(out *object.Extension, in *extensions.WasmConfig, path []any) {
	w := &waypoint.Wasm{Url: in.Url, Sha256: lower(in.Sha256), RootId: in.PluginName}
	out.Spec.Kind = &waypoint.Extension_Wasm{Wasm: w}
	r.wasmURL(out, in.Url, sub(path, "url"))
	if s := in.Sha256; s != "" && (len(s) != 64 || strings.Trim(lower(s), "0123456789abcdef") != "") {
		r.refuse(sub(path, "sha256"), fmt.Sprintf("%q is not a SHA-256", clip(s)), "write 64 hexadecimal digits, from sha256sum")
	}
	switch in.FailStrategy {
	case extensions.FailStrategy_FAIL_OPEN:
		out.Spec.FailOpen = true
	case extensions.FailStrategy_FAIL_RELOAD:
		r.warn(sub(path, "failStrategy"), "the module is not loaded again when it fails: requests fail", "write FAIL_CLOSE or FAIL_OPEN")
	}
	if in.Type == extensions.PluginType_NETWORK {
		r.breakExtension(out, sub(path, "type"), "modules for connections are not supported", "write type: HTTP")
	}
	if in.PluginConfig != nil {
		w.Config = r.jsonText(in.PluginConfig, sub(path, "pluginConfig"))
	}
	envs := in.VmConfig.GetEnv()
	if !r.fewer(len(envs), 256, sub(path, "vmConfig", "env"), "variable") {
		return
	}
	for i, e := range envs {
		p := sub(path, "vmConfig", "env", i)
		switch {
		case e.Name == "":
			r.refuse(sub(p, "name"), "the field is missing", "write the name of the variable")
		case w.Env[e.Name] != "":
			r.refuse(sub(p, "name"), fmt.Sprintf("the variable %q stands twice", clip(e.Name)), "keep one of the two")
		case e.ValueFrom == extensions.EnvValueSource_HOST:
			if e.Value != "" {
				r.refuse(sub(p, "value"), "a variable of the host has no value here", "remove the field, or write valueFrom: INLINE")
			}
			r.breakExtension(out, sub(p, "valueFrom"), "variables of the host are not passed on", "write the value")
			continue
		}
		if w.Env == nil {
			w.Env = make(map[string]string)
		}
		w.Env[e.Name] = e.Value
	}
}

func (r *reader) wasmURL(out *object.Extension, url string, path []any) {
	switch {
	case url == "":
		r.refuse(path, "the field is missing", "write where the module is, like https://example.com/module.wasm")
	case strings.HasPrefix(url, "oci://"), !strings.Contains(url, "://"):
		r.breakExtension(out, path, "modules are not fetched from registries of images", "serve the module by https")
	default:
		r.webAddress(url, path, "http", "https", "file")
		if strings.HasPrefix(url, "http://") {
			if in, _ := out.Spec.Kind.(*waypoint.Extension_Wasm); in != nil && in.Wasm.Sha256 == "" {
				r.warn(path, "the module is fetched without protection, and there is no hash to check it by", "write sha256, or use https")
			}
		}
	}
}

// breakExtension keeps an extension that cannot be carried out: it fails open or closed as it says itself.
func (r *reader) breakExtension(out *object.Extension, path []any, problem, fix string) {
	what := "requests fail"
	if out.Spec.FailOpen {
		what = "requests pass it over"
	}
	r.warn(path, problem+": "+what, fix)
	if out.Broken == "" {
		out.Broken = pathString(path) + ": " + problem
	}
}

// jsonText writes free JSON with its keys in order.
func (r *reader) jsonText(in *structpb.Struct, path []any) string {
	b, err := json.Marshal(in.AsMap())
	if err != nil {
		r.refuse(path, "the value is not JSON: "+clip(err.Error()), "write numbers, text, lists and mappings")
	}
	if len(b) > maxBody {
		r.refuse(path, fmt.Sprintf("the value has %d bytes, at most %d are allowed", len(b), maxBody), "shorten it")
		return ""
	}
	return string(b)
}
