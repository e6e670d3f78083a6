// Package object holds the configuration a mesh is computed from, as slim plain Go values: what the model reads of a
// Kubernetes object and nothing else. Sources (a folder, a cluster) produce these values, the model consumes them.
//
// It does not know Kubernetes' Go types, YAML, or what any of this means for traffic. Values are immutable once handed
// over: a change is a new value under the same Key. The package starts no goroutine. Start reading at Event.
package object

import (
	"fmt"
	"time"
)

// Kind says which Go type an object has.
type Kind uint8

// The kinds the model reads. The zero Kind is none of them.
const (
	KindNamespace Kind = iota + 1
	KindNode
	KindServiceAccount
	KindPod
	KindService
	KindEndpointSlice
	KindServiceEntry
	KindWorkloadEntry
	KindAuthorizationPolicy
	KindPeerAuthentication
	KindGateway
	KindGatewayClass
	KindVirtualService
	KindDestinationRule
	KindHTTPRoute
	KindGRPCRoute
	KindTLSRoute
	KindTCPRoute
	KindReferenceGrant
	KindBackendTLSPolicy
	KindListenerSet
	KindRequestAuthentication
	KindTelemetry
	KindWasmPlugin
	KindTrafficExtension
	KindSidecar
	KindEnvoyFilter
	KindSecret
	KindConfigMap
	KindLocalRateLimitPolicy
	KindExtensionPolicy
	KindNetworkPolicy
)

var kindNames = [...]string{
	KindNamespace:             "Namespace",
	KindNode:                  "Node",
	KindServiceAccount:        "ServiceAccount",
	KindPod:                   "Pod",
	KindService:               "Service",
	KindEndpointSlice:         "EndpointSlice",
	KindServiceEntry:          "ServiceEntry",
	KindWorkloadEntry:         "WorkloadEntry",
	KindAuthorizationPolicy:   "AuthorizationPolicy",
	KindPeerAuthentication:    "PeerAuthentication",
	KindGateway:               "Gateway",
	KindGatewayClass:          "GatewayClass",
	KindVirtualService:        "VirtualService",
	KindDestinationRule:       "DestinationRule",
	KindHTTPRoute:             "HTTPRoute",
	KindGRPCRoute:             "GRPCRoute",
	KindTLSRoute:              "TLSRoute",
	KindTCPRoute:              "TCPRoute",
	KindReferenceGrant:        "ReferenceGrant",
	KindBackendTLSPolicy:      "BackendTLSPolicy",
	KindListenerSet:           "ListenerSet",
	KindRequestAuthentication: "RequestAuthentication",
	KindTelemetry:             "Telemetry",
	KindWasmPlugin:            "WasmPlugin",
	KindTrafficExtension:      "TrafficExtension",
	KindSidecar:               "Sidecar",
	KindEnvoyFilter:           "EnvoyFilter",
	KindSecret:                "Secret",
	KindConfigMap:             "ConfigMap",
	KindLocalRateLimitPolicy:  "LocalRateLimitPolicy",
	KindExtensionPolicy:       "ExtensionPolicy",
	KindNetworkPolicy:         "NetworkPolicy",
}

// String is the kind as it is written in YAML.
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kindNames) {
		return fmt.Sprintf("Kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// ParseKind is the inverse of String; ok is false for a kind the model does not read.
func ParseKind(s string) (k Kind, ok bool) {
	for i, n := range kindNames {
		if n != "" && n == s {
			return Kind(i), true
		}
	}
	return 0, false
}

// MarshalText writes the kind as in YAML.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (k *Kind) UnmarshalText(b []byte) error {
	v, ok := ParseKind(string(b))
	if !ok {
		return fmt.Errorf("%q is not a kind the mesh reads", b)
	}
	*k = v
	return nil
}

// ClusterScoped reports whether objects of the kind have no namespace.
func (k Kind) ClusterScoped() bool {
	return k == KindNamespace || k == KindNode || k == KindGatewayClass
}

// Key names one object. Namespace is empty for cluster-scoped kinds.
type Key struct {
	Kind      Kind
	Namespace string
	Name      string
}

// String is "Kind namespace/name", or "Kind name" without a namespace.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Kind.String() + " " + k.Name
	}
	return k.Kind.String() + " " + k.Namespace + "/" + k.Name
}

// Meta is what every object carries.
type Meta struct {
	Namespace string
	Name      string
	UID       string
	Labels    Labels
	// Annotations has only the annotations the mesh reads; see KeepAnnotation.
	Annotations Labels
	// Created orders objects that claim the same thing: the oldest wins. Zero when the source does not say.
	Created    time.Time
	Generation int64
	// Deleting is set from the moment deletion was asked for, while the object still exists.
	Deleting bool
}

// Metadata returns the Meta of an object of any kind.
func (m *Meta) Metadata() *Meta { return m }

// Object is a pointer to one of the structs of this package.
type Object interface {
	Key() Key
	Metadata() *Meta
}

// Event says what an object is now. A nil Object means that it is gone.
type Event struct {
	Key    Key
	Object Object
}

// Put is the event of an object that was added or changed.
func Put(o Object) Event { return Event{Key: o.Key(), Object: o} }

// Delete is the event of an object that is gone.
func Delete(k Key) Event { return Event{Key: k} }

// Sink receives what a source sees. One source calls it from one goroutine. The first Apply calls carry the complete
// initial state, then Synced is called once, then every Apply is a change. A batch names each key at most once.
type Sink interface {
	Apply([]Event)
	Synced()
}
