// Package explain says what a waypoint would do with a request, and why: the token, the policies by name and rule, the
// rate limits, the route, the backend and its endpoints. It reads the same facts Envoy's configuration is made of, and
// evaluates them by itself, so that an answer is at the same time a second opinion on that configuration.
//
// It is pure: the time is handed in, nothing is sent and no state is kept. What depends on others (an external authorizer,
// a counter of a rate limit, a share of traffic) is said to be open and not guessed. Start reading at Request and Explain.
package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

// Request is a request as it reaches a waypoint.
type Request struct {
	// Namespace and Hostname are of the service that was addressed, Port is the port of it. Without a Hostname it is the pod
	// at Destination that was addressed. At an edge gateway Port is the listener's, and Authority says who is asked for.
	Namespace string `json:"namespace"`
	Hostname  string `json:"hostname"`
	Port      uint32 `json:"port"`
	// Peer is the SPIFFE id of the peer's certificate.
	Peer string `json:"peer"`
	// Client is the peer's address.
	Client netip.Addr `json:"client"`
	// Destination is the address that was dialed.
	Destination netip.Addr `json:"destination"`

	// Method is GET if empty, Path starts with a slash and may have a query, Authority is Hostname if empty.
	Method    string `json:"method,omitempty"`
	Path      string `json:"path,omitempty"`
	Authority string `json:"authority,omitempty"`
	Scheme    string `json:"scheme,omitempty"`
	// Headers by lower-case name.
	Headers map[string]string `json:"headers,omitempty"`
	// TCP: there is no request, only a connection; SNI is what it asks for if it is TLS.
	TCP bool   `json:"tcp,omitempty"`
	SNI string `json:"sni,omitempty"`
	// Now is when the request is made.
	Now time.Time `json:"now"`
	// Ejected are the addresses of endpoints that Envoy has taken out because they failed, by cluster. Only the proxy
	// knows.
	Ejected map[string][]netip.Addr `json:"-"`
}

// Verdict of a step.
type Verdict string

// Verdicts.
const (
	// Pass: the request goes on.
	Pass Verdict = "pass"
	// Deny: the request ends here.
	Deny Verdict = "deny"
	// Open: somebody else decides, and the walk goes on as if it was let through.
	Open Verdict = "open"
)

// Step is one thing a request meets on its way.
type Step struct {
	// Stage is token, policy, rate limit, route, fault or backend.
	Stage   string  `json:"stage"`
	Verdict Verdict `json:"verdict"`
	// Object is the resource that says so, like "AuthorizationPolicy shop/only-get rule 0"; empty for what the mesh does
	// by itself.
	Object string `json:"object,omitempty"`
	Text   string `json:"text"`
	// Status is what the client gets when the step denies; 0 is a connection that is closed.
	Status int `json:"status,omitempty"`
}

// Endpoint is a pod or host the request may reach.
type Endpoint struct {
	Workload string `json:"workload"`
	Address  string `json:"address"`
	Healthy  bool   `json:"healthy"`
	// Ejected: Envoy sends it nothing for a while, because it failed.
	Ejected bool `json:"ejected,omitempty"`
}

// Backend is where a share of the requests goes.
type Backend struct {
	Namespace string  `json:"namespace"`
	Hostname  string  `json:"hostname"`
	Port      uint32  `json:"port"`
	Subset    string  `json:"subset,omitempty"`
	Percent   float64 `json:"percent"`
	Broken    string  `json:"broken,omitempty"`
	// Via is the other waypoint, as namespace/hostname, that this backend is reached through; the endpoints are its own.
	Via       string     `json:"via,omitempty"`
	Endpoints []Endpoint `json:"endpoints"`
}

// Answer is what becomes of a request.
type Answer struct {
	Steps []Step `json:"steps"`
	// Allowed: no step denies. Status is what the proxy answers itself when it is not, or when a route answers directly;
	// 0 when the backend does.
	Allowed  bool      `json:"allowed"`
	Status   int       `json:"status,omitempty"`
	Backends []Backend `json:"backends,omitempty"`
	// TCP: it was walked as a connection without requests.
	TCP bool `json:"tcp,omitempty"`
}

// walk is one request on its way.
type walk struct {
	env    *envoy.Env
	req    Request
	peer   peer
	tokens []token
	answer Answer
}

// Explain walks a request through the proxy whose state env is.
func Explain(env *envoy.Env, req Request) Answer {
	req.normalize(env.Gateway.GetMesh().GetPathNormalization())
	w := &walk{env: env, req: req, peer: parsePeer(req.Peer)}
	switch {
	case env.Gateway.GetKind() == waypoint.Gateway_EDGE:
		w.atEdge()
	case req.Hostname == "":
		w.toPod()
	default:
		w.toService()
	}
	return w.done()
}

// toService is a walk to a service that was addressed by its name or virtual address.
func (w *walk) toService() {
	svc := w.env.Service(w.req.Namespace, w.req.Hostname)
	if svc == nil {
		w.unserved(w.req.Namespace + "/" + w.req.Hostname)
		return
	}
	port := portOf(svc, w.req.Port)
	if port == nil {
		w.deny("service", "", fmt.Sprintf("the service has no port %d: the tunnel is refused", w.req.Port), 0)
		return
	}
	if port.GetProtocol() == waypoint.Protocol_TCP || port.GetProtocol() == waypoint.Protocol_TLS {
		w.req.TCP = true
	}
	all := []*waypoint.Policies{w.env.Gateway.GetPolicies(), svc.GetPolicies()}
	self := &waypoint.Backend{Namespace: svc.GetNamespace(), Hostname: svc.GetHostname(), Port: port.GetNumber(), Weight: 1}
	switch {
	case !w.permitted(all):
	case w.req.TCP:
		w.stream(port.GetStream(), self, len(port.GetStream()) > 0 || port.GetRouted() && len(port.GetHttp()) == 0)
	default:
		w.route(port.GetHttp(), self, port.GetRouted())
	}
}

// permitted asks for tokens, then policies, then rate limits and extensions.
func (w *walk) permitted(all []*waypoint.Policies) bool {
	if w.req.TCP {
		return w.custom(all) && w.authorize(all)
	}
	return w.custom(all) && w.authenticate(all) && w.authorize(all) && w.limit(all) && w.extensions(all)
}

// unserved: a proxy never relays to what it was not told to serve.
func (w *walk) unserved(what string) {
	w.deny("service", "", "this proxy does not serve "+what+": the tunnel is refused", 0)
}

func (w *walk) done() Answer {
	w.answer.Allowed, w.answer.TCP = true, w.req.TCP
	for _, s := range w.answer.Steps {
		if s.Verdict == Deny {
			w.answer.Allowed, w.answer.Status = false, s.Status
		}
	}
	return w.answer
}

func (w *walk) step(stage string, v Verdict, object, text string) {
	w.answer.Steps = append(w.answer.Steps, Step{Stage: stage, Verdict: v, Object: object, Text: text})
}

// deny ends the walk.
func (w *walk) deny(stage, object, text string, status int) bool {
	if w.req.TCP {
		status = 0 // there is nobody to tell: the connection is closed
	}
	w.answer.Steps = append(w.answer.Steps, Step{Stage: stage, Verdict: Deny, Object: object, Text: text, Status: status})
	return false
}

func portOf(svc *waypoint.Service, number uint32) *waypoint.ServicePort {
	for _, p := range svc.GetPorts() {
		if p.GetNumber() == number {
			return p
		}
	}
	return nil
}

func (r *Request) normalize(how waypoint.MeshSettings_PathNormalization) {
	if r.Method == "" {
		r.Method = "GET"
	}
	if r.Path == "" {
		r.Path = "/"
	}
	if r.Authority == "" {
		r.Authority = r.Hostname
	}
	if r.Scheme == "" {
		r.Scheme = "http"
	}
	headers := make(map[string]string, len(r.Headers))
	for k, v := range r.Headers {
		headers[strings.ToLower(k)] = v
	}
	if h := headers["host"]; h != "" {
		r.Authority = h
		delete(headers, "host")
	}
	r.Headers = headers
	path, query, has := strings.Cut(r.Path, "?")
	r.Path = normalizePath(path, how)
	if has {
		r.Path += "?" + query
	}
}

// header is a header, pseudo headers included, and whether it is there.
func (r *Request) header(name string) (string, bool) {
	switch name = strings.ToLower(name); name {
	case ":method":
		return r.Method, true
	case ":path":
		return r.Path, true
	case ":authority", "host":
		return r.Authority, true
	case ":scheme":
		return r.Scheme, true
	}
	v, ok := r.Headers[name]
	return v, ok
}

func (r *Request) path() string {
	p, _, _ := strings.Cut(r.Path, "?")
	return p
}
