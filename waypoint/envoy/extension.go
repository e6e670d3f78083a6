package envoy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	wasmfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	wasmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/wasm/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// maxExtensions bounds what looks at one request in one phase.
const maxExtensions = 16

// extensionSlots are the places in the list of HTTP filters where extensions of a phase run.
var extensionSlots = map[waypoint.Extension_Phase]string{
	waypoint.Extension_AUTHN:       "ambit.extensions.authn",
	waypoint.Extension_AUTHZ:       "ambit.extensions.authz",
	waypoint.Extension_STATS:       "ambit.extensions.stats",
	waypoint.Extension_UNSPECIFIED: "ambit.extensions.last",
}

// extensionObject is the kind and name of what a user would mend.
func extensionObject(x *waypoint.Extension) string {
	kind := "ExtensionPolicy "
	if x.GetWasm() != nil {
		kind = "WasmPlugin "
	}
	return kind + x.GetNamespace() + "/" + x.GetName()
}

// extensionFilters are the filters for each slot. Within a phase the higher priority comes first.
func (e *Env) extensionFilters(all []*waypoint.Extension) (map[string][]*corev3.TypedExtensionConfig, []Problem) {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *waypoint.Extension) int {
		return cmp.Or(cmp.Compare(b.GetPriority(), a.GetPriority()),
			strings.Compare(a.GetNamespace()+"/"+a.GetName(), b.GetNamespace()+"/"+b.GetName()))
	})
	out := map[string][]*corev3.TypedExtensionConfig{}
	var problems []Problem
	seen := map[string]bool{}
	for _, x := range sorted {
		object := extensionObject(x)
		if seen[object] {
			continue
		}
		seen[object] = true
		slot, ok := extensionSlots[x.GetPhase()]
		if !ok {
			slot = extensionSlots[waypoint.Extension_UNSPECIFIED]
		}
		filter, err := e.extensionFilter(x)
		if err == nil && len(out[slot]) == maxExtensions {
			err = fmt.Errorf("more than %d extensions in one phase", maxExtensions)
			if !x.GetFailOpen() { // makes room for the refusal
				out[slot] = out[slot][:maxExtensions-1]
			}
		}
		if err != nil {
			text := "requests pass without it: "
			if !x.GetFailOpen() {
				text = "requests are answered 503: "
				out[slot] = append(out[slot], failing(object))
			}
			problems = append(problems, Problem{Object: object, Text: text + err.Error()})
			continue
		}
		out[slot] = append(out[slot], filter)
	}
	return out, problems
}

func (e *Env) extensionFilter(x *waypoint.Extension) (*corev3.TypedExtensionConfig, error) {
	switch k := x.GetKind().(type) {
	case *waypoint.Extension_Wasm:
		return e.wasmFilter(x, k.Wasm)
	case *waypoint.Extension_Lua:
		if k.Lua.GetSource() == "" {
			return nil, fmt.Errorf("the script is empty")
		}
		return luaFilter(extensionObject(x), guardedScript(k.Lua.GetSource(), x.GetFailOpen())), nil
	case *waypoint.Extension_Processor:
		return e.processorFilter(x, k.Processor)
	}
	return nil, fmt.Errorf("it is of a kind this version does not know: upgrade the waypoint")
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

func luaFilter(object, script string) *corev3.TypedExtensionConfig {
	return typedExtension("envoy.filters.http.lua", &luav3.Lua{
		DefaultSourceCode: &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: script}},
		StatPrefix:        oneWord(object),
	})
}

func (e *Env) processorFilter(x *waypoint.Extension, p *waypoint.ExternalProcessor) (*corev3.TypedExtensionConfig, error) {
	b := p.GetService()
	if b.GetHostname() == "" || b.GetBroken() != "" {
		return nil, fmt.Errorf("its service cannot be used: %s", cmp.Or(b.GetBroken(), "there is none"))
	}
	mode, err := processingMode(p)
	if err != nil {
		return nil, err
	}
	timeout := p.GetTimeout()
	if timeout.AsDuration() <= 0 {
		timeout = durationpb.New(defaultProcessorTimeout)
	}
	return typedExtension("envoy.filters.http.ext_proc", &extprocv3.ExternalProcessor{
		// The stream lives as long as the request; each message has its own time.
		GrpcService:      e.grpcTo(proto.CloneOf(b), nil),
		MessageTimeout:   timeout,
		FailureModeAllow: x.GetFailOpen(),
		ProcessingMode:   mode,
		StatPrefix:       oneWord(extensionObject(x)),
	}), nil
}

func processingMode(p *waypoint.ExternalProcessor) (*extprocv3.ProcessingMode, error) {
	header := func(send bool) extprocv3.ProcessingMode_HeaderSendMode {
		if send {
			return extprocv3.ProcessingMode_SEND
		}
		return extprocv3.ProcessingMode_SKIP
	}
	body := func(mode string) (extprocv3.ProcessingMode_BodySendMode, error) {
		switch n, ok := extprocv3.ProcessingMode_BodySendMode_value[mode]; {
		case mode == "":
			return extprocv3.ProcessingMode_NONE, nil
		case ok && n <= int32(extprocv3.ProcessingMode_BUFFERED_PARTIAL):
			return extprocv3.ProcessingMode_BodySendMode(n), nil
		}
		return 0, fmt.Errorf("%q is no way to send a body: write NONE, STREAMED, BUFFERED or BUFFERED_PARTIAL", mode)
	}
	request, err := body(p.GetRequestBody())
	if err != nil {
		return nil, err
	}
	response, err := body(p.GetResponseBody())
	if err != nil {
		return nil, err
	}
	return &extprocv3.ProcessingMode{
		RequestHeaderMode:   header(p.GetRequestHeaders()),
		ResponseHeaderMode:  header(p.GetResponseHeaders()),
		RequestBodyMode:     request,
		ResponseBodyMode:    response,
		RequestTrailerMode:  extprocv3.ProcessingMode_SKIP,
		ResponseTrailerMode: extprocv3.ProcessingMode_SKIP,
	}, nil
}
