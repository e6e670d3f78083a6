package gateways

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/waypoint/deploy"
)

// Reasons of conditions, as the Gateway API has them.
const (
	reasonAccepted    = "Accepted"
	reasonInvalid     = "Invalid"
	reasonProgrammed  = "Programmed"
	reasonUnassigned  = "AddressNotAssigned"
	reasonUnusable    = "AddressNotUsable"
	reasonUnsupported = "UnsupportedAddress"
	reasonParameters  = "InvalidParameters"
	reasonListeners   = "ListenersNotValid"
	reasonNoResources = "NoResources"
)

// statusOf is the status of a Gateway after old.
func (r *Reconciler) statusOf(doc, old Object, out outcome) Object {
	id := name{out.g.Namespace, out.g.Name}
	r.mu.Lock()
	report := r.reports[id]
	r.mu.Unlock()
	accepted := Condition{Type: "Accepted", True: true, Reason: reasonAccepted, Message: "The gateway is run by Ambit"}
	switch {
	case errors.Is(out.refused, errAddressType):
		accepted = Condition{Type: "Accepted", Reason: reasonUnsupported, Message: out.refused.Error()}
	case errors.Is(out.refused, errParameters), errors.Is(out.refused, deploy.ErrConfined):
		accepted = Condition{Type: "Accepted", Reason: reasonParameters, Message: out.refused.Error()}
	case out.refused != nil:
		accepted = Condition{Type: "Accepted", Reason: reasonInvalid, Message: out.refused.Error()}
	case report.Refused != "":
		accepted = Condition{Type: "Accepted", Reason: reasonInvalid, Message: report.Refused}
	default:
		accepted = withListeners(accepted, report)
	}
	addresses, programmed := r.programmed(old, out)
	generation := document.Number(doc, "metadata", "generation")
	status := clone(old)
	status["conditions"] = r.conditions(withoutUnsaid(old, report.Conditions), generation, append([]Condition{accepted, programmed}, report.Conditions...))
	status["listeners"] = r.listeners(doc, old, report, generation, programmed)
	if report.ListenerSets > 0 || status["attachedListenerSets"] != nil {
		status["attachedListenerSets"] = int64(report.ListenerSets)
	}
	if addresses == nil {
		delete(status, "addresses")
	} else {
		status["addresses"] = addresses
	}
	return status
}

// withListeners is a Gateway's acceptance in view of its listeners': one that is good is enough.
func withListeners(accepted Condition, report Report) Condition {
	good, bad := report.ListenerSets, 0
	for _, l := range report.Listeners {
		if slices.ContainsFunc(l.Conditions, func(c Condition) bool { return c.Type == "Accepted" && !c.True }) {
			bad++
		} else {
			good++
		}
	}
	switch {
	case bad == 0:
	case good == 0:
		return Condition{Type: "Accepted", Reason: reasonListeners, Message: "None of its listeners is accepted; their conditions say why"}
	default:
		accepted.Reason, accepted.Message = reasonListeners, fmt.Sprintf("%d of its listeners are not accepted; their conditions say why", bad)
	}
	return accepted
}

// withoutUnsaid is a status without those conditions that only a report has and that it does not have any more.
func withoutUnsaid(old Object, said []Condition) Object {
	out := clone(old)
	list, _ := document.At(old, "conditions").([]any)
	out["conditions"] = slices.DeleteFunc(slices.Clone(list), func(v any) bool {
		c, _ := v.(map[string]any)
		return (c["type"] == "ResolvedRefs" || c["type"] == "InsecureFrontendValidationMode") &&
			!slices.ContainsFunc(said, func(s Condition) bool { return s.Type == c["type"] })
	})
	return out
}

// programmed says where the Gateway is reached and whether it is.
//
// A Gateway gets its addresses when the first of its pods is ready, and keeps them as long as its Service does: clients of
// a waypoint that is broken for a while shall fail, not find another way.
func (r *Reconciler) programmed(old Object, out outcome) ([]any, Condition) {
	no := func(reason, format string, args ...any) Condition {
		return Condition{Type: "Programmed", Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	before, _ := document.At(old, "addresses").([]any)
	if out.refused != nil {
		return before, no(reasonInvalid, "the gateway is not accepted")
	}
	if out.failed != nil {
		return before, no(reasonNoResources, "%s", out.failed)
	}
	svc := r.get(out.service)
	addresses := r.addresses(svc, out)
	missing := lacking(svc, addresses, out.g.Addresses)
	ready, pods, why := r.ready(out)
	switch {
	case svc == nil:
		return nil, no(reasonUnassigned, "there is no %s yet", out.service)
	case addresses == nil && missing == "":
		return nil, no(reasonUnassigned, "%s has no address yet", out.service)
	case missing != "":
		return nil, no(reasonUnusable, "spec.addresses asks for %s, and the Service did not get it", missing)
	case ready == 0 && (len(before) == 0 || !sameAddresses(before, addresses)):
		return nil, no(reasonUnusable, "none of its pods is ready (%d of %d)%s", ready, pods, why)
	case ready == 0:
		return addresses, no(reasonUnusable, "none of its pods is ready (%d of %d)%s", ready, pods, why)
	}
	return addresses, Condition{Type: "Programmed", True: true, Reason: reasonProgrammed, Message: fmt.Sprintf("Resource programmed, %d of %d pods are ready", ready, pods)}
}

// lacking is the first address of those asked for that a LoadBalancer does not have.
func lacking(svc Object, addresses []any, wanted []string) string {
	if document.Text(svc, "spec", "type") != "LoadBalancer" {
		return ""
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(addresses, func(v any) bool { a, _ := v.(map[string]any); return a["value"] == w }) {
			return w
		}
	}
	return ""
}

func sameAddresses(a, b []any) bool {
	return slices.EqualFunc(a, b, func(x, y any) bool { return fmt.Sprint(x) == fmt.Sprint(y) })
}

// addresses are the Service's name and, once it has them, its IPs: of a LoadBalancer those seen from outside.
func (r *Reconciler) addresses(svc Object, out outcome) []any {
	if svc == nil {
		return nil
	}
	domain := r.cfg.Deploy.ClusterDomain
	if domain == "" {
		domain = mesh.DefaultClusterDomain
	}
	var ips, hosts []string
	add := func(s string) {
		if ip, err := netip.ParseAddr(s); err == nil && !slices.Contains(ips, ip.String()) {
			ips = append(ips, ip.String())
		}
	}
	if document.Text(svc, "spec", "type") == "LoadBalancer" {
		for _, in := range document.Items(svc, "status", "loadBalancer", "ingress") {
			add(document.Text(in, "ip"))
			if h := document.Text(in, "hostname"); h != "" {
				hosts = append(hosts, h)
			}
		}
	} else {
		list, _ := document.At(svc, "spec", "clusterIPs").([]any)
		for _, v := range append([]any{document.At(svc, "spec", "clusterIP")}, list...) {
			s, _ := v.(string)
			add(s)
		}
		hosts = []string{mesh.ServiceHostname(out.service.Namespace, out.service.Name, domain)}
	}
	if len(ips) == 0 && document.Text(svc, "spec", "type") != "LoadBalancer" || len(ips)+len(hosts) == 0 {
		return nil
	}
	var list []any
	for _, h := range hosts {
		list = append(list, Object{"type": "Hostname", "value": h})
	}
	for _, ip := range ips {
		list = append(list, Object{"type": "IPAddress", "value": ip})
	}
	return list
}

// ready counts the pods of a Gateway, and says what keeps one of them from being ready.
func (r *Reconciler) ready(out outcome) (ready, all int, why string) {
	for _, p := range r.where("Pod", out.g.Namespace, func(_ Key, o Object) bool {
		return document.Strings(o, "metadata", "labels")[mesh.LabelGatewayName] == out.g.Name
	}) {
		if phase := document.Text(p, "status", "phase"); phase == "Succeeded" || phase == "Failed" || document.Text(p, "metadata", "deletionTimestamp") != "" {
			continue
		}
		all++
		if isReady(p) {
			ready++
		} else if w := unready(p); why == "" {
			why = ": " + document.Text(p, "metadata", "name") + " " + w
		}
	}
	if all == 0 {
		why = ": there is none yet"
	}
	return ready, all, why
}

func isReady(pod Object) bool {
	for _, c := range document.Items(pod, "status", "conditions") {
		if document.Text(c, "type") == "Ready" {
			return document.Text(c, "status") == "True"
		}
	}
	return false
}

// maxWords bounds what is passed on of a pod's last words.
const maxWords = 400

// unready is why a pod is not ready, as far as its status tells: what its container said last, what it waits for, or that
// it runs, so that only its log can tell.
func unready(pod Object) string {
	for _, c := range document.Items(pod, "status", "containerStatuses") {
		if said := strings.TrimSpace(document.Text(c, "lastState", "terminated", "message")); said != "" {
			if i := strings.LastIndexByte(said, '\n'); i >= 0 {
				said = said[i+1:]
			}
			return "ended: " + strings.ToValidUTF8(said[:min(len(said), maxWords)], "")
		}
		if reason := document.Text(c, "state", "waiting", "reason"); reason != "" {
			message := document.Text(c, "state", "waiting", "message")
			return strings.TrimSuffix(reason+": "+strings.ToValidUTF8(message[:min(len(message), maxWords)], ""), ": ")
		}
		if document.At(c, "state", "running") != nil {
			return "runs but is not ready; its log says what it waits for"
		}
	}
	for _, c := range document.Items(pod, "status", "conditions") {
		if document.Text(c, "type") == "PodScheduled" && document.Text(c, "status") == "False" {
			return "has no node: " + document.Text(c, "message")
		}
	}
	return "has not started yet"
}

// conditions replaces those named in want among those of old. A time changes with the status it belongs to only.
func (r *Reconciler) conditions(old Object, generation int64, want []Condition) []any {
	var list []any
	before := map[string]Object{}
	for _, c := range document.Items(old, "conditions") {
		kind := document.Text(c, "type")
		if slices.ContainsFunc(want, func(w Condition) bool { return w.Type == kind }) {
			before[kind] = c
			continue
		}
		list = append(list, c)
	}
	for _, w := range want {
		state := "False"
		if w.True {
			state = "True"
		}
		since := document.Text(before[w.Type], "lastTransitionTime")
		if since == "" || document.Text(before[w.Type], "status") != state {
			since = r.cfg.Now().UTC().Format(time.RFC3339)
		}
		list = append(list, Object{
			"type": w.Type, "status": state, "reason": w.Reason, "message": w.Message,
			"observedGeneration": generation, "lastTransitionTime": since,
		})
	}
	return list
}

func (r *Reconciler) listeners(doc, old Object, report Report, generation int64, programmed Condition) []any {
	var list []any
	for _, l := range document.Items(doc, "spec", "listeners") {
		n := document.Text(l, "name")
		lr := ListenerReport{Name: n}
		if i := slices.IndexFunc(report.Listeners, func(x ListenerReport) bool { return x.Name == n }); i >= 0 {
			lr = report.Listeners[i]
		}
		want := []Condition{
			{Type: "Accepted", True: true, Reason: reasonAccepted, Message: "No errors found"},
			{Type: "Conflicted", Reason: "NoConflicts", Message: "No errors found"},
			{Type: "ResolvedRefs", True: true, Reason: "ResolvedRefs", Message: "No errors found"},
			{Type: "Programmed", True: programmed.True, Reason: listenerReason(programmed), Message: programmed.Message},
		}
		for _, c := range lr.Conditions {
			if i := slices.IndexFunc(want, func(w Condition) bool { return w.Type == c.Type }); i >= 0 {
				want[i] = c
			} else {
				want = append(want, c)
			}
		}
		var before Object
		for _, s := range document.Items(old, "listeners") {
			if document.Text(s, "name") == n {
				before = s
			}
		}
		kinds := []any{}
		supported := lr.SupportedKinds
		if supported == nil {
			supported = kindsOf(document.Text(l, "protocol"), document.Text(l, "tls", "mode"))
		}
		for _, k := range supported {
			kinds = append(kinds, Object{"group": k.Group, "kind": k.Kind})
		}
		list = append(list, Object{
			"name": n, "attachedRoutes": int64(lr.AttachedRoutes), "supportedKinds": kinds,
			"conditions": r.conditions(before, generation, want),
		})
	}
	return list
}

// listenerReason is the Gateway's reason in the words that listeners have for it.
func listenerReason(programmed Condition) string {
	if programmed.True {
		return reasonProgrammed
	}
	if programmed.Reason == reasonInvalid {
		return reasonInvalid
	}
	return "Pending"
}

// kindsOf are the routes that go with a protocol.
func kindsOf(protocol, tlsMode string) []RouteKind {
	const group = "gateway.networking.k8s.io"
	switch protocol {
	case "HTTP", "HTTPS":
		return []RouteKind{{group, "HTTPRoute"}, {group, "GRPCRoute"}}
	case "TLS":
		if tlsMode == "Passthrough" {
			return []RouteKind{{group, "TLSRoute"}}
		}
		return []RouteKind{{group, "TCPRoute"}}
	case "TCP":
		return []RouteKind{{group, "TCPRoute"}}
	}
	return nil
}

func clone(o Object) Object {
	out := maps.Clone(o)
	if out == nil {
		out = Object{}
	}
	return out
}
