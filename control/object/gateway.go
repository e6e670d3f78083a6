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

// Listener of a Gateway.
type Listener struct {
	Name     string
	Hostname string
	Port     uint16
	Protocol string // HTTP, HTTPS, TLS, TCP, UDP, HBONE
	TLSMode  string // Terminate, Passthrough or ""
	// TLSOptions are tls.options.
	TLSOptions Labels
	From       RouteNamespaces
	// FromSelector is meant only when From says FromSelector.
	FromSelector LabelSelector
}

// Gateway is a Gateway with the addresses its status gives.
type Gateway struct {
	Meta
	Class     string
	Addresses []GatewayAddress // spec.addresses
	Listeners []Listener
	// Status are status.addresses; a Gateway without any is not ready.
	Status []GatewayAddress
}

// Key implements Object.
func (g *Gateway) Key() Key { return Key{Kind: KindGateway, Namespace: g.Namespace, Name: g.Name} }

// GatewayClass is a class of Gateways.
type GatewayClass struct {
	Meta
	Controller string
}

// Key implements Object.
func (g *GatewayClass) Key() Key { return Key{Kind: KindGatewayClass, Name: g.Name} }
