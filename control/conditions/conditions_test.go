package conditions

import (
	"context"
	"encoding/json"
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
