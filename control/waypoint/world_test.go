package waypoint

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/security"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/control/intake"
	"github.com/ambit-mesh/ambit/control/jwks"
	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
)

// world is both models wired as they are in the control plane, with everything handed over recorded.
type world struct {
	t       testing.TB
	mesh    *model.Model
	model   *Model
	facts   map[string]proto.Message
	sums    map[string]uint64
	reports map[object.Key]model.Report
	keys    []jwks.Source
	// handed counts facts that were new or changed, told all that were handed over.
	handed, told int
	changed      []string
}

func newWorld(t testing.TB) *world {
	return &world{
		t:     t,
		mesh:  model.New(model.Config{Network: "net1"}),
		model: New(Config{Network: "net1"}),
		facts: map[string]proto.Message{}, sums: map[string]uint64{}, reports: map[object.Key]model.Report{},
	}
}

func (w *world) apply(events ...object.Event) {
	w.mesh.Apply(events)
	w.model.Apply(events)
	w.flush()
}

func (w *world) flush() {
	w.changed = nil
	w.mesh.Flush(w)
	w.model.Flush(w)
	if w.model.Pending() {
		w.t.Fatal("something is marked after Flush")
	}
	slices.Sort(w.changed)
}

// yaml puts all objects of a text.
func (w *world) yaml(text string) {
	w.t.Helper()
	w.apply(decode(w.t, text)...)
}

func (w *world) delete(text string) {
	w.t.Helper()
	var events []object.Event
	for _, e := range decode(w.t, text) {
		events = append(events, object.Delete(e.Key))
	}
	w.apply(events...)
}

func decode(t testing.TB, text string) []object.Event {
	t.Helper()
	var events []object.Event
	for _, doc := range intake.NewDecoder(intake.Limits{}).File("in.yaml", []byte(text), nil) {
		for _, it := range doc.Items {
			if it.Object == nil {
				t.Fatalf("the input is refused: %v", it.Entries)
			}
			events = append(events, object.Put(it.Object))
		}
		if len(doc.Items) == 0 {
			t.Fatalf("a document has no object: %+v", doc)
		}
	}
	return events
}

func short(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }

// Fact implements Output.
func (w *world) Fact(typeURL, name, scope string, m proto.Message, before uint64) uint64 {
	if !strings.HasPrefix(name, scope+"/") {
		w.t.Fatalf("%s does not belong to %s", name, scope)
	}
	name = short(typeURL) + " " + name
	if w.sums[name] != before {
		w.t.Fatalf("%s: the model says %x was handed over before, it was %x", name, before, w.sums[name])
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	h := fnv.New64a()
	h.Write(b)
	sum := max(1, h.Sum64())
	w.told++
	if sum != before {
		w.handed++
		w.changed = append(w.changed, name)
	}
	w.sums[name] = sum
	w.facts[name] = proto.Clone(m)
	return sum
}

// RemoveFact implements Output.
func (w *world) RemoveFact(typeURL, name string) {
	name = short(typeURL) + " " + name
	if w.sums[name] == 0 {
		w.t.Fatalf("%s is removed, but was never handed over", name)
	}
	w.changed = append(w.changed, "-"+name)
	delete(w.sums, name)
	delete(w.facts, name)
}

// FactReport implements Output.
func (w *world) FactReport(k object.Key, r model.Report) {
	if r.Empty() {
		delete(w.reports, k)
		return
	}
	w.reports[k] = r
}

// KeySets implements Output.
func (w *world) KeySets(all []jwks.Source) { w.keys = all }

// Host implements model.Output, as do the others below.
func (w *world) Host(h model.Host) { w.model.Host(h) }

func (w *world) Workload(*workload.Workload, []string, uint64) uint64 { return 1 }
func (w *world) Service(*workload.Service, uint64) uint64             { return 1 }
func (w *world) Policy(*security.Authorization, uint64) uint64        { return 1 }
func (w *world) RemoveAddress(string)                                 {}
func (w *world) RemovePolicy(string)                                  {}
func (w *world) Report(object.Key, model.Report)                      {}

// text is everything recorded as sorted sections of YAML.
func (w *world) text() map[string]string {
	out := map[string]string{}
	for name, m := range w.facts {
		out["fact "+name] = asYAML(w.t, m)
	}
	for k, r := range w.reports {
		out["report "+k.String()] = reportText(r)
	}
	for _, s := range w.keys {
		out["keys "+s.String()] = ""
	}
	return out
}

func asYAML(t testing.TB, m proto.Message) string {
	raw, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	y, err := yaml.JSONToYAML(raw)
	if err != nil {
		t.Fatal(err)
	}
	return string(y)
}

func reportText(r model.Report) string {
	var b strings.Builder
	conditions := func(indent string, cs []model.Condition) {
		for _, c := range cs {
			fmt.Fprintf(&b, "%s%s=%t %s: %s\n", indent, c.Type, c.Status, c.Reason, c.Message)
		}
	}
	conditions("", r.Conditions)
	for _, p := range r.Parents {
		fmt.Fprintf(&b, "parent %s\n", p.Name)
		conditions("  ", p.Conditions)
	}
	for _, l := range r.Listeners {
		fmt.Fprintf(&b, "listener %s: %d routes of %s\n", l.Name, l.Attached, strings.Join(l.Kinds, ", "))
		conditions("  ", l.Conditions)
	}
	for _, x := range r.Warnings {
		fmt.Fprintf(&b, "warning %s: %s; %s\n", x.Field, x.Problem, x.Fix)
	}
	return b.String()
}
