package waypoint

import (
	"github.com/ambit-mesh/ambit/control/object"
)

// meshConfigName is the ConfigMap of the root namespace that has the mesh configuration.
const meshConfigName = "istio"

// read reports whether objects of the kind matter here.
func read(k object.Kind) bool {
	switch k {
	case object.KindPod, object.KindNode, object.KindEndpointSlice, object.KindWorkloadEntry, object.KindServiceAccount, object.KindPeerAuthentication,
		object.KindSidecar, object.KindEnvoyFilter:
		return false
	}
	return true
}

// reported reports whether there is something to say about objects of the kind.
func reported(k object.Kind) bool {
	switch k {
	case object.KindGateway, object.KindListenerSet, object.KindGatewayClass, object.KindHTTPRoute, object.KindGRPCRoute, object.KindTLSRoute,
		object.KindTCPRoute, object.KindVirtualService, object.KindDestinationRule, object.KindBackendTLSPolicy, object.KindAuthorizationPolicy,
		object.KindRequestAuthentication, object.KindTelemetry, object.KindWasmPlugin, object.KindTrafficExtension,
		object.KindExtensionPolicy, object.KindLocalRateLimitPolicy:
		return true
	}
	return false
}

// filed are the lists an object is on.
func (m *Model) filed(o object.Object) []topic {
	var ts []topic
	ns := o.Metadata().Namespace
	parents := func(ps []object.ParentRef) {
		for _, p := range ps {
			ts = append(ts, topic{routesOf, refKey(p.Ref)})
		}
	}
	targets := func(refs []object.TargetRef) {
		for _, t := range refs {
			ts = append(ts, topic{policiesOn, targetKey(ns, t)})
		}
		if len(refs) == 0 {
			ts = append(ts, named(policiesIn, ns, ""))
		}
	}
	switch o := o.(type) {
	case *object.HTTPRoute:
		parents(o.Parents)
	case *object.StreamRoute:
		parents(o.Parents)
	case *object.VirtualService:
		for _, h := range o.Hosts {
			ts = append(ts, named(virtualsOf, ns, h))
		}
	case *object.DestinationRule:
		ts = append(ts, named(rulesOf, ns, o.Host))
	case *object.ReferenceGrant:
		ts = append(ts, named(grantsIn, ns, ""))
	case *object.ListenerSet:
		ts = append(ts, topic{listenersOf, refKey(o.Parent)})
	case *object.BackendTLSPolicy:
		for _, t := range o.TargetRefs {
			ts = append(ts, topic{backendTLS, targetKey(ns, t)})
		}
	case *object.AuthorizationPolicy:
		targets(o.TargetRefs)
	case *object.RequestAuthentication:
		targets(o.TargetRefs)
	case *object.Telemetry:
		targets(o.TargetRefs)
	case *object.Extension:
		targets(o.TargetRefs)
	case *object.LocalRateLimitPolicy:
		targets(o.TargetRefs)
	}
	return ts
}

// refKey is the key of what a reference names. The zero kind stands for kinds nobody reads.
func refKey(r object.Ref) object.Key {
	kind, _ := object.ParseKind(r.Kind)
	k := object.Key{Kind: kind, Namespace: r.Namespace, Name: r.Name}
	if kind.ClusterScoped() {
		k.Namespace = ""
	}
	return k
}

func targetKey(ns string, t object.TargetRef) object.Key {
	if t.Namespace != "" {
		ns = t.Namespace
	}
	return refKey(object.Ref{Kind: t.Kind, Namespace: ns, Name: t.Name})
}
