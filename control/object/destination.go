package object

import "github.com/ambit-mesh/ambit/api/waypoint"

// DestinationRule says how a service is talked to.
type DestinationRule struct {
	Meta
	Host     string // complete name, lower case; may start with "*."
	ExportTo []string
	// WorkloadSelector makes the rule one for clients that run beside their proxy; a waypoint never is one.
	WorkloadSelector Selector
	// Policy and those below have in ClientTLS.Secret the credentialName as written. Nil when there is none.
	Policy  *waypoint.TrafficPolicy
	Ports   map[uint32]*waypoint.TrafficPolicy
	Subsets []*waypoint.Subset
}

// Key implements Object.
func (d *DestinationRule) Key() Key {
	return Key{Kind: KindDestinationRule, Namespace: d.Namespace, Name: d.Name}
}

// BackendTLSPolicy says with which TLS a service is talked to.
type BackendTLSPolicy struct {
	Meta
	TargetRefs []TargetRef // of the policy's own namespace; SectionName is a port's name
	// Hostname is sent as SNI, and must be in the certificate unless SubjectAltNames are given.
	Hostname string
	// SubjectAltNames are DNS names and URIs, any of which must be in the certificate.
	SubjectAltNames []string
	// CertificateRefs are ConfigMaps (or Secrets) with key ca.crt, of the policy's namespace.
	CertificateRefs []Ref
	// SystemRoots is wellKnownCACertificates: System. Never together with CertificateRefs.
	SystemRoots bool
}

// Key implements Object.
func (b *BackendTLSPolicy) Key() Key {
	return Key{Kind: KindBackendTLSPolicy, Namespace: b.Namespace, Name: b.Name}
}
