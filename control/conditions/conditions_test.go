package conditions

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// memory is a Store that counts how often it is changed.
type memory struct {
	objects map[Key]Object
	writes  int
}

func (m *memory) Update(_ context.Context, k Key, change func(Object) Object) error {
	o, ok := m.objects[k]
	if !ok {
		return fs.ErrNotExist
	}
	data, _ := json.Marshal(change(o))
	var out Object
	_ = json.Unmarshal(data, &out)
	if !cmp.Equal(out, o) {
		m.writes++
	}
	m.objects[k] = out
	return nil
}

func decode(t *testing.T, text string) (o Object) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		route, policy := Key{"HTTPRoute", "shop", "r"}, Key{"AuthorizationPolicy", "shop", "p"}
		m := &memory{objects: map[Key]Object{
			route: decode(t, `{"spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}, {"name": "edge", "namespace": "infra", "sectionName": "http"}, {"name": "theirs"}]},
"status": {"parents": [{"controllerName": "example.com/x", "parentRef": {"name": "theirs"}, "conditions": []}, {"controllerName": "istio.io/gateway-controller", "parentRef": {"name": "old"}}]}}`),
			policy: decode(t, `{"spec": {}, "status": {"conditions": [{"type": "Theirs", "status": "True"}]}}`),
		}}
		yes := Condition{"Accepted", true, "Accepted", "fine"}
		reports := []Report{
			{Key: route, Generation: 2, Parents: []Parent{{"Service shop/web port 80", []Condition{yes}}, {"Gateway infra/edge section http", []Condition{{"Accepted", false, "NotAllowedByListeners", "no"}}}}},
			{Key: policy, Generation: 1, Conditions: []Condition{{"WaypointAccepted", true, "Accepted", "bound to shop/waypoint"}}},
			{Key: Key{"VirtualService", "shop", "gone"}, Conditions: []Condition{yes}},
			{Key: Key{"Gateway", "shop", "way"}, Conditions: []Condition{yes}},
		}
		w := New(Config{Store: m, Reports: func() []Report { return reports }, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		pass := func() {
			time.Sleep(3 * period)
			synctest.Wait()
		}
		pass()
		began := "2000-01-01T00:00:00Z"
		want := decode(t, `{"parents": [{"controllerName": "example.com/x", "parentRef": {"name": "theirs"}, "conditions": []},
{"controllerName": "istio.io/gateway-controller", "parentRef": {"group": "", "kind": "Service", "name": "web", "port": 80}, "conditions": [
 {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "fine", "observedGeneration": 2, "lastTransitionTime": "`+began+`"}]},
{"controllerName": "istio.io/gateway-controller", "parentRef": {"name": "edge", "namespace": "infra", "sectionName": "http"}, "conditions": [
 {"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "no", "observedGeneration": 2, "lastTransitionTime": "`+began+`"}]}]}`)
		if d := cmp.Diff(want, m.objects[route]["status"]); d != "" {
			t.Error(d)
		}
		if m.writes != 2 {
			t.Errorf("%d writes", m.writes)
		}
		time.Sleep(time.Hour)
		reports[1] = Report{Key: policy, Generation: 2, Conditions: []Condition{{"WaypointAccepted", true, "Accepted", "bound to shop/other"}}}
		reports = reports[1:]
		pass()
		want = decode(t, `{"conditions": [{"type": "Theirs", "status": "True"},
{"type": "WaypointAccepted", "status": "True", "reason": "Accepted", "message": "bound to shop/other", "observedGeneration": 2, "lastTransitionTime": "`+began+`"}]}`)
		if d := cmp.Diff(want, m.objects[policy]["status"]); d != "" {
			t.Error(d)
		}
		want = decode(t, `{"parents": [{"controllerName": "example.com/x", "parentRef": {"name": "theirs"}, "conditions": []}]}`)
		if d := cmp.Diff(want, m.objects[route]["status"]); d != "" {
			t.Error(d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// refusing is a Store that takes nothing for a while, as an API server whose permissions were taken away.
type refusing struct {
	memory
	refuse bool
}

func (r *refusing) Update(ctx context.Context, k Key, change func(Object) Object) error {
	if r.refuse {
		return errors.New("forbidden")
	}
	return r.memory.Update(ctx, k, change)
}

// TestWriterTriesAgain: what could not be written is, as soon as it can be, without anything having changed.
func TestWriterTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := Key{"ListenerSet", "shop", "more"}
		m := &refusing{memory: memory{objects: map[Key]Object{k: decode(t, `{"spec": {}}`)}}, refuse: true}
		r := Report{Key: k, Generation: 3, Listeners: []Listener{{Name: "web", Attached: 2, Kinds: []string{"HTTPRoute"}, Conditions: []Condition{{"Accepted", true, "Accepted", ""}}}}}
		reports := []Report{r}
		never := make(chan struct{})
		w := New(Config{Store: m, Reports: func() []Report { return reports }, Changed: func() []<-chan struct{} { return []<-chan struct{}{never} }, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.writes != 0 {
			t.Fatal("something was written")
		}
		m.refuse = false
		time.Sleep(retryAfter + period)
		synctest.Wait()
		want := decode(t, `{"spec": {}, "status": {"listeners": [{"name": "web", "attachedRoutes": 2, "supportedKinds": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute"}],
"conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "observedGeneration": 3, "lastTransitionTime": "2000-01-01T00:00:00Z"}]}]}}`)
		conditions, _ := m.objects[k]["status"].(map[string]any)
		if len(conditions) == 0 {
			t.Fatal("nothing was written after permission came back")
		}
		l := conditions["listeners"].([]any)[0].(map[string]any)
		l["conditions"].([]any)[0].(map[string]any)["lastTransitionTime"] = "2000-01-01T00:00:00Z"
		if diff := cmp.Diff(want, m.objects[k]); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if m.writes != 1 {
			t.Errorf("%d writes, want 1", m.writes)
		}
		cancel()
		<-done
	})
}

// counting counts writes.
type counting struct{ writes int }

func (c *counting) Update(context.Context, Key, func(Object) Object) error {
	c.writes++
	return nil
}

// TestReplacedObject writes the status of an object that takes another one's place, although all there is to say is the same:
// deleted and made again between two rounds, nobody has seen it go.
func TestReplacedObject(t *testing.T) {
	store := &counting{}
	report := Report{Key: Key{"HTTPRoute", "shop", "web"}, Generation: 1, UID: "first"}
	w := New(Config{Store: store, Reports: func() []Report { return []Report{report} }, Logger: slog.New(slog.DiscardHandler)})
	for _, step := range []struct {
		uid  string
		want int
	}{{"first", 1}, {"first", 1}, {"second", 2}, {"second", 2}} {
		report.UID = step.uid
		w.round(t.Context())
		if store.writes != step.want {
			t.Errorf("%s: %d writes, want %d", step.uid, store.writes, step.want)
		}
	}
}
