package ctl

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// arrival is how a connection comes to a pod.
type arrival struct {
	peer, peerIP, client, clientIP string
}

// atWaypoint is a request as a waypoint is asked about it.
type atWaypoint struct {
	Namespace   string            `json:"namespace"`
	Hostname    string            `json:"hostname"`
	Port        uint16            `json:"port"`
	Peer        string            `json:"peer"`
	Client      string            `json:"client"`
	Destination string            `json:"destination"`
	Method      string            `json:"method"`
	Path        string            `json:"path,omitempty"`
	Authority   string            `json:"authority,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
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
	Backends []struct {
		Namespace, Hostname, Subset, Broken string
		Port                                uint16
		Percent                             float64
		Endpoints                           []struct {
			Workload, Address string
			Healthy           bool
		}
	}
}

// throughWaypoint asks one instance of the waypoint, and then the pods it may send to.
func (a *app) throughWaypoint(ctx context.Context, e *explanation, q question, w way, proxies []proxy) {
	at := "waypoint " + w.Waypoint
	namespace, hostname, ok := strings.Cut(w.Service, "/")
	if !ok {
		e.add(at, either, "", "pods addressed by their own IP: ask the waypoint with \"ambitctl proxy-config listener\"")
		return
	}
	address, _, err := net.SplitHostPort(w.Dst)
	if err != nil {
		e.refuse(at, "", "", err.Error())
		return
	}
	req := atWaypoint{
		Namespace: namespace, Hostname: hostname, Port: q.port, Peer: w.Identity, Client: w.Address, Destination: address,
		Method: q.method, Path: q.path, Authority: fmt.Sprintf("%s:%d", q.host, q.port), Headers: map[string]string{}, SNI: q.sni, Now: a.env.Now(),
	}
	for _, h := range q.headers {
		k, v, _ := strings.Cut(h, ":")
		req.Headers[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
	}
	got, identity, ip, err := a.askInstance(ctx, w.Hops, req)
	if err != nil {
		e.refuse(at, "", "no-waypoint-endpoint", err.Error())
		return
	}
	for _, s := range got.Steps {
		verdict := map[string]string{"deny": deny, "open": either}[s.Verdict]
		if verdict == "" {
			verdict = pass
		}
		e.add(at, verdict, s.Object, "%s: %s", s.Stage, s.Text)
	}
	e.Allowed, e.Status = got.Allowed, got.Status
	if !got.Allowed || got.Status != 0 {
		return
	}
	a.backends(ctx, e, got, proxies, arrival{peer: identity, peerIP: ip, client: w.Identity, clientIP: w.Address})
}

// backends follows each share of the traffic to its pods.
func (a *app) backends(ctx context.Context, e *explanation, got answered, proxies []proxy, from arrival) {
	_, d, err := a.first(ctx, proxies)
	nodes := map[string]string{}
	if err == nil {
		for _, w := range d.Workloads {
			nodes[w.Value.Namespace+"/"+w.Value.Name] = w.Value.Node
		}
	}
	for _, b := range got.Backends {
		to := fmt.Sprintf("%s/%s:%d", b.Namespace, b.Hostname, b.Port)
		if b.Subset != "" {
			to += " subset " + b.Subset
		}
		if b.Broken != "" {
			e.add("backend", deny, "", "%.4g%% to %s: %s", b.Percent, to, b.Broken)
			continue
		}
		var pods []hop
		for _, p := range b.Endpoints {
			namespace, name, _ := strings.Cut(p.Workload, "/")
			h := hop{Namespace: namespace, Name: name, Node: nodes[p.Workload], Address: p.Address, Port: b.Port, Service: b.Namespace + "/" + b.Hostname}
			if p.Healthy {
				pods = append(pods, h)
			}
		}
		e.add("backend", pass, "", "%.4g%% to %s: %s", b.Percent, to, hops(pods))
		a.arrive(ctx, e, proxies, pods, from)
	}
}

// askInstance asks the first instance that answers what it would do, and who it is.
func (a *app) askInstance(ctx context.Context, pods []hop, req atWaypoint) (got answered, identity, ip string, err error) {
	body, err := json.Marshal(req)
	if err != nil {
		return got, "", "", err
	}
	all, err := a.instances(ctx, "")
	if err != nil {
		return got, "", "", err
	}
	err = errNoInstance
	for _, p := range pods {
		for _, i := range all {
			if i.namespace != p.Namespace || i.pod != p.Name {
				continue
			}
			if err = ask(ctx, i.endpoint, "/explain", url.Values{"request": {string(body)}}, &got); err != nil {
				continue
			}
			ip, _, _ = net.SplitHostPort(p.Address)
			return got, i.identity, ip, nil
		}
	}
	return got, "", "", err
}

// arrive asks the proxy of each pod whether it takes the connection. One that does is enough for the whole.
func (a *app) arrive(ctx context.Context, e *explanation, proxies []proxy, pods []hop, from arrival) {
	refused := 0
	var reason string
	for _, p := range pods {
		if p.Node == "" {
			continue // outside the mesh, nobody to ask
		}
		at := "ztunnel of " + p.Node
		if taken, err := a.captured(ctx, endpointOf(proxies, p.Node), p.String()); err == nil && !taken {
			e.add("pod "+p.String(), pass, "", "is not in the mesh: nobody asks policies")
			continue
		}
		var v struct {
			Allow                         bool
			Policy, Reason, Error, Around string
			DryRun                        []string
		}
		err := ask(ctx, endpointOf(proxies, p.Node), "/explain/inbound", url.Values{
			"workload": {p.String()}, "port": {strconv.Itoa(int(p.Port))}, "service": {p.Service}, "peer": {from.peer}, "peer_ip": {from.peerIP}, "client": {from.client}, "client_ip": {from.clientIP},
		}, &v)
		object := ""
		if v.Policy != "" {
			object = "AuthorizationPolicy " + v.Policy
		}
		switch {
		case err != nil:
			e.add(at, either, "", "%s: %v", p, err)
		case !v.Allow:
			refused, reason = refused+1, v.Reason
			e.add(at, deny, object, "%s: %s", p, v.Error)
		default:
			text := "lets it in"
			if v.Around != "" {
				text += ", although: " + v.Around
			}
			if len(v.DryRun) > 0 {
				text += "; dry runs that match: " + strings.Join(v.DryRun, ", ")
			}
			e.add(at, pass, object, "%s %s", p, text)
		}
	}
	if refused > 0 && refused == len(pods) {
		e.Allowed, e.Reason = false, reason
		if from.client != "" {
			e.Status = 503 // what a waypoint makes of a backend that closes
		}
	}
}
