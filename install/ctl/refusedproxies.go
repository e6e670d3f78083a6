package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/install/gateway"
)

// askProxy bounds how long one proxy is waited for: the list is worth having without it.
const askProxy = 3 * time.Second

// proxyProblems asks the pods of all Gateways what is not in force there. What several pods of a Gateway say is listed
// once. A pod that does not answer is noted if it should.
func (a *app) proxyProblems(ctx context.Context) []refusal {
	pods, err := a.instances(ctx, "")
	if err != nil {
		return nil // whoever asks for the control plane's list need not have a lab to ask pods of
	}
	var list []refusal
	for _, pod := range pods {
		asked, cancel := context.WithTimeout(ctx, askProxy)
		problems, err := pod.problems(asked)
		cancel()
		if err != nil && pod.ready {
			fmt.Fprintf(a.env.Err, "%v\n", err)
		}
		for _, p := range problems {
			if e := proxyRefusal(pod.namespace+"/"+pod.gateway, p); !slices.ContainsFunc(list, func(o refusal) bool {
				return o.Kind == e.Kind && o.Namespace == e.Namespace && o.Name == e.Name && o.Problem == e.Problem
			}) {
				list = append(list, e)
			}
		}
	}
	return list
}

// proxyRefusal puts a proxy's problem into the control plane's words. The first object is what to look at; further ones have a
// part in it.
func proxyRefusal(of string, p gateway.Problem) refusal {
	e := refusal{Severity: "refused", Kept: p.Kept}
	if p.Since != nil {
		e.Since = p.Since.Format(time.RFC3339)
	}
	switch p.Source {
	case "envoy":
		e.Problem = fmt.Sprintf("Envoy of waypoint %s refuses %s %s: %s", of, p.Type, p.Resource, p.Text)
	case "facts":
		e.Problem = fmt.Sprintf("waypoint %s does not understand %s %s: %s", of, p.Type, p.Resource, p.Text)
		e.Fix = "give control plane and waypoints the same version"
	default:
		e.Severity, e.Problem = "warning", fmt.Sprintf("waypoint %s: %s", of, p.Text)
	}
	if len(p.Objects) > 0 {
		e.Kind, e.Name, _ = strings.Cut(p.Objects[0], " ")
		if ns, name, ok := strings.Cut(e.Name, "/"); ok {
			e.Namespace, e.Name = ns, name
		}
	}
	if len(p.Objects) > 1 {
		e.Problem += "; also of " + strings.Join(p.Objects[1:], ", ")
	}
	return e
}
