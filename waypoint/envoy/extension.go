package envoy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	extprocv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_proc/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

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

// ExtensionObject is the kind and name of what a user would mend.
func ExtensionObject(x *waypoint.Extension) string {
	kind := "ExtensionPolicy "
	if x.GetWasm() != nil {
		kind = "WasmPlugin "
	}
	return kind + x.GetNamespace() + "/" + x.GetName()
}

// inPriority has each extension once; within a phase the higher priority comes first. Istio
// pilot/pkg/model/extensions.go
func inPriority(all []*waypoint.Extension) []*waypoint.Extension {
	sorted := slices.Clone(all)
	slices.SortStableFunc(sorted, func(a, b *waypoint.Extension) int {
		return cmp.Or(cmp.Compare(b.GetPriority(), a.GetPriority()), strings.Compare(ExtensionObject(a), ExtensionObject(b)))
	})
	seen := map[string]bool{}
	return slices.DeleteFunc(sorted, func(x *waypoint.Extension) bool {
		object := ExtensionObject(x)
		twice := seen[object]
		seen[object] = true
		return twice
	})
}

// extensionFilters are the filters for each slot. Those of Wasm modules have places of their own, see extension_module.go.
func (e *Env) extensionFilters(all []*waypoint.Extension) (map[string][]*corev3.TypedExtensionConfig, []Problem) {
	out := map[string][]*corev3.TypedExtensionConfig{}
	var problems []Problem
	for _, x := range inPriority(all) {
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
			if !x.GetFailOpen() {
				out[slot] = append(out[slot], failing(ExtensionObject(x)))
			}
			problems = append(problems, missing(x, err))
			continue
		}
		out[slot] = append(out[slot], filter)
	}
	return out, problems
}

func (e *Env) extensionFilter(x *waypoint.Extension) (*corev3.TypedExtensionConfig, error) {
	if x.GetBroken() != "" {
		return nil, errors.New(x.GetBroken())
	}
	switch k := x.GetKind().(type) {
	case *waypoint.Extension_Wasm:
		return nil, fmt.Errorf("a Wasm module cannot be run for one rule: attach it to the service")
	case *waypoint.Extension_Lua:
		if err := checkScript(k.Lua.GetSource()); err != nil {
			return nil, err
		}
		return luaFilter(ExtensionObject(x), guardedScript(ExtensionObject(x), k.Lua.GetSource(), x.GetFailOpen())), nil
	case *waypoint.Extension_Processor:
		return e.processorFilter(x, k.Processor)
	}
	return nil, fmt.Errorf("it is of a kind this version does not know: upgrade the waypoint")
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
		StatPrefix:       oneWord(ExtensionObject(x)),
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
