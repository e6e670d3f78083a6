package object

// Action of an AuthorizationPolicy.
type Action uint8

// Actions; the zero value is the default of the API.
const (
	Allow Action = iota
	Deny
	Audit
	Custom
)

// String is the action as it is written in YAML.
func (a Action) String() string { return [...]string{"ALLOW", "DENY", "AUDIT", "CUSTOM"}[a] }

// TargetRef binds a policy to an object.
type TargetRef struct {
	Group       string
	Kind        string
	Namespace   string // "" means the policy's own
	Name        string
	SectionName string
}

// AuthorizationPolicy is the whole policy, attributes for layer 7 included: the model decides who can enforce what.
type AuthorizationPolicy struct {
	Meta
	Action     Action
	Provider   string // of action CUSTOM
	Selector   Selector
	TargetRefs []TargetRef // targetRef and targetRefs together
	Rules      []Rule
}

// Key implements Object.
func (p *AuthorizationPolicy) Key() Key {
	return Key{Kind: KindAuthorizationPolicy, Namespace: p.Namespace, Name: p.Name}
}

// Rule holds when one of From (if any), one of To (if any) and all of When hold.
type Rule struct {
	From []Source
	To   []Operation
	When []Condition
}

// Source is about the peer. All fields that are set must hold.
type Source struct {
	Principals, NotPrincipals               []string
	RequestPrincipals, NotRequestPrincipals []string
	Namespaces, NotNamespaces               []string
	ServiceAccounts, NotServiceAccounts     []string
	IPBlocks, NotIPBlocks                   []string
	RemoteIPBlocks, NotRemoteIPBlocks       []string
	TrustDomains, NotTrustDomains           []string
}

// Operation is about the request. All fields that are set must hold.
type Operation struct {
	Hosts, NotHosts     []string
	Ports, NotPorts     []string
	Methods, NotMethods []string
	Paths, NotPaths     []string
}

// Condition compares one attribute.
type Condition struct {
	Key       string
	Values    []string
	NotValues []string
}

// MTLSMode of a PeerAuthentication.
type MTLSMode uint8

// Modes; the zero value inherits from the next wider policy.
const (
	Unset MTLSMode = iota
	Disable
	Permissive
	Strict
)

// String is the mode as it is written in YAML.
func (m MTLSMode) String() string { return [...]string{"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}[m] }

// PortMode is an exception for one port.
type PortMode struct {
	Port uint16
	Mode MTLSMode
}

// PeerAuthentication says which peers may come in plaintext.
type PeerAuthentication struct {
	Meta
	Selector Selector
	Mode     MTLSMode
	// Ports are the exceptions, sorted by port.
	Ports []PortMode
}

// Key implements Object.
func (p *PeerAuthentication) Key() Key {
	return Key{Kind: KindPeerAuthentication, Namespace: p.Namespace, Name: p.Name}
}
