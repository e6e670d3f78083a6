package ctl

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/table"
)

// question is what explain is asked.
type question struct {
	namespace string
	method    string
	headers   []string
	output    format

	source string // namespace/name of the pod
	host   string
	port   uint16
	path   string
	sni    string
}

func (a *app) explain() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use: "explain POD DESTINATION[:PORT] [/PATH]", Short: "Say what the mesh would do with a request, at every hop, and why",
		Long: `Walk a connection or request through the mesh without sending it.

Each hop is asked what it would do now, with the state it really routes by: the node proxy of the pod that calls, the waypoint
if there is one (token, policies by name and rule, limits, route, backend), and the node proxy of every pod that may answer.
DESTINATION is a name as the pod would write it, an address, or a URL. POD is NAME or NAME.NAMESPACE, or deployment/NAME.
The exit code is 0 when the mesh lets it through and 79 when it does not.`,
		Example: `  ambitctl explain client.bookinfo reviews:9080 /reviews/0
  ambitctl explain deployment/productpage-v1 -n bookinfo http://reviews:9080/reviews/0 -X POST
  ambitctl explain client.bookinfo 10.244.1.7:9080 -H 'end-user: jason' -o json`,
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
	cmd.Flags().StringVar(&q.sni, "sni", "", "server name a TLS client asks for")
	a.outputFlag(cmd, &q.output)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := q.parse(args); err != nil {
			return err
		}
		return a.walk(cmd.Context(), q, args[0])
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
		q.host, port = dst, "80"
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
	q.port = uint16(n)
	for _, h := range q.headers {
		if !strings.Contains(h, ":") {
			return usagef("header %q: write NAME: VALUE", h)
		}
	}
	return nil
}

// stage is one line of the walk.
type stage struct {
	Hop     string `json:"hop"`
	Verdict string `json:"verdict"`
	What    string `json:"what"`
	Object  string `json:"object,omitempty"`
}

// explanation is the whole walk.
type explanation struct {
	Allowed bool    `json:"allowed"`
	Status  int     `json:"status,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Stages  []stage `json:"stages"`
}

func (e *explanation) add(hop, verdict, object, format string, args ...any) {
	e.Stages = append(e.Stages, stage{hop, verdict, fmt.Sprintf(format, args...), object})
}

// Verdicts of a stage.
const (
	pass   = "pass"
	deny   = "DENY"
	either = "open" // somebody else decides
)

// refuse ends the walk.
func (e *explanation) refuse(hop, object, reason, text string) {
	e.Allowed, e.Reason = false, reason
	e.add(hop, deny, object, "%s", text)
}

// way is ztunnel's answer about a connection out of a pod.
type way struct {
	Source, Identity, Node, Address, Dst, Kind, Service, Authority, Waypoint, Around, Reason, Error string
	Hops                                                                                            []hop
}

type hop struct {
	UID, Namespace, Name, Node, Address string
	// Port is the application's; with Service set it is the service's.
	Port    uint16
	Service string
}

func (h hop) String() string { return h.Namespace + "/" + h.Name }

// walk asks everybody on the way.
func (a *app) walk(ctx context.Context, q question, pod string) error {
	lab, err := a.openLab()
	if err != nil {
		return err
	}
	proxies := labProxies(lab)
	source, node, err := a.locatePod(ctx, pod, q.namespace)
	if err != nil {
		return err
	}
	q.source = source
	var w way
	err = ask(ctx, endpointOf(proxies, node), "/explain/outbound", url.Values{"workload": {source}, "host": {q.host}, "port": {strconv.Itoa(int(q.port))}}, &w)
	if err != nil {
		return err
	}
	e := &explanation{Allowed: true}
	client := "ztunnel of " + node
	captured, err := a.captured(ctx, endpointOf(proxies, node), source)
	if err != nil {
		return err
	}
	if !captured {
		// The connection never enters a proxy: it is what it is on the wire.
		e.add("pod "+source, pass, "", "is not in the mesh: its connections are not redirected, and leave as plaintext to %s", w.Dst)
		w.Kind, w.Waypoint, w.Identity, w.Error = "plain", "", "", ""
	} else {
		e.add("pod "+source, pass, "", "is in the mesh, as %s; connections are handed to the proxy of its node", w.Identity)
	}
	a.outward(ctx, e, q, w, client, proxies)
	return a.tell(q, e)
}

// outward goes on from the caller's node.
func (a *app) outward(ctx context.Context, e *explanation, q question, w way, client string, proxies []proxy) {
	switch {
	case w.Error != "":
		e.refuse(client, "", w.Reason, w.Error)
	case w.Kind == "passthrough":
		e.add(client, pass, "", "%s is nothing the mesh knows: passed through as it is", w.Dst)
	case w.Waypoint != "":
		e.add(client, pass, "", "%s is %s, behind waypoint %s: a tunnel to %s", w.Dst, name(w.Service, "a workload"), w.Waypoint, hops(w.Hops))
		a.throughWaypoint(ctx, e, q, w, proxies)
	default:
		how := "mutual TLS"
		if w.Kind == "plain" {
			how = "plaintext"
		}
		e.add(client, pass, "", "%s is %s: %s to %s", w.Dst, name(w.Service, "a workload"), how, hops(w.Hops))
		if w.Around != "" {
			e.add(client, either, "", "%s; its owner accepts that", w.Around)
		}
		peer := w.Identity
		if w.Kind == "plain" {
			peer = ""
		}
		a.arrive(ctx, e, proxies, w.Hops, arrival{peer: peer, peerIP: w.Address})
	}
}

func name(s, otherwise string) string {
	if s == "" {
		return otherwise
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
		out = append(out[:3], fmt.Sprintf("%d others", len(out)-3))
	}
	return strings.Join(out, ", ")
}

func endpointOf(all []proxy, node string) admin.Endpoint {
	for _, p := range all {
		if p.node == node {
			return p.endpoint
		}
	}
	return admin.Endpoint{What: "the ztunnel of " + node}
}

// ask decodes an answer.
func ask(ctx context.Context, e admin.Endpoint, path string, q url.Values, to any) error {
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

// locatePod finds a pod and its node: NAME, NAME.NAMESPACE, NAMESPACE/NAME, or what owns it as deployment/NAME.
func (a *app) locatePod(ctx context.Context, what, namespace string) (source, node string, err error) {
	c, err := a.cluster()
	if err != nil {
		return "", "", err
	}
	pods, err := c.List(ctx, "Pod", "")
	if err != nil {
		return "", "", err
	}
	kind, want, hasKind := strings.Cut(what, "/")
	if !hasKind {
		want = what
	}
	var found []string
	for _, p := range pods {
		names := []string{p.Name() + "." + p.Namespace(), p.Namespace() + "/" + p.Name()}
		if p.Namespace() == namespace {
			names = append(names, p.Name(), "pod/"+p.Name())
		}
		owned := hasKind && p.Namespace() == namespace && kind != namespace && strings.HasPrefix(p.Name(), want+"-")
		if slices.Contains(names, what) || owned {
			source, node = p.Namespace()+"/"+p.Name(), p.Text("spec", "nodeName")
			return source, node, nil
		}
		if strings.HasPrefix(p.Name(), want) {
			found = append(found, p.Name()+"."+p.Namespace())
		}
	}
	hint := "\"ambitctl lab get pods -A\" lists them"
	if len(found) > 0 {
		hint = "did you mean " + strings.Join(found[:min(3, len(found))], " or ") + "?"
	}
	return "", "", fmt.Errorf("there is no pod %q in namespace %s; %s", what, namespace, hint)
}

// captured asks whether a node's proxy serves a pod.
func (a *app) captured(ctx context.Context, e admin.Endpoint, pod string) (bool, error) {
	var dump struct {
		Pods map[string]struct {
			State string
			Info  struct{ Name, Namespace string }
		} `json:"workloadState"`
	}
	if err := ask(ctx, e, "/config_dump", nil, &dump); err != nil {
		return false, err
	}
	for _, p := range dump.Pods {
		if p.Info.Namespace+"/"+p.Info.Name == pod {
			return p.State == "Up" || p.State == "Draining", nil
		}
	}
	return false, nil
}

// tell prints the walk; a refusal has an exit code of its own.
func (a *app) tell(q question, e *explanation) error {
	if q.output.structured() {
		if err := a.data(q.output, e); err != nil {
			return err
		}
	} else {
		t := &table.Table{Head: []string{"HOP", "VERDICT", "WHAT", "BECAUSE OF"}}
		last := ""
		for _, s := range e.Stages {
			h := s.Hop
			if h == last {
				h = `"`
			}
			last = s.Hop
			t.Add(h, s.Verdict, s.What, s.Object)
		}
		if err := a.table(t); err != nil {
			return err
		}
		verdict := "The mesh lets it through."
		switch {
		case !e.Allowed && e.Status != 0:
			verdict = fmt.Sprintf("The mesh refuses it: status %d.", e.Status)
		case !e.Allowed:
			verdict = "The mesh refuses it: the connection is closed (" + cmp.Or(e.Reason, "no reason given") + ")."
		case e.Status != 0:
			verdict = fmt.Sprintf("The waypoint answers it itself: status %d.", e.Status)
		}
		fmt.Fprintln(a.env.Out, "\n"+verdict)
	}
	if !e.Allowed {
		return errIssues
	}
	return nil
}

// errNoInstance: nobody to ask.
var errNoInstance = errors.New("no instance of the waypoint answers")
