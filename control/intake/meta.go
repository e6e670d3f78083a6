package intake

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ambit-mesh/ambit/control/object"
)

// defaultNamespace is where kubectl puts objects that do not say.
const defaultNamespace = "default"

// meta checks and converts metadata. Namespaced objects get the Decoder's namespace when they have none.
func (r *reader) meta(m *metav1.ObjectMeta, namespaced bool, validName func(string) bool) object.Meta {
	path := at("metadata", "name")
	switch {
	case m.Name == "" && m.GenerateName != "":
		r.refuse(at("metadata", "generateName"), "a file is read again and again and needs one name for its object", "write metadata.name")
	case m.Name == "" && r.saidOf("metadata.name"):
		// It is there, and no text.
	case m.Name == "":
		r.refuse(path, "the field is missing", "write a name")
	case len(m.Name) > 253:
		r.refuse(path, fmt.Sprintf("the name has %d characters, at most 253 are allowed", len(m.Name)), "choose a shorter name")
	case !validName(m.Name):
		r.refuse(path, fmt.Sprintf("%q is not a valid name", clip(m.Name)), nameFix(m.Name))
	}
	switch {
	case !namespaced && m.Namespace != "":
		r.warn(at("metadata", "namespace"), "objects of this kind live in no namespace, the field is ignored", "remove it")
		m.Namespace = ""
	case namespaced && m.Namespace == "":
		m.Namespace = r.d.namespace
	case namespaced && !isLabel(m.Namespace):
		r.refuse(at("metadata", "namespace"), fmt.Sprintf("%q is not a valid namespace", clip(m.Namespace)), nameFix(m.Namespace))
	}
	r.name, r.namespace = m.Name, m.Namespace
	r.labels(m.Labels, at("metadata", "labels"))
	var kept map[string]string
	for k, v := range m.Annotations {
		if !isQualifiedName(k) {
			// Kubernetes folds the case of the domain for annotations only, so do not be stricter than needed.
			if !isQualifiedName(lower(k)) {
				r.refuse(at("metadata", "annotations", k), fmt.Sprintf("%q is not a valid annotation name", clip(k)), "write it like example.com/name")
			}
		}
		if object.KeepAnnotation(k) {
			if kept == nil {
				kept = make(map[string]string)
			}
			kept[k] = v
		}
	}
	return object.Meta{
		Namespace: r.d.words.one(m.Namespace), Name: m.Name, UID: string(m.UID),
		Labels: object.MakeLabels(m.Labels), Annotations: object.MakeLabels(kept),
		Created: m.CreationTimestamp.Time, Generation: m.Generation, Deleting: m.DeletionTimestamp != nil,
	}
}

// lower folds ASCII letters only.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				if b[j] >= 'A' && b[j] <= 'Z' {
					b[j] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}

// labels checks keys and values of labels or of a selector.
func (r *reader) labels(m map[string]string, path []any) {
	good := true
	for k, v := range m {
		good = good && isQualifiedName(k) && (v == "" || isQualifiedPart(v))
	}
	if good {
		return
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := m[k]
		if !isQualifiedName(k) {
			r.refuse(sub(path, k), fmt.Sprintf("%q is not a valid label name", clip(k)), "use letters, digits, dashes, underscores and dots, optionally after a domain and a slash")
		}
		if v != "" && !isQualifiedPart(v) {
			fix := "use at most 63 letters, digits, dashes, underscores and dots, and begin and end with a letter or digit"
			if len(v) > 63 {
				fix = "at most 63 characters are allowed"
			}
			r.refuse(sub(path, k), fmt.Sprintf("%q is not a valid label value", clip(v)), fix)
		}
	}
}

// port checks a port number.
func (r *reader) port(n int64, path []any) (uint16, bool) {
	if n < 1 || n > 65535 {
		r.refuse(path, fmt.Sprintf("%d is not a port", n), "write a number from 1 to 65535")
		return 0, false
	}
	return uint16(n), true
}

// portText checks a port number that is written as text.
func (r *reader) portText(s string, path []any) {
	if n, err := strconv.ParseUint(s, 10, 32); err != nil || n < 1 || n > 65535 {
		r.refuse(path, fmt.Sprintf("%q is not a port", clip(s)), `write a number from 1 to 65535, in quotes`)
	}
}

// oneOf checks a text with few allowed values; empty is allowed.
func (r *reader) oneOf(s string, path []any, allowed ...string) bool {
	if s == "" {
		return true
	}
	for _, a := range allowed {
		if s == a {
			return true
		}
	}
	r.notOneOf(locate(r.root, path), path, s, allowed)
	return false
}

// protocol converts a transport protocol.
func (r *reader) protocol(s string, path []any) object.Protocol {
	r.oneOf(s, path, "TCP", "UDP", "SCTP")
	switch s {
	case "UDP":
		return object.UDP
	case "SCTP":
		return object.SCTP
	}
	return object.TCP
}
