package envoy

import (
	"errors"
	"fmt"
	"math"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// forward sends requests to backends: by weight, rewritten, mirrored, within timeouts and with retries.
func (e *Env) forward(h hostRoutes, rule *waypoint.HTTPRule, drafts []draft) ([]draft, []Problem, error) {
	shares, err := sharesOf(rule)
	if err != nil {
		return nil, nil, err
	}
	retries, problems := e.retries(h, rule)
	mirrors, more := e.mirrors(h, rule)
	problems = append(problems, more...)
	timeout := positive(rule.GetTimeout())
	for _, d := range drafts {
		d.route.Action = &routev3.Route_Route{Route: &routev3.RouteAction{
			// Without a word Envoy would give up after 15 s. A gRPC client's own deadline is its own to keep: with
			// Envoy's max_stream_duration, which could keep it here, this timeout would mean nothing.
			Timeout:               durationpb.New(timeout),
			RequestMirrorPolicies: mirrors,
		}}
	}
	if drafts, err = e.distribute(h, rule, shares, drafts); err != nil {
		return nil, problems, err
	}
	return withRetries(retries, drafts), problems, nil
}

// share is a backend and the part of the requests it gets, out of the sum of all.
type share struct {
	backend *waypoint.Backend
	weight  uint32
}

// sharesOf are the backends that get requests, with weights whose sum Envoy can count.
func sharesOf(rule *waypoint.HTTPRule) ([]share, error) {
	backends := rule.GetForward().GetBackends()
	if len(backends) == 0 {
		return nil, errors.New("the rule has no backend: name one, or a redirect or direct response")
	}
	// Istio's VirtualService leaves the weight of an only destination out.
	if len(backends) == 1 && backends[0].GetWeight() == 0 && rule.GetOrigin().GetKind() == "VirtualService" {
		return []share{{backends[0], 1}}, nil
	}
	shares := weighed(backends)
	if len(shares) == 0 {
		return nil, errors.New("every backend of the rule has weight 0")
	}
	return shares, nil
}

// weighed leaves out backends of weight 0 and scales the rest so that their sum fits 32 bits.
func weighed(backends []*waypoint.Backend) []share {
	var total uint64
	for _, b := range backends {
		total += uint64(b.GetWeight())
	}
	shift := 0
	// Rounding up below adds at most one for each backend.
	for total>>shift+uint64(len(backends)) > math.MaxUint32 {
		shift++
	}
	var out []share
	for _, b := range backends {
		if w := uint64(b.GetWeight()); w > 0 {
			out = append(out, share{backend: b, weight: uint32(max(w>>shift, 1))})
		}
	}
	return out
}

// distribute gives drafts their clusters. Envoy's weighted clusters can do most of what a backend may ask for itself; a
// backend with a path rewrite of its own needs a route of its own.
func (e *Env) distribute(h hostRoutes, rule *waypoint.HTTPRule, shares []share, drafts []draft) ([]draft, error) {
	alone := len(shares) == 1
	if alone && shares[0].backend.GetBroken() != "" {
		return nil, errors.New(shares[0].backend.GetBroken())
	}
	for _, s := range shares {
		if rewritesPath(s.backend.GetRewrite()) {
			return e.separate(h, rule, shares, drafts)
		}
	}
	drafts, err := rewrite(rule.GetRewrite(), drafts)
	if err != nil {
		return nil, err
	}
	broken := false
	var clusters []*routev3.WeightedCluster_ClusterWeight
	for _, s := range shares {
		c, err := e.clusterWeight(h, rule, s)
		if err != nil {
			return nil, err
		}
		broken = broken || s.backend.GetBroken() != ""
		clusters = append(clusters, c)
	}
	if alone && plain(clusters[0]) {
		for _, d := range drafts {
			d.route.GetRoute().ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: clusters[0].GetName()}
		}
		return drafts, nil
	}
	for _, d := range drafts {
		d.route.GetRoute().ClusterSpecifier = &routev3.RouteAction_WeightedClusters{
			WeightedClusters: &routev3.WeightedCluster{Clusters: clusters},
		}
	}
	if broken {
		return withMissing(drafts), nil
	}
	return drafts, nil
}

// withMissing makes the share of backends that are not there answer 500, and to gRPC UNAVAILABLE.
func withMissing(drafts []draft) []draft {
	var out []draft
	for _, d := range drafts {
		grpc := d.clone()
		grpc.route.Match.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
		grpc.route.GetRoute().ClusterNotFoundResponseCode = routev3.RouteAction_SERVICE_UNAVAILABLE
		d.route.GetRoute().ClusterNotFoundResponseCode = routev3.RouteAction_INTERNAL_SERVER_ERROR
		out = append(out, grpc, d)
	}
	return out
}

// plain: the weighted cluster is nothing but its name.
func plain(c *routev3.WeightedCluster_ClusterWeight) bool {
	return proto.Equal(c, &routev3.WeightedCluster_ClusterWeight{Name: c.GetName(), Weight: c.GetWeight()})
}

func (e *Env) clusterWeight(h hostRoutes, rule *waypoint.HTTPRule, s share) (*routev3.WeightedCluster_ClusterWeight, error) {
	out := &routev3.WeightedCluster_ClusterWeight{Weight: uint32Value(s.weight)}
	if reason := s.backend.GetBroken(); reason != "" {
		out.Name = brokenCluster(s.backend)
		out.ResponseHeadersToAdd = []*corev3.HeaderValueOption{reasonHeader(reason)}
		return out, nil
	}
	backend, err := e.withPort(h, s.backend)
	if err != nil {
		return nil, err
	}
	out.Name = e.clusterName(backend, kindHTTP)
	request, err := headerEdits(backend.GetRequestHeaders(), true)
	if err != nil {
		return nil, fmt.Errorf("request headers of backend %s: %w", backend.GetHostname(), err)
	}
	response, err := headerEdits(backend.GetResponseHeaders(), false)
	if err != nil {
		return nil, fmt.Errorf("response headers of backend %s: %w", backend.GetHostname(), err)
	}
	out.RequestHeadersToAdd, out.RequestHeadersToRemove = request.add, request.remove
	out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = response.add, response.remove
	if authority := firstNotEmpty(backend.GetRewrite().GetAuthority(), request.authority); authority != "" {
		out.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: authority}
	}
	// A session the rule asks for holds for all its backends; else each backend may have its own.
	if rule.GetSession() == nil {
		if d := e.Destination(backend.GetNamespace(), backend.GetHostname()); d.GetSession() != nil {
			session, err := sessionConfig(d.GetSession())
			if err != nil {
				return nil, fmt.Errorf("session persistence of %s: %w", backend.GetHostname(), err)
			}
			out.TypedPerFilterConfig = map[string]*anypb.Any{filterSession: toAny(session)}
		}
	}
	return out, nil
}

// brokenCluster is the name of a cluster that does not exist, telling in logs what is missing. It cannot come to exist:
// no cluster of ours is called so.
func brokenCluster(b *waypoint.Backend) string {
	return "broken|" + fmt.Sprint(b.GetPort()) + "|" + b.GetSubset() + "|" + firstNotEmpty(b.GetHostname(), "unknown")
}

func firstNotEmpty(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// withPort fills in a port that was left out: the port the request came to, when the backend has one of that number, or
// the only port there is.
func (e *Env) withPort(h hostRoutes, b *waypoint.Backend) (*waypoint.Backend, error) {
	if b.GetPort() != 0 {
		return b, nil
	}
	ports := e.Service(b.GetNamespace(), b.GetHostname()).GetPorts()
	if len(ports) == 0 {
		ports = e.Destination(b.GetNamespace(), b.GetHostname()).GetServicePorts()
	}
	out := proto.CloneOf(b)
	for _, p := range ports {
		if p.GetNumber() == h.target.port || len(ports) == 1 {
			out.Port = p.GetNumber()
			return out, nil
		}
	}
	return nil, fmt.Errorf("backend %s needs a port number: it has %d ports", b.GetHostname(), len(ports))
}

// million is the denominator of fractions; what is finer than that is rounded.
const million = 1_000_000

// separate makes a route for each backend. Envoy compares one random number of the request with the fraction of every
// route it looks at, so that fractions have to add up.
func (e *Env) separate(h hostRoutes, rule *waypoint.HTTPRule, shares []share, drafts []draft) ([]draft, error) {
	bounds := fractions(shares)
	var out []draft
	for i, s := range shares {
		one := make([]draft, 0, len(drafts))
		for _, d := range drafts {
			d = d.clone()
			if i < len(shares)-1 {
				d.route.Match.RuntimeFraction = &corev3.RuntimeFractionalPercent{DefaultValue: perMillion(bounds[i])}
			}
			one = append(one, d)
		}
		if reason := s.backend.GetBroken(); reason != "" {
			for _, r := range refuse(one, 0, reason) {
				out = append(out, draft{route: r})
			}
			continue
		}
		own := proto.CloneOf(s.backend)
		own.Rewrite = nil
		changed := proto.CloneOf(rule)
		changed.Rewrite = mergeRewrite(rule.GetRewrite(), s.backend.GetRewrite())
		done, err := e.distribute(h, changed, []share{{backend: own, weight: 1}}, one)
		if err != nil {
			return nil, err
		}
		out = append(out, done...)
	}
	return out, nil
}

// fractions are the shares added up, in millionths; the last is the whole.
func fractions(shares []share) []uint32 {
	var total, sum uint64
	for _, s := range shares {
		total += uint64(s.weight)
	}
	out := make([]uint32, len(shares))
	for i, s := range shares {
		sum += uint64(s.weight)
		out[i] = uint32((sum*million + total/2) / total)
	}
	return out
}

func perMillion(n uint32) *typev3.FractionalPercent {
	return &typev3.FractionalPercent{Numerator: min(n, million), Denominator: typev3.FractionalPercent_MILLION}
}
