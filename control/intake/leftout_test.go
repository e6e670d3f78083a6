package intake

import (
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	extensions "istio.io/api/extensions/v1alpha1"
	mesh "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	security "istio.io/api/security/v1beta1"
	telemetry "istio.io/api/telemetry/v1alpha1"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// The golden file says of every field that can be written what becomes of it: it is read, or people are told. A new field
// in a new version of Istio's API shows up here and wants a decision.
func TestEveryFieldIsDecided(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var lines []string
	var walk func(md protoreflect.MessageDescriptor)
	walk = func(md protoreflect.MessageDescriptor) {
		if seen[md.FullName()] || wellKnown(md) {
			return
		}
		seen[md.FullName()] = true
		for i := range md.Fields().Len() {
			fd := md.Fields().Get(i)
			what := "read or without meaning here"
			if _, ok := notCarriedOut[fd.FullName()]; ok {
				what = "told"
			}
			lines = append(lines, string(fd.FullName())+": "+what)
			if fd.Message() != nil && !fd.IsMap() && what != "told" {
				walk(fd.Message())
			} else if fd.IsMap() && fd.MapValue().Message() != nil {
				walk(fd.MapValue().Message())
			}
		}
	}
	for _, m := range []proto.Message{
		&networking.VirtualService{}, &networking.DestinationRule{}, &security.RequestAuthentication{}, &telemetry.Telemetry{},
		&extensions.WasmPlugin{}, &extensions.TrafficExtension{}, &mesh.MeshConfig{},
	} {
		walk(m.ProtoReflect().Descriptor())
	}
	slices.Sort(lines)
	got := strings.Join(lines, "\n") + "\n"
	const golden = "testdata/fields.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the fields of Istio's API have changed: decide what becomes of the new ones, then run with -update and look at the difference")
	}
	for name := range notCarriedOut {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, string(name)+":") }) {
			t.Errorf("there is no field %s", name)
		}
	}
}

// Phases are converted by their numbers.
func TestPhasesAgree(t *testing.T) {
	for n, name := range waypoint.Extension_Phase_name {
		plugin := strings.TrimSuffix(extensions.PluginPhase_name[n], "_PHASE")
		if plugin != name || extensions.TrafficExtension_ExecutionPhase_name[n] != name {
			t.Errorf("%d is %s, %s and %s", n, name, plugin, extensions.TrafficExtension_ExecutionPhase_name[n])
		}
	}
}
