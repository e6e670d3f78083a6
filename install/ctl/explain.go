package ctl

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// question is what explain is asked.
type question struct {
	namespace string
	method    string
	headers   []string
	tcp       bool
	output    format

	host string
	port uint16
	path string
	sni  string
}

func (a *app) explain() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use: "explain POD DESTINATION[:PORT] [/PATH]", Short: "Say what the mesh would do with a request, at every hop, and why",
		Long: `Walk a connection or request through the mesh without sending it.

Each hop is asked what it would do now, with the state it really routes by: the node proxy of the pod that calls, the waypoint
if there is one (token, policies by name and rule, limits, route, backend), and the node proxy of every pod that may answer.
POD is NAME, NAME.NAMESPACE, NAMESPACE/NAME or pod/NAME, or KIND/NAME for a pod of that deployment, replicaset, statefulset,
daemonset, job or cronjob; if it is an ingress gateway's, the request is one from outside to its listener at PORT. DESTINATION
is a name as the pod would write it, an address, or a URL; without a port it is 80.

Each line is what one hop says: pass, DENY, or open when somebody else decides (an external authorizer, a counter, chance).
The exit code is 0 when the mesh lets it through, 79 when it does not, and 1 when that cannot be found out.`,
		Example: `  ambitctl explain client.bookinfo reviews:9080 /reviews/0
  ambitctl explain deployment/productpage-v1 -n bookinfo http://reviews:9080/reviews/0 -X POST
  ambitctl explain client.bookinfo 10.244.1.7:9080 -H 'end-user: jason' -o json
  ambitctl explain deployment/edge-istio -n bookinfo http://shop.example:80/`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 || len(args) > 3 {
				return usagef("want POD, DESTINATION and perhaps a PATH, got %d arguments", len(args))
			}
			return nil
		},
	}
	namespaceFlag(cmd, &q.namespace)
	cmd.Flags().StringVarP(&q.method, "request", "X", "GET", "method of the request")
	cmd.Flags().StringArrayVarP(&q.headers, "header", "H", nil, "header of the request, as NAME: VALUE")
	cmd.Flags().BoolVar(&q.tcp, "tcp", false, "a connection that is not HTTP, to a port that takes both")
	cmd.Flags().StringVar(&q.sni, "sni", "", "server name a TLS client asks for")
	a.outputFlag(cmd, &q.output)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := q.parse(args); err != nil {
			return err
		}
		e, err := a.walk(cmd.Context(), q, args[0])
		if err != nil {
			return err
		}
		return a.tell(q.output, e)
	}
	return cmd
}

// parse reads the destination.
func (q *question) parse(args []string) error {
	dst, port := args[1], ""
	if strings.Contains(dst, "://") {
		u, err := url.Parse(dst)
		if err != nil {
			return usagef("destination: %v", err)
		}
		q.host, port, q.path = u.Hostname(), u.Port(), u.RequestURI()
		port = cmp.Or(port, map[string]string{"http": "80", "https": "443"}[u.Scheme])
	} else if host, p, err := net.SplitHostPort(dst); err == nil {
		q.host, port = host, p
	} else {
		q.host, port = strings.Trim(dst, "[]"), "80"
	}
	if len(args) == 3 {
		q.path = args[2]
	}
	if q.path != "" && q.path[0] != '/' {
		return usagef("the path %q does not start with a slash", q.path)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return usagef("%q is not a port", port)
	}
	if q.host == "" {
		return usagef("the destination %q names no host", dst)
	}
	q.port = uint16(n)
	for _, h := range q.headers {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" {
			return usagef("header %q: write NAME: VALUE", h)
		}
	}
	return nil
}

// authority is what an HTTP client puts into Host: the port only if it is not the usual one.
func (q *question) authority() string {
	host := q.host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if q.port == 80 {
		return host
	}
	return fmt.Sprintf("%s:%d", host, q.port)
}

// way is ztunnel's answer about a connection out of a pod.
type way struct {
	Source, Identity, Node, Address, Dst, Kind, Service, Authority, Waypoint, Around, Reason, Error string
	Captured                                                                                        bool
	Hops                                                                                            []hop
}

type hop struct {
	UID, Namespace, Name, Node, Address string
	// Port is the application's; with Service set it is the service's.
	Port    uint16
	Service string
}

func (h hop) String() string { return h.Namespace + "/" + h.Name }

// walker is one walk through the mesh.
type walker struct {
	*app
	*explanation
	q       question
	proxies []proxy
	nodes   map[string]string // of pods, by namespace/name
}

// walk asks everybody on the way.
func (a *app) walk(ctx context.Context, q question, pod string) (*explanation, error) {
	proxies, err := a.allProxies(ctx)
	if err != nil {
		return nil, err
	}
	q.namespace = a.inNamespace(q.namespace)
	src, nodes, err := a.locatePod(ctx, pod, q.namespace)
	if err != nil {
		return nil, err
	}
	w := &walker{app: a, explanation: &explanation{Allowed: true}, q: q, proxies: proxies, nodes: nodes}
	source, node := src.Namespace()+"/"+src.Name(), src.Text("spec", "nodeName")
	if _, ok := src.Label(mesh.LabelGatewayName); ok {
		i, err := a.instanceFor(ctx, gatewaySource{namespace: src.Namespace()}, []string{src.Name()})
		if err != nil {
			return nil, err
		}
		if isEdge(i) {
			w.fromOutside(ctx, i, src.Text("status", "podIP"))
			return w.explanation, nil
		}
		return nil, usagef("%s is a waypoint, which calls nobody by itself: start at a client of the service", source)
	}
	proxy := endpointOf(w.proxies, node)
	var out way
	err = askJSON(ctx, proxy, "/explain/outbound", url.Values{"workload": {source}, "host": {q.host}, "port": {strconv.Itoa(int(q.port))}}, &out)
	if err != nil {
		return nil, err
	}
	if !out.Captured {
		w.add("pod "+source, pass, "", "is not in the mesh: its connections leave as plaintext, without an identity")
		w.unredirected(ctx, out)
	} else {
		w.add("pod "+source, pass, "", "is in the mesh, as %s", out.Identity)
		w.outward(ctx, out, "ztunnel of "+node)
	}
	return w.explanation, nil
}

// unredirected follows a connection no proxy of its node sees.
func (w *walker) unredirected(ctx context.Context, out way) {
	switch {
	case out.Error != "":
		w.refuse("network", "", out.Reason, 0, out.Error)
	case out.Kind == "passthrough":
		w.add("network", pass, "", "%s is nothing the mesh knows", out.Dst)
	default:
		w.add("network", pass, "", "%s is %s: straight to %s, past any waypoint", out.Dst, service(out.Service), hops(out.Hops))
		w.settle(w.arrive(ctx, out.Hops, arrival{peerIP: out.Address}))
	}
}

// outward goes on from the proxy of the caller's node.
func (w *walker) outward(ctx context.Context, out way, at string) {
	switch {
	case out.Error != "":
		w.refuse(at, "", out.Reason, 0, out.Error)
	case out.Kind == "passthrough":
		w.add(at, pass, "", "%s is nothing the mesh knows: passed through as it is", out.Dst)
	case out.Waypoint != "":
		w.add(at, pass, "", "%s is %s behind waypoint %s: a tunnel to %s", out.Dst, service(out.Service), out.Waypoint, hops(out.Hops))
		w.throughWaypoint(ctx, out)
	default:
		how, peer := "a tunnel with mutual TLS", out.Identity
		if out.Kind == "plain" {
			how, peer = "plaintext", ""
		}
		w.add(at, pass, "", "%s is %s: %s to %s", out.Dst, service(out.Service), how, hops(out.Hops))
		if out.Around != "" {
			w.add(at, either, "", "%s; its owner accepts that", out.Around)
		}
		w.settle(w.arrive(ctx, out.Hops, arrival{peer: peer, peerIP: out.Address}))
	}
}

func service(s string) string {
	if s == "" {
		return "a pod"
	}
	return "service " + s
}

func hops(list []hop) string {
	var out []string
	for _, h := range list {
		if h.Name == "" {
			out = append(out, h.Address)
			continue
		}
		out = append(out, h.Name+" ("+h.Address+")")
	}
	if len(out) > 3 {
		out = append(out[:3:3], fmt.Sprintf("%d others", len(out)-3))
	}
	return strings.Join(out, ", ")
}
