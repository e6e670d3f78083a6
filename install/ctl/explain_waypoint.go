package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/admin"
)

// arrival is how a connection comes to a pod.
type arrival struct {
	peer, peerIP, client, clientIP string
}

// atWaypoint is a request as a waypoint or gateway is asked about it.
type atWaypoint struct {
	Namespace   string            `json:"namespace,omitempty"`
	Hostname    string            `json:"hostname,omitempty"`
	Port        uint32            `json:"port"`
	Peer        string            `json:"peer,omitempty"`
	Client      string            `json:"client"`
	Destination string            `json:"destination"`
	Method      string            `json:"method"`
	Path        string            `json:"path,omitempty"`
	Authority   string            `json:"authority,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	TCP         bool              `json:"tcp,omitempty"`
	SNI         string            `json:"sni,omitempty"`
	Now         time.Time         `json:"now"`
}

// answered is what a waypoint says.
type answered struct {
	Allowed bool
	Status  int
	Steps   []struct {
		Stage, Verdict, Object, Text string
		Status                       int
	}
	Backends []backend
	TCP      bool
}

type backend struct {
	Namespace, Hostname, Subset, Broken, Via string
	Port                                     uint32
	Percent                                  float64
	Endpoints                                []struct {
		Workload, Address string
		Healthy           bool
	}
}

// String is where the backend is, as namespace/hostname:port; a pod addressed by its IP is just that.
func (b backend) String() string {
	if b.Hostname == "" {
		return "the pod"
	}
	s := fmt.Sprintf("%s/%s:%d", b.Namespace, b.Hostname, b.Port)
	if b.Subset != "" {
		s += " subset " + b.Subset
	}
	return s
}

// request is what the question is at a proxy.
func (w *walker) request(port uint32) atWaypoint {
	q := &w.q
	r := atWaypoint{Port: port, Method: q.method, Path: q.path, Authority: q.authority(), Headers: map[string]string{}, TCP: q.tcp, SNI: q.sni, Now: w.env.Now()}
	for _, h := range q.headers {
		k, v, _ := strings.Cut(h, ":")
		r.Headers[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
	}
	return r
}

// throughWaypoint asks one instance of the waypoint, and then the pods it may send to.
func (w *walker) throughWaypoint(ctx context.Context, out way) {
	req := w.request(uint32(w.q.port))
	req.Namespace, req.Hostname, _ = strings.Cut(out.Service, "/")
	req.Peer, req.Client = out.Identity, out.Address
	req.Destination, _, _ = net.SplitHostPort(out.Dst)
	w.at(ctx, "waypoint "+out.Waypoint, out.Hops, req, 0)
}

// maxWaypoints is how many proxies a request passes in turn; more would be a loop.
const maxWaypoints = 3

// at asks one of the instances that pods are, and follows the answer.
func (w *walker) at(ctx context.Context, hop string, pods []hop, req atWaypoint, depth int) {
	i, ip, err := w.instanceAmong(ctx, pods)
	var got answered
	if err == nil {
		got, err = askInstance(ctx, i, req)
	}
	if err != nil {
		w.lost(hop, err)
		return
	}
	w.follow(ctx, hop, got, req, arrival{peer: i.identity, peerIP: ip, client: req.Peer, clientIP: req.Client}, depth)
}

// follow tells what a proxy said and goes on to its backends.
func (w *walker) follow(ctx context.Context, hop string, got answered, req atWaypoint, from arrival, depth int) {
	for _, s := range got.Steps {
		verdict := map[string]string{"deny": deny, "open": either}[s.Verdict]
		w.add(hop, cmp.Or(verdict, pass), s.Object, "%s: %s", s.Stage, s.Text)
		if s.Verdict == "deny" {
			w.Allowed, w.Status, w.By = false, s.Status, s.Object
		}
	}
	if !got.Allowed || got.Status != 0 {
		w.Status = got.Status
		return
	}
	var all outcome
	for _, b := range got.Backends {
		all.also(w.toBackend(ctx, b, req, from, got.TCP, depth))
	}
	w.settle(all)
}

// toBackend follows one share of the traffic to its pods.
func (w *walker) toBackend(ctx context.Context, b backend, req atWaypoint, from arrival, tcp bool, depth int) outcome {
	share := fmt.Sprintf("%.4g%% to %s", b.Percent, b)
	if b.Broken != "" {
		w.add("backend", deny, "", "%s: %s", share, b.Broken)
		return outcome{refused: 1, status: 503}
	}
	var pods []hop
	for _, p := range b.Endpoints {
		namespace, name, _ := strings.Cut(p.Workload, "/")
		h := hop{Namespace: namespace, Name: name, Node: w.nodes[p.Workload], Address: p.Address, Port: uint16(b.Port)}
		if b.Hostname != "" {
			h.Service = b.Namespace + "/" + b.Hostname
		}
		if p.Healthy {
			pods = append(pods, h)
		}
	}
	if b.Via != "" && depth < maxWaypoints {
		w.add("backend", pass, "", "%s, through waypoint %s: %s", share, b.Via, hops(pods))
		next := &explanation{Allowed: true}
		inner := *w
		inner.explanation = next
		req.Namespace, req.Hostname, req.Port, req.Peer, req.Client = b.Namespace, b.Hostname, b.Port, from.peer, from.peerIP
		inner.at(ctx, "waypoint "+b.Via, pods, req, depth+1)
		w.Stages = append(w.Stages, next.Stages...)
		if next.Allowed {
			return outcome{taken: 1}
		}
		return outcome{refused: 1, status: next.Status, reason: next.Reason, by: next.By, unknown: next.Unknown}
	}
	w.add("backend", pass, "", "%s: %s", share, hops(pods))
	o := w.arrive(ctx, pods, from)
	if o.refused > 0 && !tcp {
		o.status = 503 // what a proxy makes of a backend that closes
	}
	return o
}

// instanceAmong finds the running proxy that one of the pods is.
func (w *walker) instanceAmong(ctx context.Context, pods []hop) (i instance, ip string, err error) {
	all, err := w.instances(ctx, "")
	if err != nil {
		return instance{}, "", err
	}
	for _, p := range pods {
		for _, i := range all {
			if i.namespace == p.Namespace && i.pod == p.Name {
				if ip, _, err = net.SplitHostPort(p.Address); err != nil {
					ip = p.Address
				}
				return i, ip, nil
			}
		}
	}
	return instance{}, "", errors.New("no instance of it runs here")
}

// askInstance asks a proxy what it would do.
func askInstance(ctx context.Context, i instance, req atWaypoint) (got answered, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return got, err
	}
	err = askJSON(ctx, i.endpoint, "/explain", url.Values{"request": {string(body)}}, &got)
	return got, err
}

// isEdge reports whether a proxy is for clients outside the mesh.
func isEdge(i instance) bool { return i.class != mesh.GatewayClassWaypoint }

// fromOutside asks an edge gateway about a request to one of its listeners.
func (w *walker) fromOutside(ctx context.Context, i instance, ip string) {
	at := "gateway " + i.namespace + "/" + i.gateway
	w.add("client", pass, "", "is outside the mesh, and asks %s at port %d for %s", at, w.q.port, w.q.host)
	got, err := askInstance(ctx, i, w.request(uint32(w.q.port)))
	if err != nil {
		w.lost(at, err)
		return
	}
	w.follow(ctx, at, got, w.request(uint32(w.q.port)), arrival{peer: i.identity, peerIP: ip}, 0)
}

// arrive asks the proxy of each pod whether it takes the connection.
func (w *walker) arrive(ctx context.Context, pods []hop, from arrival) (o outcome) {
	for _, p := range pods {
		node := cmp.Or(p.Node, w.nodes[p.String()])
		if node == "" {
			o.taken++ // outside the mesh, nobody to ask
			continue
		}
		at := "ztunnel of " + node
		var v arrived
		err := askJSON(ctx, endpointOf(w.proxies, node), "/explain/inbound", url.Values{
			"workload": {p.String()}, "port": {strconv.Itoa(int(p.Port))}, "service": {p.Service},
			"peer": {from.peer}, "peer_ip": {from.peerIP}, "client": {from.client}, "client_ip": {from.clientIP},
		}, &v)
		switch {
		case err != nil:
			w.add(at, either, "", "%s: cannot be asked: %v", p, err)
			o.unknown = err.Error()
		case !v.Captured:
			o.taken++
			w.add("pod "+p.String(), pass, "", "is not in the mesh: nobody asks policies")
		case !v.Allow:
			o.also(outcome{refused: 1, reason: v.Reason, by: v.by()})
			object := v.by()
			if len(v.Enforced) > 0 {
				object = "" // the text names them
			}
			w.add(at, deny, object, "%s: %s", p, v.Error)
		default:
			o.taken++
			w.add(at, pass, v.by(), "%s %s", p, v.how())
		}
	}
	return o
}

// arrived is what a node proxy says of a connection to a pod.
type arrived struct {
	Captured, Allow               bool
	Policy, Reason, Error, Around string
	DryRun, Asked, Enforced       []string
}

// by names the policies that decided.
func (v arrived) by() string {
	names := v.Asked
	if v.Policy != "" {
		names = []string{v.Policy}
	}
	var out []string
	for _, n := range names {
		out = append(out, "AuthorizationPolicy "+n)
	}
	return strings.Join(append(out, v.Enforced...), ", ")
}

func (v arrived) how() string {
	text := "lets it in"
	if v.Around != "" {
		text += ", although: " + v.Around
	}
	if len(v.DryRun) > 0 {
		text += "; dry runs that match: " + strings.Join(v.DryRun, ", ")
	}
	return text
}

func endpointOf(all []proxy, node string) admin.Endpoint {
	for _, p := range all {
		if p.node == node {
			return p.endpoint
		}
	}
	return admin.Endpoint{What: "the ztunnel of " + node}
}

// askJSON decodes an answer.
func askJSON(ctx context.Context, e admin.Endpoint, path string, q url.Values, to any) error {
	if e.Address == "" {
		return fmt.Errorf("%s is unknown here", e.What)
	}
	body, err := e.Get(ctx, path+"?"+q.Encode())
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(body).Decode(to); err != nil {
		return fmt.Errorf("%w of %s: %w", errData, e.What, err)
	}
	return nil
}
