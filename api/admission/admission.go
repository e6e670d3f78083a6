// Package admission says which mistakes in configuration an API server can refuse by itself, when they are made: as
// ValidatingAdmissionPolicies, which need no webhook and work while the control plane is away.
//
// What the schemas of the kinds' own CustomResourceDefinitions refuse is not repeated. The rules are a subset of what control/intake refuses or warns of, in words of the same kind: the field, what is wrong with
// it, and the fix. What is admitted may still be refused there, what is denied here never is accepted there; a test of
// control/intake holds the two together. Nothing that is denied by one version of an API server passes in another: the
// functions used are those of Kubernetes 1.30, the first with this kind of policy.
//
// It is pure: no client, no goroutines. Start reading at Rules, then Objects.
package admission

import (
	"fmt"
	"slices"
	"strings"
)

// Resource is what a rule is about.
type Resource struct {
	Group, Plural, Kind string
	// Versions are those that are served; the rules fit all of them.
	Versions []string
}

// Rule is one mistake.
type Rule struct {
	Resource Resource
	// Name is unique for the resource.
	Name string
	// Field is where the mistake is.
	Field string
	// Expression is CEL, true for an object without the mistake. Variables (see variables) may be used.
	Expression string
	// Problem and Fix are for people.
	Problem, Fix string
	// Warn lets the object pass with a warning: it is not without meaning, but probably not what was meant.
	Warn bool
}

// Message is what the person hears who made the mistake.
func (r Rule) Message() string { return r.Field + ": " + r.Problem + "; " + r.Fix }

// Object is a Kubernetes document.
type Object = map[string]any

// APIVersion of the objects. An API server without it (before 1.30) cannot have them.
const APIVersion = "admissionregistration.k8s.io/v1"

// suffix ends the names of all objects.
const suffix = ".ambit.io"

// Objects are the policies and their bindings: for each resource one that denies and, if it has any, one that warns.
// Namespaces named are left alone.
func Objects(except ...string) []Object {
	var out []Object
	for _, res := range resources() {
		for _, warn := range []bool{false, true} {
			var rules []Rule
			for _, r := range Rules() {
				if r.Resource.Plural == res.Plural && r.Warn == warn {
					rules = append(rules, r)
				}
			}
			if len(rules) > 0 {
				out = append(out, policy(res, rules, warn), binding(res, warn, except))
			}
		}
	}
	return out
}

func resources() []Resource {
	var out []Resource
	for _, r := range Rules() {
		if !slices.ContainsFunc(out, func(o Resource) bool { return o.Plural == r.Resource.Plural && o.Group == r.Resource.Group }) {
			out = append(out, r.Resource)
		}
	}
	return out
}

func name(res Resource, warn bool) string {
	action := "deny"
	if warn {
		action = "warn"
	}
	return res.Plural + "-" + action + suffix
}

func policy(res Resource, rules []Rule, warn bool) Object {
	var validations []any
	var used []any
	for _, r := range rules {
		validations = append(validations, Object{"expression": r.Expression, "message": r.Message(), "reason": "Invalid"})
	}
	for _, v := range variables() {
		uses := func(text string) bool { return strings.Contains(text, "variables."+v.name) }
		if slices.ContainsFunc(rules, func(r Rule) bool { return uses(r.Expression) }) || slices.ContainsFunc(variables(), func(o variable) bool {
			return uses(o.expression) && slices.ContainsFunc(rules, func(r Rule) bool { return strings.Contains(r.Expression, "variables."+o.name) })
		}) {
			used = append(used, Object{"name": v.name, "expression": v.expression})
		}
	}
	spec := Object{
		// A rule that cannot be asked must not stand in the way: the control plane looks at everything once more.
		"failurePolicy": "Ignore",
		"matchConstraints": Object{"resourceRules": []any{Object{
			"apiGroups": []any{res.Group}, "apiVersions": anys(res.Versions), "resources": []any{res.Plural}, "operations": []any{"CREATE", "UPDATE"},
		}}},
		"validations": validations,
	}
	if used != nil {
		spec["variables"] = used
	}
	return Object{"apiVersion": APIVersion, "kind": "ValidatingAdmissionPolicy", "metadata": Object{"name": name(res, warn)}, "spec": spec}
}

func binding(res Resource, warn bool, except []string) Object {
	action := "Deny"
	if warn {
		action = "Warn"
	}
	spec := Object{"policyName": name(res, warn), "validationActions": []any{action}}
	if len(except) > 0 {
		spec["matchResources"] = Object{"namespaceSelector": Object{"matchExpressions": []any{
			Object{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": anys(except)},
		}}}
	}
	return Object{"apiVersion": APIVersion, "kind": "ValidatingAdmissionPolicyBinding", "metadata": Object{"name": name(res, warn)}, "spec": spec}
}

func anys(list []string) []any {
	out := make([]any, 0, len(list))
	for _, s := range list {
		out = append(out, s)
	}
	return out
}

// variable is an expression that several rules use. One may use those before it.
type variable struct{ name, expression string }

func variables() []variable {
	each := func(list string) string {
		return fmt.Sprintf("variables.rules.map(r, has(r.%s) ? r.%s : [])", list, list)
	}
	return []variable{
		{"rules", "has(object.spec) && has(object.spec.rules) ? object.spec.rules : []"},
		{"from", each("from")},
		{"to", each("to")},
		{"when", each("when")},
	}
}
