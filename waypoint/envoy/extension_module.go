package envoy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	wasmfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/wasm/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// Envoy refuses whatever a Wasm module is part of when it cannot load it or the module does not like its settings, and
// only Envoy can tell. So each module is a resource by name, refused alone; in its place, and until it is there, a filter
// answers 503 or does nothing. Modules are filters of their own in the list, behind the other extensions of their phase:
// to add or remove one replaces the filter chain.

// ModulePrefix is what names of Wasm modules start with, as filters and as resources; namespace/name of the extension follows.
const ModulePrefix = "ambit.wasm|"

func moduleName(x *waypoint.Extension) string {
	return ModulePrefix + x.GetNamespace() + "/" + x.GetName()
}

// modules are a target's Wasm extensions of one phase, in order.
func modules(t target, phase waypoint.Extension_Phase) []*waypoint.Extension {
	all := hostExtensions(t)
	if len(all) == 0 {
		return nil // as nearly everywhere
	}
	var out []*waypoint.Extension
	for _, x := range inPriority(all) {
		p := x.GetPhase()
		if _, known := extensionSlots[p]; !known {
			p = waypoint.Extension_UNSPECIFIED
		}
		if x.GetWasm() != nil && p == phase && len(out) < maxExtensions {
			out = append(out, x)
		}
	}
	return out
}

// moduleFilters are the filters of a target's modules of one phase.
func moduleFilters(t target, phase waypoint.Extension_Phase) []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	for _, x := range modules(t, phase) {
		source := discovered(&wasmfilterv3.Wasm{})
		source.TypeUrls = append(source.TypeUrls, toAny(&luav3.Lua{}).GetTypeUrl())
		source.DefaultConfig = absent(x).GetTypedConfig()
		out = append(out, &hcmv3.HttpFilter{
			Name:       moduleName(x),
			ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: source},
		})
	}
	return out
}

// absent stands in for a module.
func absent(x *waypoint.Extension) *corev3.TypedExtensionConfig {
	if x.GetFailOpen() {
		return luaFilter(ExtensionObject(x), "function envoy_on_request(handle) end\n")
	}
	return failing(ExtensionObject(x))
}

// moduleConfigs are the modules of all targets, each once.
func (e *Env) moduleConfigs() ([]*corev3.TypedExtensionConfig, []Problem) {
	var out []*corev3.TypedExtensionConfig
	var problems []Problem
	seen := map[string]bool{}
	phases := slices.Sorted(maps.Keys(extensionSlots))
	for _, t := range e.httpTargets() {
		for _, phase := range phases {
			for _, x := range modules(t, phase) {
				name := moduleName(x)
				if seen[name] {
					continue
				}
				seen[name] = true
				config, err := e.wasmFilter(x, x.GetWasm())
				if x.GetBroken() != "" {
					err = errors.New(x.GetBroken())
				}
				if err != nil {
					problems = append(problems, missing(x, err))
					config = absent(x)
				}
				config.Name = name
				out = append(out, config)
			}
		}
	}
	return out, problems
}

// missing says what becomes of requests without an extension.
func missing(x *waypoint.Extension, why error) Problem {
	text := "requests are answered 503: "
	if x.GetFailOpen() {
		text = "requests pass without it: "
	}
	return Problem{Object: ExtensionObject(x), Text: text + why.Error()}
}

// httpTargets are all targets, as far as extensions are concerned: ports do not matter.
func (e *Env) httpTargets() []target {
	var out []target
	for _, svc := range e.services() {
		out = append(out, e.serviceTarget(svc, nil))
	}
	if e.Gateway.GetWorkloads() {
		out = append(out, e.directTarget())
	}
	if e.VirtualHosts != nil {
		for _, h := range sortedHosts(e.VirtualHosts()) {
			out = append(out, e.edgeTarget(h))
		}
	}
	return out
}

func (e *Env) wasmFilter(x *waypoint.Extension, w *waypoint.Wasm) (*corev3.TypedExtensionConfig, error) {
	path, err := e.wasmFile(w)
	if err != nil {
		return nil, err
	}
	policy := wasmv3.FailurePolicy_FAIL_CLOSED
	if x.GetFailOpen() {
		policy = wasmv3.FailurePolicy_FAIL_OPEN
	}
	vm := &wasmv3.VmConfig{
		VmId:    w.GetSha256(),
		Runtime: "envoy.wasm.runtime.v8",
		Code: &corev3.AsyncDataSource{Specifier: &corev3.AsyncDataSource_Local{Local: &corev3.DataSource{
			Specifier: &corev3.DataSource_Filename{Filename: path},
		}}},
	}
	if len(w.GetEnv()) > 0 {
		vm.EnvironmentVariables = &wasmv3.EnvironmentVariables{KeyValues: w.GetEnv()}
	}
	config := &wasmv3.PluginConfig{
		Name:          x.GetNamespace() + "." + x.GetName(),
		RootId:        w.GetRootId(),
		Vm:            &wasmv3.PluginConfig_VmConfig{VmConfig: vm},
		FailurePolicy: policy,
	}
	if w.GetConfig() != "" {
		config.Configuration = toAny(wrapperspb.String(w.GetConfig()))
	}
	return typedExtension("envoy.filters.http.wasm", &wasmfilterv3.Wasm{Config: config}), nil
}

// wasmFile is where the agent put a module.
func (e *Env) wasmFile(w *waypoint.Wasm) (string, error) {
	if e.WasmFile == nil {
		return "", fmt.Errorf("module %s: nothing here fetches modules", w.GetUrl())
	}
	return e.WasmFile(w.GetUrl(), w.GetSha256())
}
