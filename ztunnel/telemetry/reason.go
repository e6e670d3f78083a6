package telemetry

import "errors"

// Reason says why a connection ended the way it did. The list is closed: the access log, the metrics and the operator's
// tools all speak of a connection's fate in these words and no others. The zero value is a connection that went well.
type Reason uint8

// The reasons, in the order a connection meets them.
const (
	OK Reason = iota
	// Source and destination: what was asked for makes no sense here.
	UnknownSource
	SelfCall
	BadMethod
	BadAuthority
	WrongDestination
	UnknownDestination
	// Routing.
	NoHealthyUpstream
	UnknownWaypoint
	NoWaypointEndpoint
	OtherNetwork
	NoAddress
	Unresolvable
	// Policy.
	PolicyDenied
	PolicyNotAllowed
	PolicyChanged
	WaypointRequired
	// Identity and transport.
	NoCertificate
	TLSFailed
	PeerIdentity
	CertificateRevoked
	HandshakeFailed
	TunnelRefused
	PeerDenied
	ConnectRefused
	ConnectTimeout
	ConnectFailed
	PortBlocked
	// After the connection was up.
	PeerReset
	TransportLost
	Draining
	PodRemoved
	Internal
	reasonCount
)

type reasonText struct {
	code  string // stable, for operators to search for and for tools to compare
	flags string // Istio's response_flags value, a fixed set
	text  string // what it means, what to look at
}

// One row a reason: the stable code, Istio's response_flags value (istio/ztunnel src/proxy/metrics.rs ResponseFlags), and
// the sentence `ambitctl` prints.
var reasons = [reasonCount]reasonText{
	OK:                 {"ok", "-", "the connection was carried and closed normally"},
	UnknownSource:      {"unknown-source", "CONNECT", "the control plane has not told this node about the pod that opened the connection; check that the control plane is reachable and knows the pod"},
	SelfCall:           {"self-call", "CONNECT", "the connection was addressed to one of the proxy's own ports (15001, 15006, 15008, 15080); call the application's port instead"},
	BadMethod:          {"bad-method", "CONNECT", "the peer sent a request other than CONNECT to port 15008; only mesh proxies may use this port"},
	BadAuthority:       {"bad-authority", "CONNECT", "the address the peer asked for could not be read as ip:port or hostname:port"},
	WrongDestination:   {"wrong-destination", "CONNECT", "the peer asked for an address that does not belong to this pod; its view of the mesh is probably out of date"},
	UnknownDestination: {"unknown-destination", "CONNECT", "no service of that name and port is known, or this pod is not an endpoint of it"},
	NoHealthyUpstream:  {"no-healthy-upstream", "CONNECT", "the service has no endpoint that is healthy, has this port and may be used from here; check the pods, their readiness and the traffic distribution"},
	UnknownWaypoint:    {"unknown-waypoint", "CONNECT", "the waypoint named for this destination does not exist; check istio.io/use-waypoint and the Gateway"},
	NoWaypointEndpoint: {"no-waypoint-endpoint", "CONNECT", "the waypoint for this destination has no endpoint that can be tried; check the waypoint's pods"},
	OtherNetwork:       {"other-network", "CONNECT", "the chosen endpoint is on another network, which this proxy cannot reach yet"},
	NoAddress:          {"no-address", "CONNECT", "the chosen endpoint has no address of a family the service and the client can use"},
	Unresolvable:       {"unresolvable", "CONNECT", "the chosen endpoint is known by hostname only and the name could not be resolved"},
	PolicyDenied:       {"policy-denied", "DENY", "an AuthorizationPolicy or PeerAuthentication of the destination denies this connection"},
	PolicyNotAllowed:   {"policy-not-allowed", "DENY", "the destination has ALLOW policies and none of them allows this connection"},
	PolicyChanged:      {"policy-changed", "DENY", "a policy changed while the connection was open and it is no longer allowed"},
	WaypointRequired:   {"waypoint-required", "DENY", "a policy of the destination is enforced by a waypoint, and the connection did not come through it; call the service by name from inside the mesh, check that its waypoint is there and ready, or set ambit.io/waypoint-enforcement: open"},
	NoCertificate:      {"no-certificate", "IDENTITY_ERROR", "there is no valid certificate for the pod's identity; check that the CA is reachable and accepts this node"},
	TLSFailed:          {"tls-failed", "TLS_FAILURE", "the TLS handshake with the other mesh proxy failed"},
	PeerIdentity:       {"peer-identity", "IDENTITY_ERROR", "the other side presented a valid certificate of an unexpected identity; the address may have been reused by another pod"},
	CertificateRevoked: {"certificate-revoked", "CERT_REVOKED", "the peer's certificate is on the revocation list"},
	HandshakeFailed:    {"handshake-failed", "H2_HANDSHAKE_FAILURE", "the HTTP/2 connection to the other mesh proxy could not be set up"},
	TunnelRefused:      {"tunnel-refused", "CONNECT", "the other mesh proxy answered the CONNECT request with an error"},
	PeerDenied:         {"peer-denied", "DENY", "the other mesh proxy refused the connection by policy; its log names the policy"},
	ConnectRefused:     {"connect-refused", "CONNECT", "nothing listens on the destination port"},
	ConnectTimeout:     {"connect-timeout", "CONNECT", "the destination did not answer in time"},
	ConnectFailed:      {"connect-failed", "CONNECT", "the destination could not be reached"},
	PortBlocked:        {"port-blocked", "NETWORK_POLICY", "port 15008 of the destination did not answer; a NetworkPolicy may block it"},
	PeerReset:          {"peer-reset", "-", "one side of the connection reset it"},
	TransportLost:      {"transport-lost", "CONNECT", "the tunnel under the connection broke"},
	Draining:           {"draining", "-", "the proxy was stopping and the connection was still open at its deadline"},
	PodRemoved:         {"pod-removed", "-", "the pod was removed while the connection was open"},
	Internal:           {"internal", "CONNECT", "the proxy failed; this is a bug"},
}

// String returns the stable code of the reason, such as "policy-denied".
func (r Reason) String() string { return reasons[r.known()].code }

// Flags returns the value of the response_flags label.
func (r Reason) Flags() string { return reasons[r.known()].flags }

// Explain returns one sentence for an operator: what it means and where to look.
func (r Reason) Explain() string { return reasons[r.known()].text }

func (r Reason) known() Reason {
	if r >= reasonCount {
		return Internal
	}
	return r
}

// Reasons lists every reason there is.
func Reasons() []Reason {
	all := make([]Reason, reasonCount)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}

// ParseReason finds a reason by its stable code.
func ParseReason(code string) (Reason, bool) {
	for i := range reasons {
		if reasons[i].code == code {
			return Reason(i), true
		}
	}
	return 0, false
}

// Error is an error that knows its Reason. Text is what the access log prints after error=.
type Error struct {
	Reason Reason
	Text   string
	Err    error
}

// Fail builds an Error. The text should name the thing concerned; err may be nil.
func Fail(r Reason, text string, err error) *Error { return &Error{r, text, err} }

// Error returns the text, or the reason's explanation when there is none, and the cause.
func (e *Error) Error() string {
	text := e.Text
	if text == "" {
		text = e.Reason.Explain()
	}
	if e.Err != nil {
		return text + ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ReasonOf finds the reason of an error: OK for nil, Internal for an error nobody classified.
func ReasonOf(err error) Reason {
	if err == nil {
		return OK
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return Internal
}
