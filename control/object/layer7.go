package object

import (
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// JWTRule is one issuer of a RequestAuthentication.
type JWTRule struct {
	// Rule has the key set in Jwks when it stands in the YAML.
	Rule *waypoint.JWTRule
	// JWKSURI is where to fetch it from otherwise; "" with neither means by the issuer's discovery document.
	JWKSURI string
	// Timeout of fetching; 0 when unset.
	Timeout time.Duration
}

// RequestAuthentication says whose tokens are believed.
type RequestAuthentication struct {
	Meta
	Selector   Selector
	TargetRefs []TargetRef
	Rules      []JWTRule
}

// Key implements Object.
func (a *RequestAuthentication) Key() Key {
	return Key{Kind: KindRequestAuthentication, Namespace: a.Namespace, Name: a.Name}
}

// Side of the traffic that a part of a Telemetry or extension is about. A waypoint is the server's.
type Side uint8

// Sides; the zero value is both.
const (
	BothSides Side = iota
	ClientSide
	ServerSide
)

// TelemetryTracing is one entry of a Telemetry's tracing list.
type TelemetryTracing struct {
	Side      Side
	Providers []string // names in MeshConfig.Providers; empty inherits
	// Settings has what this entry sets: Sampling and Tags; the destination comes with the provider.
	Settings *waypoint.Tracing
	// Disabled is disableSpanReporting; nil inherits.
	Disabled *bool
}

// TelemetryMetrics is one entry of a Telemetry's metrics list.
type TelemetryMetrics struct {
	Providers []string
	Overrides []TelemetryOverride
}

// TelemetryOverride is one override of a metric, for one side.
type TelemetryOverride struct {
	Side     Side
	Override *waypoint.MetricOverride
}

// TelemetryLogging is one entry of a Telemetry's accessLogging list.
type TelemetryLogging struct {
	Side      Side
	Providers []string
	Disabled  *bool
	Filter    string // CEL
}

// Telemetry says what is recorded about traffic. Several are merged: mesh, namespace, target.
type Telemetry struct {
	Meta
	Selector   Selector
	TargetRefs []TargetRef
	Tracing    []TelemetryTracing
	Metrics    []TelemetryMetrics
	Logging    []TelemetryLogging
}

// Key implements Object.
func (t *Telemetry) Key() Key { return Key{Kind: KindTelemetry, Namespace: t.Namespace, Name: t.Name} }

// ExtensionScope narrows an extension. All that is set must hold.
type ExtensionScope struct {
	Side  Side
	Ports []uint16 // empty means all
}

// Extension is a WasmPlugin, a TrafficExtension or an ExtensionPolicy.
type Extension struct {
	Meta
	Kind       Kind
	Selector   Selector
	TargetRefs []TargetRef
	// Scopes: one of them must hold. None means everywhere.
	Scopes []ExtensionScope
	// Spec has no processor service yet; it is in Processor.
	Spec      *waypoint.Extension
	Processor BackendRef
	// Broken is why it cannot be carried out, "" when it can. It fails open or closed as Spec.FailOpen says.
	Broken string
}

// Key implements Object.
func (e *Extension) Key() Key { return Key{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name} }

// LocalRateLimitPolicy says how much each proxy lets through.
type LocalRateLimitPolicy struct {
	Meta
	TargetRefs []TargetRef
	Spec       *waypoint.RateLimit
}

// Key implements Object.
func (p *LocalRateLimitPolicy) Key() Key {
	return Key{Kind: KindLocalRateLimitPolicy, Namespace: p.Namespace, Name: p.Name}
}

// NoEffect is an object of a kind that means nothing in a mesh without sidecars: Sidecar, EnvoyFilter. It is read so that
// its author can be told.
type NoEffect struct {
	Meta
	Kind Kind
}

// Key implements Object.
func (n *NoEffect) Key() Key { return Key{Kind: n.Kind, Namespace: n.Namespace, Name: n.Name} }
