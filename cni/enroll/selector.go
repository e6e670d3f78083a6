package enroll

import (
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Selector takes a pod if both of its halves match. An empty half matches everything.
type Selector struct {
	Pod       LabelSelector `json:"podSelector"`
	Namespace LabelSelector `json:"namespaceSelector"`
}

// Matches applies both halves.
func (s Selector) Matches(pod, namespace map[string]string) bool {
	return s.Pod.Matches(pod) && s.Namespace.Matches(namespace)
}

// LabelSelector is Kubernetes' label selector.
type LabelSelector struct {
	MatchLabels      map[string]string `json:"matchLabels,omitempty"`
	MatchExpressions []Requirement     `json:"matchExpressions,omitempty"`
}

// Requirement is one expression of a label selector.
type Requirement struct {
	Key      string   `json:"key"`
	Operator string   `json:"operator"` // In, NotIn, Exists, DoesNotExist
	Values   []string `json:"values,omitempty"`
}

// Matches reports whether labels satisfy every part of the selector.
func (s LabelSelector) Matches(labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, r := range s.MatchExpressions {
		if !r.matches(labels) {
			return false
		}
	}
	return true
}

func (r Requirement) matches(labels map[string]string) bool {
	got, ok := labels[r.Key]
	switch r.Operator {
	case "In":
		return ok && slices.Contains(r.Values, got)
	case "NotIn":
		// A label that is not there is not in the set either: k8s.io/apimachinery labels.Requirement.Matches.
		return !ok || !slices.Contains(r.Values, got)
	case "Exists":
		return ok
	case "DoesNotExist":
		return !ok
	}
	return false
}

func (r Requirement) validate() error {
	switch {
	case r.Key == "":
		return fmt.Errorf("a matchExpressions entry has no key")
	case r.Operator == "In" || r.Operator == "NotIn":
		if len(r.Values) == 0 {
			return fmt.Errorf("key %s: operator %s needs values", r.Key, r.Operator)
		}
	case r.Operator == "Exists" || r.Operator == "DoesNotExist":
		if len(r.Values) != 0 {
			return fmt.Errorf("key %s: operator %s takes no values", r.Key, r.Operator)
		}
	default:
		return fmt.Errorf("key %s: operator %q is none of In, NotIn, Exists, DoesNotExist", r.Key, r.Operator)
	}
	return nil
}

// DefaultSelectors enrol a pod that says so itself, and a pod that does not object in a namespace that says so.
func DefaultSelectors() []Selector {
	ambient := LabelSelector{MatchLabels: map[string]string{mesh.LabelDataplaneMode: mesh.DataplaneModeAmbient}}
	return []Selector{
		{Pod: ambient},
		{
			Namespace: ambient,
			Pod: LabelSelector{MatchExpressions: []Requirement{{
				Key: mesh.LabelDataplaneMode, Operator: "NotIn", Values: []string{mesh.DataplaneModeNone},
			}}},
		},
	}
}

// ParseSelectors reads the value of AMBIENT_ENABLEMENT_SELECTOR, a list in JSON or YAML. Empty text means
// DefaultSelectors.
func ParseSelectors(text string) ([]Selector, error) {
	if strings.TrimSpace(text) == "" {
		return DefaultSelectors(), nil
	}
	var out []Selector
	if err := yaml.UnmarshalStrict([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("enablement selectors: want a list of {podSelector, namespaceSelector}: %w", err)
	}
	for i, s := range out {
		for _, r := range slices.Concat(s.Pod.MatchExpressions, s.Namespace.MatchExpressions) {
			if err := r.validate(); err != nil {
				return nil, fmt.Errorf("enablement selector %d: %w", i+1, err)
			}
		}
	}
	return out, nil
}
