package waypoint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ambit-mesh/ambit/control/model"
	"github.com/ambit-mesh/ambit/control/object"
	"github.com/ambit-mesh/ambit/control/status"
)

// maxAncestors is how many a policy's status can name. Gateway API PolicyStatus
const maxAncestors = 16

// reportBackendTLS is about a BackendTLSPolicy towards each Gateway that talks to one of its targets.
func (m *Model) reportBackendTLS(r *reader, rep *model.Report, p *object.BackendTLSPolicy) {
	rival := ""
	users := map[object.Key]bool{}
	for i, t := range p.TargetRefs {
		k := targetKey(p.Namespace, t)
		field := fmt.Sprintf("spec.targetRefs[%d]", i)
		if get[object.Object](r, k) == nil {
			rep.Warn(status.TargetNotFound, field, "there is no "+k.String(), "correct the name, or create the Service")
			continue
		}
		if o := r.rivalTLS(p, t); o != nil {
			rival = fmt.Sprintf("BackendTLSPolicy %s/%s is older and for %s, too", o.Namespace, o.Name, k)
			rep.Warn(status.RivalRoutes, field, rival+": it is in force there", "keep one of the two, or name different ports with sectionName")
		}
		for _, host := range r.namesOf(k) {
			for _, gw := range r.users(k.Namespace, host) {
				users[gw] = true
			}
		}
	}
	tls := r.tlsOf(p)
	_, why := r.bundle(p.Key(), p.CertificateRefs)
	if tls.Broken != "" {
		rep.Warn(status.CertificateMissing, "spec.validation.caCertificateRefs", tls.Broken+": connections fail rather than go unverified", "create the ConfigMap with key ca.crt")
	}
	for i, gw := range slices.SortedFunc(maps.Keys(users), func(a, b object.Key) int { return strings.Compare(a.String(), b.String()) }) {
		if i == maxAncestors {
			break
		}
		part := model.Part{Name: gw.String()}
		switch {
		case tls.Broken != "":
			part.Say(condAccepted, false, "NoValidCACertificate", tls.Broken)
		case rival != "":
			part.Say(condAccepted, false, "Conflicted", rival)
		default:
			part.Say(condAccepted, true, "Accepted", "")
		}
		if tls.Broken != "" && why != nil {
			part.Say(condResolvedRefs, false, why.reason, why.text)
		} else {
			part.Say(condResolvedRefs, true, "ResolvedRefs", "")
		}
		rep.Parents = append(rep.Parents, part)
	}
}

// rivalTLS is an older policy for the same target, which wins.
func (r *reader) rivalTLS(p *object.BackendTLSPolicy, t object.TargetRef) *object.BackendTLSPolicy {
	for _, o := range list[*object.BackendTLSPolicy](r, topic{backendTLS, targetKey(p.Namespace, t)}) {
		if o == p {
			return nil
		}
		for _, ot := range o.TargetRefs {
			if targetKey(o.Namespace, ot) == targetKey(p.Namespace, t) && ot.SectionName == t.SectionName {
				return o
			}
		}
	}
	return nil
}

// users are the Gateways that talk to a hostname in a namespace.
func (r *reader) users(ns, host string) []object.Key {
	t := named(usedBy, ns, host)
	r.topics.add(t)
	return slices.SortedFunc(maps.Keys(r.m.attached[t]), func(a, b object.Key) int { return strings.Compare(a.String(), b.String()) })
}
