package object

// AddressKind of a Gateway's address.
type AddressKind uint8

// Kinds of addresses.
const (
	AddressIP AddressKind = iota
	AddressHostname
	AddressNamed
)

// GatewayAddress is where a Gateway wants to be or is reached.
type GatewayAddress struct {
	Kind  AddressKind
	Value string
}

// RouteNamespaces is listeners[].allowedRoutes.namespaces.from.
type RouteNamespaces uint8

// Which namespaces may attach; the zero value is the default of the API.
const (
	FromSame RouteNamespaces = iota
	FromAll
	FromSelector
	FromNone
)

// RouteKind is a kind of route that may attach to a listener.
type RouteKind struct{ Group, Kind string }

// Listener of a Gateway or ListenerSet.
type Listener struct {
	Name     string
	Hostname string
	Port     uint16
	Protocol string // HTTP, HTTPS, TLS, TCP, UDP, HBONE
	TLSMode  string // Terminate, Passthrough or ""
	// TLSOptions are tls.options.
	TLSOptions Labels
	// Certificates are tls.certificateRefs.
	Certificates []Ref
	From         RouteNamespaces
	// FromSelector is meant only when From says FromSelector.
	FromSelector LabelSelector
	// Kinds are allowedRoutes.kinds; empty means those that fit the protocol.
	Kinds []RouteKind
}

// ClientValidation says how certificates of clients outside the mesh are verified.
type ClientValidation struct {
	// CertificateRefs are ConfigMaps or Secrets with key ca.crt.
	CertificateRefs []Ref
	// Optional is mode AllowInsecureFallback: clients without a valid certificate are let in.
	Optional bool
}

// Infrastructure is what is deployed for a Gateway.
type Infrastructure struct {
	Labels      Labels
	Annotations Labels
	// Parameters is parametersRef, zero without one.
	Parameters Ref
}

// Gateway is a Gateway with the addresses its status gives.
type Gateway struct {
	Meta
	Class     string
	Addresses []GatewayAddress // spec.addresses with a value
	// AnyAddress are the kinds of spec.addresses without a value.
	AnyAddress []AddressKind
	Listeners  []Listener
	// ListenerSets says which namespaces may add listeners; FromNone by default.
	ListenerSets         RouteNamespaces
	ListenerSetsSelector LabelSelector
	Infrastructure       Infrastructure
	// ClientTLS is tls.frontend.default; nil asks clients for no certificate. ClientTLSPorts are the exceptions.
	ClientTLS      *ClientValidation
	ClientTLSPorts map[uint16]*ClientValidation
	// BackendCertificate is tls.backend.clientCertificateRef, zero without one.
	BackendCertificate Ref
	// Status are status.addresses; a Gateway without any is not ready.
	Status []GatewayAddress
}

// Key implements Object.
func (g *Gateway) Key() Key { return Key{Kind: KindGateway, Namespace: g.Namespace, Name: g.Name} }

// ListenerSet adds listeners to a Gateway.
type ListenerSet struct {
	Meta
	Parent    Ref
	Listeners []Listener
}

// Key implements Object.
func (l *ListenerSet) Key() Key {
	return Key{Kind: KindListenerSet, Namespace: l.Namespace, Name: l.Name}
}

// GatewayClass is a class of Gateways.
type GatewayClass struct {
	Meta
	Controller string
	// Parameters is parametersRef, zero without one.
	Parameters Ref
}

// Key implements Object.
func (g *GatewayClass) Key() Key { return Key{Kind: KindGatewayClass, Name: g.Name} }
