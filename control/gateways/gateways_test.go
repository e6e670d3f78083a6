package gateways

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/control/status"
	"sigs.k8s.io/yaml"
)

// memory is an Applier that gives what it is told back to the Reconciler, as a cluster does.
type memory struct {
	r       *Reconciler
	objects map[Key]Object
	log     []string
	broken  atomic.Bool
	tries   atomic.Int32
}

func (m *memory) put(o Object) {
	k := keyOf(o)
	if k.Kind == "Service" && document.At(o, "spec", "clusterIP") == nil {
		o["spec"].(map[string]any)["clusterIP"] = "10.96.0.9"
	}
	m.objects[k] = o
	m.r.Put(copied(o))
}

func copied(o Object) Object {
	data, _ := json.Marshal(o)
	var out Object
	_ = json.Unmarshal(data, &out)
	return out
}

func (m *memory) Apply(_ context.Context, o Object) error {
	m.tries.Add(1)
	if m.broken.Load() {
		return errors.New("disk full")
	}
	o = copied(o)
	old := m.objects[keyOf(o)]
	merged := overlay(old, o, nil)
	before, _ := json.Marshal(old)
	after, _ := json.Marshal(merged)
	if string(before) == string(after) {
		return nil
	}
	m.log = append(m.log, "apply "+keyOf(o).String())
	m.put(merged)
	return nil
}

func (m *memory) Delete(_ context.Context, k Key) error {
	m.log = append(m.log, "delete "+k.String())
	delete(m.objects, k)
	m.r.Remove(k)
	return nil
}

func (m *memory) SetStatus(_ context.Context, k Key, uid string, change func(Object) Object) error {
	o := m.objects[k]
	if o == nil || document.Text(o, "metadata", "uid") != uid {
		return nil
	}
	old, _ := o["status"].(map[string]any)
	o = copied(o)
	o["status"] = change(old)
	m.put(copied(o))
	return nil
}

func parse(t *testing.T, doc string) Object {
	t.Helper()
	var o Object
	if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// world is a Reconciler that runs within a bubble of virtual time.
type world struct {
	*memory
	t      *testing.T
	status *status.Registry
}

func run(t *testing.T, test func(*world)) {
	t.Helper()
	runWith(t, Config{}, test)
}

func runWith(t *testing.T, cfg Config, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{objects: map[Key]Object{}}
		w := &world{memory: m, t: t, status: status.New()}
		cfg.Applier, cfg.Status = m, w.status
		m.r = New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- m.r.Run(ctx) }()
		m.r.Synced()
		synctest.Wait()
		test(w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *world) apply(doc string) {
	w.t.Helper()
	w.put(parse(w.t, doc))
	synctest.Wait()
}

func (w *world) remove(k Key) {
	delete(w.objects, k)
	w.r.Remove(k)
	synctest.Wait()
}

func (w *world) names() string {
	var names []string
	for k := range w.objects {
		if rendered(k.Kind) {
			names = append(names, k.String())
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// condition is "status reason" of a Gateway's condition.
func (w *world) condition(gateway, kind string) string {
	for _, c := range document.Items(w.objects[Key{"Gateway", "shop", gateway}], "status", "conditions") {
		if document.Text(c, "type") == kind {
			return document.Text(c, "status") + " " + document.Text(c, "reason")
		}
	}
	return ""
}

func (w *world) addresses(gateway string) string {
	var list []string
	for _, a := range document.Items(w.objects[Key{"Gateway", "shop", gateway}], "status", "addresses") {
		list = append(list, document.Text(a, "value"))
	}
	return strings.Join(list, " ")
}

const gateway = `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: way, namespace: shop, uid: u1, generation: 3},
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}`

func pod(ready string) string {
	return `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: way}},
status: {phase: Running, conditions: [{type: Ready, status: "` + ready + `"}]}}`
}

const all = "Deployment shop/way, Service shop/way, ServiceAccount shop/way"

// TestLife is that of a waypoint, from its first pod to its end.
func TestLife(t *testing.T) {
	run(t, func(w *world) {
		if w.objects[Key{Kind: "GatewayClass", Name: "istio-waypoint"}] == nil || w.objects[Key{Kind: "GatewayClass", Name: "istio"}] == nil {
			t.Error("the classes are missing")
		}
		w.apply(gateway)
		if w.names() != all || w.condition("way", "Accepted") != "True Accepted" || w.condition("way", "Programmed") != "False AddressNotUsable" || w.addresses("way") != "" {
			t.Errorf("made %s; %s, %s, %q", w.names(), w.condition("way", "Accepted"), w.condition("way", "Programmed"), w.addresses("way"))
		}
		w.apply(pod("True"))
		const where = "way.shop.svc.cluster.local 10.96.0.9"
		if w.condition("way", "Programmed") != "True Programmed" || w.addresses("way") != where {
			t.Errorf("with a pod: %s, %q", w.condition("way", "Programmed"), w.addresses("way"))
		}
		since := document.Text(document.Items(w.objects[Key{"Gateway", "shop", "way"}], "status", "conditions")[0], "lastTransitionTime")
		time.Sleep(time.Hour)
		// Traffic must not find a way around a waypoint that is broken for a while.
		w.apply(pod("False"))
		if w.condition("way", "Programmed") != "False AddressNotUsable" || w.addresses("way") != where {
			t.Errorf("with an unready pod: %s, %q", w.condition("way", "Programmed"), w.addresses("way"))
		}
		c := document.Items(w.objects[Key{"Gateway", "shop", "way"}], "status", "conditions")
		if document.Text(c[0], "lastTransitionTime") != since || document.Text(c[1], "lastTransitionTime") == since || document.Number(c[0], "observedGeneration") != 3 {
			t.Errorf("times of conditions: %v", c)
		}
		w.remove(Key{"Deployment", "shop", "way"})
		if w.names() != all {
			t.Errorf("a deleted Deployment stays away: %s", w.names())
		}
		w.remove(Key{"Gateway", "shop", "way"})
		if w.names() != "" {
			t.Errorf("left over: %s", w.names())
		}
	})
}

// TestWhoseIsIt leaves to others what is theirs.
func TestWhoseIsIt(t *testing.T) {
	for name, c := range map[string]struct {
		before, gateway string
		condition       string
	}{
		"another's Service":         {`{kind: Service, apiVersion: v1, metadata: {name: way, namespace: shop, labels: {app: mine}}, spec: {clusterIP: 1.2.3.4}}`, gateway, "False NoResources"},
		"another's class":           {"", strings.Replace(gateway, "istio-waypoint", "nginx", 1), ""},
		"another revision":          {"", strings.Replace(gateway, "uid: u1", "uid: u1, labels: {istio.io/rev: canary}", 1), ""},
		"revision of the namespace": {`{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/rev: canary}}}`, gateway, ""},
		"a revision beside its own": {`{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/rev: canary}}}`, strings.Replace(gateway, "uid: u1", "uid: u1, labels: {istio.io/rev: stable}", 1), ""},
		"a later controller":        {"", strings.Replace(gateway, "uid: u1", `uid: u1, annotations: {gateway.istio.io/controller-version: "6"}`, 1), ""},
		"the class is taken":        {`{kind: GatewayClass, apiVersion: v1, metadata: {name: istio-waypoint}, spec: {controllerName: example.com/else}}`, gateway, ""},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(w *world) {
				if c.before != "" {
					w.apply(c.before)
				}
				before := maps.Clone(w.objects)
				w.log = nil
				w.apply(c.gateway)
				if got := w.condition("way", "Programmed"); got != c.condition || len(w.log) > 0 {
					t.Errorf("condition %q, want %q; did %v", got, c.condition, w.log)
				}
				for k := range before {
					if w.objects[k] == nil {
						t.Errorf("%s is gone", k)
					}
				}
			})
		})
	}
}

// TestRevisions runs the Gateways of every revision that the control plane has: by their own label, else by that of the
// namespace, and those without one.
func TestRevisions(t *testing.T) {
	with := func(rev string) string {
		return strings.Replace(gateway, "uid: u1", "uid: u1, labels: {istio.io/rev: "+rev+"}", 1)
	}
	for name, c := range map[string]struct {
		namespace, gateway string
		want               string
	}{
		"its revision":               {"", with("canary"), all},
		"a tag":                      {"", with("stable"), all},
		"none":                       {"", gateway, all},
		"the namespace's":            {"stable", gateway, all},
		"its own over the other's":   {"default", with("stable"), all},
		"default is another's here":  {"", with("default"), ""},
		"the namespace is another's": {"default", gateway, ""},
	} {
		t.Run(name, func(t *testing.T) {
			runWith(t, Config{Revisions: []string{"canary", "stable"}}, func(w *world) {
				if c.namespace != "" {
					w.apply(`{kind: Namespace, apiVersion: v1, metadata: {name: shop, labels: {istio.io/rev: ` + c.namespace + `}}}`)
				}
				w.apply(c.gateway)
				if w.names() != c.want {
					t.Errorf("made %q, want %q", w.names(), c.want)
				}
				if d := w.objects[Key{"Deployment", "shop", "way"}]; d != nil {
					if rev := document.Strings(d, "spec", "template", "metadata", "annotations")["istio.io/rev"]; rev != "canary" {
						t.Errorf("pods are of revision %q", rev)
					}
				}
			})
		})
	}
}

// TestMistakes are told in the status, and what runs goes on.
func TestMistakes(t *testing.T) {
	run(t, func(w *world) {
		w.apply(gateway)
		w.apply(pod("True"))
		bad := strings.Replace(gateway, "port: 15008", "port: 0", 1)
		w.apply(bad)
		if w.names() != all || w.condition("way", "Accepted") != "False Invalid" || w.addresses("way") != "" && !strings.Contains(w.addresses("way"), "10.96") {
			t.Errorf("%s; %s; %s", w.names(), w.condition("way", "Accepted"), w.addresses("way"))
		}
		if list := w.status.List(); len(list) != 1 || !strings.Contains(list[0].Problem, "spec.listeners[0].port 0") {
			t.Errorf("told %v", list)
		}
		w.apply(strings.Replace(gateway, "spec: {", "spec: {infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: big}}, ", 1))
		if list := w.status.List(); len(list) != 1 || !strings.Contains(list[0].Problem, "there is no ConfigMap shop/big with one of the keys") {
			t.Errorf("told %v", list)
		}
		w.apply(`{kind: ConfigMap, apiVersion: v1, metadata: {name: big, namespace: shop}, data: {deployment: "spec: {replicas: 3}"}}`)
		if got := document.Number(w.objects[Key{"Deployment", "shop", "way"}], "spec", "replicas"); got != 3 || len(w.status.List()) != 0 {
			t.Errorf("%d replicas; %v", got, w.status.List())
		}
		// What a Gateway's owner may not change, whoever runs the mesh may.
		const privileged = `data: {deployment: "spec: {template: {spec: {hostNetwork: true}}}"}}`
		w.apply(`{kind: ConfigMap, apiVersion: v1, metadata: {name: big, namespace: shop}, ` + privileged)
		if got := w.condition("way", "Accepted"); got != "False InvalidParameters" {
			t.Errorf("with an overlay that makes pods of the host's network: %s", got)
		}
		if list := w.status.List(); len(list) != 1 || !strings.Contains(list[0].Problem, "ConfigMap shop/big: deployment: spec.template.spec.hostNetwork") {
			t.Errorf("told %v", list)
		}
		if document.At(w.objects[Key{"Deployment", "shop", "way"}], "spec", "template", "spec", "hostNetwork") != nil {
			t.Error("the pods are in the host's network")
		}
		w.apply(`{kind: ConfigMap, apiVersion: v1, metadata: {name: big, namespace: shop}, data: {deployment: "spec: {replicas: 3}"}}`)
		w.apply(`{kind: ConfigMap, apiVersion: v1, metadata: {name: all, namespace: ambit-system, labels: {gateway.istio.io/defaults-for-class: istio-waypoint}}, ` + privileged)
		if document.At(w.objects[Key{"Deployment", "shop", "way"}], "spec", "template", "spec", "hostNetwork") != true || len(w.status.List()) != 0 {
			t.Errorf("an overlay of the mesh's own namespace is not followed: %v", w.status.List())
		}
		w.apply(`{kind: ConfigMap, apiVersion: v1, metadata: {name: all, namespace: ambit-system, labels: {gateway.istio.io/defaults-for-class: istio-waypoint}}, data: {podDisruptionBudget: "spec: {minAvailable: 1}"}}`)
		if w.names() != "Deployment shop/way, PodDisruptionBudget shop/way, Service shop/way, ServiceAccount shop/way" {
			t.Errorf("made %s", w.names())
		}
		w.remove(Key{"ConfigMap", "ambit-system", "all"})
		if w.names() != all {
			t.Errorf("without the overlay: %s", w.names())
		}
	})
}

func TestRetry(t *testing.T) {
	run(t, func(w *world) {
		w.broken.Store(true)
		w.apply(gateway)
		if w.names() != "" || w.condition("way", "Programmed") != "False NoResources" {
			t.Errorf("%s, %s", w.names(), w.condition("way", "Programmed"))
		}
		w.broken.Store(false)
		time.Sleep(2 * retryAfter)
		synctest.Wait()
		if w.names() != all || w.condition("way", "Programmed") != "False AddressNotUsable" {
			t.Errorf("%s, %s", w.names(), w.condition("way", "Programmed"))
		}
	})
}

// TestNamesAndReports: another name takes the old objects with it, and what is known of listeners is in the status.
func TestNamesAndReports(t *testing.T) {
	run(t, func(w *world) {
		w.apply(gateway)
		w.apply(strings.Replace(gateway, "uid: u1", "uid: u1, annotations: {gateway.istio.io/name-override: other}", 1))
		if w.names() != "Deployment shop/other, Service shop/other, ServiceAccount shop/other" {
			t.Errorf("made %s", w.names())
		}
		w.r.Report(Report{Namespace: "shop", Name: "way", Listeners: []ListenerReport{{
			Name: "mesh", AttachedRoutes: 4, SupportedKinds: []RouteKind{{"g", "R"}},
			Conditions: []Condition{{Type: "ResolvedRefs", Reason: "InvalidCertificateRef", Message: "no such Secret"}},
		}}})
		synctest.Wait()
		l := document.Items(w.objects[Key{"Gateway", "shop", "way"}], "status", "listeners")
		data, _ := json.Marshal(l)
		for _, want := range []string{`"attachedRoutes":4`, `"kind":"R"`, `InvalidCertificateRef`, `"Conflicted"`} {
			if !strings.Contains(string(data), want) {
				t.Errorf("listeners are %s, want %s", data, want)
			}
		}
		w.r.Report(Report{Namespace: "shop", Name: "way", Refused: "it stands in its own way"})
		synctest.Wait()
		if got := w.condition("way", "Accepted"); got != "False Invalid" {
			t.Errorf("Accepted is %s", got)
		}
	})
}

func TestManualService(t *testing.T) {
	run(t, func(w *world) {
		w.apply(`{kind: Service, apiVersion: v1, metadata: {name: mine, namespace: shop}, spec: {clusterIP: 10.96.7.7}}`)
		w.apply(strings.Replace(gateway, "spec: {", "spec: {addresses: [{type: Hostname, value: mine.shop.svc.cluster.local}], ", 1))
		w.apply(pod("True"))
		if w.names() != "Service shop/mine" || w.addresses("way") != "mine.shop.svc.cluster.local 10.96.7.7" {
			t.Errorf("%s, %s", w.names(), w.addresses("way"))
		}
	})
}

// TestListenerSets opens the ports of those that are let in, and closes them again.
func TestListenerSets(t *testing.T) {
	set := func(ns string) string {
		return `{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {name: more, namespace: ` + ns + `},
spec: {parentRef: {name: way, namespace: shop}, listeners: [{name: extra, port: 9443, protocol: HTTPS}]}}`
	}
	open := func(w *world) bool {
		for _, p := range document.Items(w.objects[Key{"Service", "shop", "way"}], "spec", "ports") {
			if document.Number(p, "port") == 9443 {
				return true
			}
		}
		return false
	}
	for allowed, want := range map[string]bool{
		`{}`: false, `{from: None}`: false, `{from: Same}`: false, `{from: All}`: true,
		`{from: Selector, selector: {matchLabels: {team: a}}}`:                                                              true,
		`{from: Selector, selector: {matchLabels: {team: b}}}`:                                                              false,
		`{from: Selector, selector: {matchExpressions: [{key: team, operator: In, values: [a, c]}]}}`:                       true,
		`{from: Selector, selector: {matchExpressions: [{key: team, operator: NotIn, values: [a]}]}}`:                       false,
		`{from: Selector, selector: {matchExpressions: [{key: x, operator: DoesNotExist}, {key: team, operator: Exists}]}}`: true,
		`{from: Selector}`: false,
	} {
		run(t, func(w *world) {
			w.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: a}}}`)
			w.apply(strings.Replace(gateway, "spec: {", "spec: {allowedListeners: {namespaces: "+allowed+"}, ", 1))
			w.apply(set("other"))
			if open(w) != want {
				t.Errorf("%s: open %v", allowed, open(w))
			}
			w.remove(Key{kindListenerSet, "other", "more"})
			if open(w) {
				t.Errorf("%s: still open", allowed)
			}
		})
	}
}

// TestNamespaceNews: namespaces that come and go are nothing to the Gateways of others, unless they have ListenerSets.
func TestNamespaceNews(t *testing.T) {
	run(t, func(w *world) {
		w.apply(strings.Replace(gateway, "spec: {", "spec: {allowedListeners: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}, ", 1))
		w.apply(`{apiVersion: gateway.networking.k8s.io/v1, kind: ListenerSet, metadata: {name: more, namespace: other},
spec: {parentRef: {name: way, namespace: shop}, listeners: [{name: extra, port: 9443, protocol: HTTPS}]}}`)
		before := w.tries.Load()
		w.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: build-1, labels: {team: b}}}`)
		w.remove(Key{Kind: "Namespace", Name: "build-1"})
		if n := w.tries.Load() - before; n != 0 {
			t.Errorf("%d objects were applied for a namespace without Gateways", n)
		}
		w.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: other, labels: {team: a}}}`)
		if ports := document.Items(w.objects[Key{"Service", "shop", "way"}], "spec", "ports"); !slices.ContainsFunc(ports, func(p Object) bool { return document.Number(p, "port") == 9443 }) {
			t.Error("a ListenerSet whose namespace has the labels now is not let in")
		}
		w.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/rev: another}}}`)
		before = w.tries.Load()
		w.apply(strings.Replace(gateway, "generation: 3", "generation: 4", 1))
		if n := w.tries.Load() - before; n != 0 {
			t.Error("the Gateway is not ours any more")
		}
		w.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`)
		if w.tries.Load() == before {
			t.Error("the Gateway is ours again")
		}
	})
}

// TestReasons: what is wrong with a Gateway is told in the words of the Gateway API.
func TestReasons(t *testing.T) {
	run(t, func(w *world) {
		edge := func(spec string) {
			w.apply(`{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: way, namespace: shop, uid: u1, generation: 4},
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]` + spec + `}}`)
		}
		want := func(what, accepted, programmed string) {
			t.Helper()
			if a, p := w.condition("way", "Accepted"), w.condition("way", "Programmed"); a != accepted || p != programmed {
				t.Errorf("%s: Accepted %s, Programmed %s; want %s, %s", what, a, p, accepted, programmed)
			}
		}
		edge(`, addresses: [{type: example.com/x, value: name}]`)
		want("an address of a strange type", "False UnsupportedAddress", "False Invalid")
		edge(`, infrastructure: {parametersRef: {group: "", kind: ConfigMap, name: none}}`)
		want("parameters that are not there", "False InvalidParameters", "False Invalid")
		edge(`, addresses: [{value: 192.0.2.1}, {value: 192.0.2.2}]`)
		w.apply(pod("True"))
		want("addresses that are not given", "True Accepted", "False AddressNotUsable")
		svc := copied(w.objects[Key{"Service", "shop", "way-istio"}])
		svc["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": "192.0.2.2"}}}}
		w.put(svc)
		synctest.Wait()
		want("one address of two", "True Accepted", "False AddressNotUsable")
		edge(`, addresses: [{value: 192.0.2.2}]`)
		want("the address that is given", "True Accepted", "True Programmed")
		if w.addresses("way") != "192.0.2.2" {
			t.Errorf("addresses %s", w.addresses("way"))
		}
		no := []Condition{{Type: "Accepted", Reason: "UnsupportedProtocol"}}
		insecure := Condition{Type: "InsecureFrontendValidationMode", True: true, Reason: "ConfigurationChanged"}
		w.r.Report(Report{Namespace: "shop", Name: "way", Listeners: []ListenerReport{{Name: "http", Conditions: no}}, Conditions: []Condition{insecure}})
		synctest.Wait()
		want("no good listener", "False ListenersNotValid", "True Programmed")
		if got := w.condition("way", insecure.Type); got != "True ConfigurationChanged" {
			t.Errorf("the report's condition is %q", got)
		}
		w.r.Report(Report{Namespace: "shop", Name: "way", ListenerSets: 2, Listeners: []ListenerReport{{Name: "http", Conditions: no}, {Name: "more"}}})
		synctest.Wait()
		want("one good listener", "True ListenersNotValid", "True Programmed")
		if got := w.condition("way", insecure.Type); got != "" {
			t.Errorf("a condition stays that the report has no more: %q", got)
		}
		if n := document.Number(w.objects[Key{"Gateway", "shop", "way"}], "status", "attachedListenerSets"); n != 2 {
			t.Errorf("%d ListenerSets", n)
		}
	})
}

// TestNamespaces: where nothing may be run a Gateway is told so, unless somebody else runs it; nothing is tried.
func TestNamespaces(t *testing.T) {
	runWith(t, Config{Namespaces: []string{"edge"}}, func(w *world) {
		w.apply(gateway)
		if list := w.status.List(); w.condition("way", "Accepted") != "False Invalid" || len(list) != 1 || !strings.Contains(list[0].Problem, "control.gatewayNamespaces") {
			t.Errorf("condition %s, told %v", w.condition("way", "Accepted"), list)
		}
		for _, line := range w.log {
			if strings.HasPrefix(line, "apply ") && !strings.Contains(line, "GatewayClass") {
				t.Errorf("did %s", line)
			}
		}
		w.apply(strings.Replace(gateway, "spec: {", "spec: {addresses: [{type: Hostname, value: mine.shop.svc.cluster.local}], ", 1))
		if got := w.condition("way", "Accepted"); got != "True Accepted" {
			t.Errorf("one that somebody else runs: %s", got)
		}
	})
}

// TestManyServices: news of one of many Services costs what it cost when there were few.
func TestManyServices(t *testing.T) {
	r := New(Config{})
	r.Put(parse(t, gateway))
	const turn = 5000
	put := func(n int) time.Duration {
		before := used(t)
		for i := range turn {
			r.Put(Object{"kind": "Service", "metadata": Object{"namespace": "shop", "name": fmt.Sprint("s", n*turn+i)}})
		}
		return used(t) - before
	}
	first := put(0)
	var last time.Duration
	for n := range 6 {
		last = put(n + 1)
	}
	if last > 5*first+50*time.Millisecond {
		t.Errorf("%d Services more took %s at first and %s among many", turn, first, last)
	}
}

// used is the processor time of this process, which others on the machine do not change.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestRetryLess: what fails for long is tried less and less, until there is news of it.
func TestRetryLess(t *testing.T) {
	run(t, func(w *world) {
		w.broken.Store(true)
		w.apply(gateway)
		before := w.tries.Load()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := w.tries.Load() - before; n < 15 || n > 30 {
			t.Errorf("tried %d times in ten minutes", n)
		}
		w.broken.Store(false)
		w.apply(strings.Replace(gateway, "uid: u1", "uid: u1, labels: {a: b}", 1))
		if w.names() != all {
			t.Errorf("at once after news: %s", w.names())
		}
	})
}
