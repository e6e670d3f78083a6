package envoy

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
)

// streamRoute is one way through a TCP or TLS port: what a connection must look like, and where it goes.
type streamRoute struct {
	// sni: any; empty: every connection, with or without TLS.
	sni []string
	// destinations are IP prefixes: any; empty: every.
	destinations []string
	// proxy has its cluster or weighted clusters (and hash policy) set; the rest is the chain's business.
	proxy *tcpproxyv3.TcpProxy
}

// streamRoutes are the ways through a TCP or TLS port in order of precedence; a connection nothing fits is closed. self is
// where connections go that no rule is about; nil: they are closed.
func (e *Env) streamRoutes(rules []*waypoint.StreamRule, self *waypoint.Backend) ([]streamRoute, []Problem) {
	var out []streamRoute
	var problems []Problem
	for _, rule := range rules {
		s, err := e.streamRoute(rule)
		if err != nil {
			problems = append(problems, Problem{Object: objectName(rule.GetOrigin()), Text: err.Error()})
		}
		if s != nil {
			out = append(out, *s)
		}
	}
	if self != nil {
		proxy := &tcpproxyv3.TcpProxy{}
		e.setStream(proxy, []share{{backend: self, weight: 1}})
		out = append(out, streamRoute{proxy: proxy})
	}
	return out, problems
}

// streamRoute is nil when the rule matches nothing. A rule that cannot be carried out keeps what it matches, and closes it.
func (e *Env) streamRoute(rule *waypoint.StreamRule) (*streamRoute, error) {
	out := &streamRoute{proxy: &tcpproxyv3.TcpProxy{}}
	for _, name := range rule.GetSni() {
		host, err := serverName(name)
		if err != nil {
			return nil, fmt.Errorf("rule %d matches nothing: %w", rule.GetOrigin().GetRule(), err)
		}
		if host == "" {
			out.sni = nil
			break
		}
		out.sni = append(out.sni, host)
	}
	for _, text := range rule.GetDestinations() {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("rule %d matches nothing: %w", rule.GetOrigin().GetRule(), err)
		}
		out.destinations = append(out.destinations, prefix.String())
	}
	if rule.GetBroken() != "" {
		closes(out.proxy, rule.GetOrigin())
		return out, nil
	}
	shares := weighed(rule.GetBackends())
	if b := rule.GetBackends(); len(b) == 1 && b[0].GetWeight() == 0 && rule.GetOrigin().GetKind() == "VirtualService" {
		shares = []share{{b[0], 1}}
	}
	if len(shares) == 0 {
		closes(out.proxy, rule.GetOrigin())
		return out, errors.New("no backend of the rule takes connections: give one a weight above 0")
	}
	e.setStream(out.proxy, shares)
	return out, nil
}

// serverName is a server name or "*." and the rest of one; empty: all.
func serverName(name string) (string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "*" || name == "" {
		return "", nil
	}
	if rest := strings.TrimPrefix(name, "*."); rest == "" || strings.ContainsAny(rest, "*/: ") {
		return "", fmt.Errorf("server name %q: only a first label may be *", name)
	}
	return name, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("destination %q is no IP address or prefix: write 10.0.0.0/8", text)
	}
	return p.Masked(), nil
}

// closes sends connections to a cluster that does not exist: Envoy closes them, and says so in the log.
func closes(proxy *tcpproxyv3.TcpProxy, o *waypoint.Origin) {
	proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: "broken|" + routeName(o)}
}

// setStream sets where connections go, and how long they may be. The settings of the first backend hold for all of a
// rule: Envoy has one place for them.
func (e *Env) setStream(proxy *tcpproxyv3.TcpProxy, shares []share) {
	name := func(b *waypoint.Backend) string {
		if b.GetBroken() != "" {
			return brokenCluster(b)
		}
		return e.clusterName(b, kindTCP)
	}
	if len(shares) == 1 {
		proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: name(shares[0].backend)}
	} else {
		weighted := &tcpproxyv3.TcpProxy_WeightedCluster{}
		for _, s := range shares {
			weighted.Clusters = append(weighted.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{
				Name: name(s.backend), Weight: s.weight,
			})
		}
		proxy.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: weighted}
	}
	b := shares[0].backend
	policy := policyFor(e.Destination(b.GetNamespace(), b.GetHostname()), b.GetPort(), b.GetSubset())
	if d := policy.GetPool().GetTcpIdleTimeout(); d != nil {
		proxy.IdleTimeout = durationpb.New(positive(d))
	}
	if d := positive(policy.GetPool().GetMaxConnectionDuration()); d > 0 {
		proxy.MaxDownstreamConnectionDuration = durationpb.New(d)
	}
	// A connection has no header, cookie or query; its source is the only key.
	if policy.GetLoadBalancer().GetHash().GetSourceIp() {
		proxy.HashPolicy = []*typev3.HashPolicy{{
			PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}},
		}}
	}
}
