package explain

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy"
)

const (
	host   = "reviews.shop.svc.cluster.local"
	caller = "spiffe://cluster.local/ns/shop/sa/web"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a waypoint with one service.
func world(t *testing.T, p *waypoint.Policies, rules ...*waypoint.HTTPRule) *envoy.Env {
	t.Helper()
	labels := func(version string) []*workload.Extension {
		a, err := anypb.New(&waypoint.Labels{Labels: map[string]string{"version": version}})
		if err != nil {
			t.Fatal(err)
		}
		return []*workload.Extension{{Name: "ambit.io/labels", Config: a}}
	}
	svc := &waypoint.Service{Namespace: "shop", Hostname: host, Policies: p, Ports: []*waypoint.ServicePort{
		{Number: 80, Protocol: waypoint.Protocol_HTTP1, Http: rules, Routed: len(rules) > 0},
		{Number: 9000, Protocol: waypoint.Protocol_TCP},
	}}
	dest := &waypoint.Destination{Namespace: "shop", Hostname: host, Subsets: []*waypoint.Subset{
		{Name: "v1", Labels: map[string]string{"version": "v1"}}, {Name: "v3", Labels: map[string]string{"version": "v3"}},
		{Name: "tls", Policy: &waypoint.TrafficPolicy{Tls: &waypoint.ClientTLS{Broken: "there is no Secret shop/gone"}}},
	}}
	pods := []*workload.Workload{
		{Namespace: "shop", Name: "reviews-1", Addresses: [][]byte{{10, 0, 0, 1}}, Extensions: labels("v1")},
		{Namespace: "shop", Name: "reviews-2", Addresses: [][]byte{{10, 0, 0, 2}}, Extensions: labels("v2"), Status: workload.WorkloadStatus_UNHEALTHY},
	}
	is := func(ns, h string) bool { return ns == "shop" && h == host }
	return &envoy.Env{
		Gateway: &waypoint.Gateway{Namespace: "shop", Name: "waypoint"},
		Service: func(ns, h string) *waypoint.Service {
			if is(ns, h) {
				return svc
			}
			return nil
		},
		Destination: func(ns, h string) *waypoint.Destination {
			if is(ns, h) {
				return dest
			}
			return nil
		},
		Endpoints: func(string, string) []*workload.Workload { return pods },
	}
}

func request(change func(*Request)) Request {
	r := Request{Namespace: "shop", Hostname: host, Port: 80, Peer: caller, Client: netip.MustParseAddr("10.0.0.9"), Now: now}
	if change != nil {
		change(&r)
	}
	return r
}

// ejected takes pods out of a cluster.
func ejected(cluster string, pods ...byte) func(*Request) {
	return func(r *Request) {
		r.Ejected = map[string][]netip.Addr{}
		for _, p := range pods {
			r.Ejected[cluster] = append(r.Ejected[cluster], netip.AddrFrom4([4]byte{10, 0, 0, p}))
		}
	}
}

func exact(s string) *waypoint.StringMatch {
	return &waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: s}}
}

func authorization(action waypoint.Authorization_Action, name string, rules ...*waypoint.AuthorizationRule) *waypoint.Policies {
	return &waypoint.Policies{Authorization: []*waypoint.Authorization{{Namespace: "shop", Name: name, Action: action, Rules: rules}}}
}

func method(m string) *waypoint.AuthorizationRule {
	return &waypoint.AuthorizationRule{To: []*waypoint.Operation{{Methods: []*waypoint.StringMatch{exact(m)}}}}
}

func TestExplain(t *testing.T) {
	to := func(subset string, weight uint32) *waypoint.Backend {
		return &waypoint.Backend{Namespace: "shop", Hostname: host, Port: 80, Subset: subset, Weight: weight}
	}
	forward := func(b ...*waypoint.Backend) *waypoint.HTTPRule {
		return &waypoint.HTTPRule{Origin: &waypoint.Origin{Kind: "VirtualService", Namespace: "shop", Name: "reviews"}, Action: &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: b}}}
	}
	byHeader := forward(to("v1", 1))
	byHeader.Matches = []*waypoint.HTTPMatch{{Headers: []*waypoint.ValueMatch{{Name: "end-user", Value: exact("jason")}}}}
	from := func(principal string) *waypoint.AuthorizationRule {
		return &waypoint.AuthorizationRule{From: []*waypoint.Source{{Principals: []*waypoint.StringMatch{exact(principal)}}}}
	}
	template := &waypoint.AuthorizationRule{To: []*waypoint.Operation{{PathTemplates: []string{"/books/{*}/pages/{**}"}}}}
	for name, tc := range map[string]struct {
		policies *waypoint.Policies
		rules    []*waypoint.HTTPRule
		change   func(*Request)
		allowed  bool
		status   int
		says     string
	}{
		"no policy, no route": {allowed: true, says: "to the service itself"},
		"unknown port":        {change: func(r *Request) { r.Port = 81 }, status: 0, says: "no port 81"},
		"unknown service":     {change: func(r *Request) { r.Hostname = "x" }, status: 0, says: "does not serve"},
		"allowed method":      {policies: authorization(waypoint.Authorization_ALLOW, "get", method("GET")), allowed: true, says: "shop/get rule 0"},
		"other method":        {policies: authorization(waypoint.Authorization_ALLOW, "get", method("GET")), change: func(r *Request) { r.Method = "POST" }, status: 403, says: "none of their rules matches"},
		"denied":              {policies: authorization(waypoint.Authorization_DENY, "no", method("POST"), method("GET")), status: 403, says: "shop/no rule 1"},
		"allow nothing":       {policies: authorization(waypoint.Authorization_ALLOW, "nothing"), status: 403},
		"caller":              {policies: authorization(waypoint.Authorization_ALLOW, "web", from("cluster.local/ns/shop/sa/web")), allowed: true},
		"another caller":      {policies: authorization(waypoint.Authorization_ALLOW, "web", from("cluster.local/ns/shop/sa/cart")), status: 403},
		"spoofed caller": {policies: authorization(waypoint.Authorization_ALLOW, "web", from("cluster.local/ns/shop/sa/cart")), change: func(r *Request) {
			r.Headers = map[string]string{"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/shop/sa/cart"}
		}, status: 403},
		"template":                 {policies: authorization(waypoint.Authorization_ALLOW, "t", template), change: func(r *Request) { r.Path = "/books/7/pages/1/2?x=y" }, allowed: true},
		"template, other path":     {policies: authorization(waypoint.Authorization_ALLOW, "t", template), change: func(r *Request) { r.Path = "/books/7/8/pages/1" }, status: 403},
		"dots in the path":         {policies: authorization(waypoint.Authorization_ALLOW, "t", template), change: func(r *Request) { r.Path = "/x/../books/7/pages/1" }, allowed: true},
		"broken policy":            {policies: &waypoint.Policies{Authorization: []*waypoint.Authorization{{Namespace: "shop", Name: "b", Broken: "no such provider"}}}, status: 403, says: "no such provider"},
		"TCP, ALLOW of a method":   {policies: authorization(waypoint.Authorization_ALLOW, "get", method("GET")), change: func(r *Request) { r.Port = 9000 }},
		"TCP, DENY of a method":    {policies: authorization(waypoint.Authorization_DENY, "get", method("GET")), change: func(r *Request) { r.Port = 9000 }},
		"TCP":                      {change: func(r *Request) { r.Port = 9000 }, allowed: true},
		"by header":                {rules: []*waypoint.HTTPRule{byHeader, forward(to("v3", 1))}, change: func(r *Request) { r.Headers = map[string]string{"End-User": "jason"} }, allowed: true, says: "VirtualService shop/reviews"},
		"subset without endpoint":  {rules: []*waypoint.HTTPRule{byHeader, forward(to("v3", 1))}, status: 503, says: "there is no endpoint"},
		"unknown subset":           {rules: []*waypoint.HTTPRule{forward(to("v9", 1))}, status: 503, says: `no subset "v9"`},
		"TLS that cannot be":       {rules: []*waypoint.HTTPRule{forward(to("tls", 1))}, status: 503, says: "there is no Secret shop/gone"},
		"all endpoints ejected":    {change: ejected("inbound-vip|80|http|"+host, 1, 2), status: 503, says: "all 2 endpoints failed"},
		"one endpoint ejected":     {change: ejected("inbound-vip|80|http|"+host, 2), allowed: true},
		"ejected of another route": {change: ejected("inbound-vip|80|http/v1|"+host, 1), allowed: true},
		"ejected of this route":    {rules: []*waypoint.HTTPRule{forward(to("v1", 1))}, change: ejected("inbound-vip|80|http/v1|"+host, 1), status: 503, says: "failed"},
		"no rule matches":          {rules: []*waypoint.HTTPRule{byHeader}, status: 404},
		"broken rule":              {rules: []*waypoint.HTTPRule{{Broken: "no"}}, status: 500},
		"no weight":                {rules: []*waypoint.HTTPRule{forward(to("v1", 0), to("v3", 0))}, status: 500},
		"one share of two is lost": {rules: []*waypoint.HTTPRule{forward(to("v1", 9), to("v9", 1))}, allowed: true},
		"abort":                    {rules: []*waypoint.HTTPRule{{Fault: &waypoint.Fault{AbortStatus: 418, AbortPerMillion: 1_000_000}, Action: forward(to("v1", 1)).Action}}, status: 418},
	} {
		t.Run(name, func(t *testing.T) {
			got := Explain(world(t, tc.policies, tc.rules...), request(tc.change))
			if got.Allowed != tc.allowed || got.Status != tc.status {
				t.Errorf("allowed %t, status %d; want %t, %d\n%+v", got.Allowed, got.Status, tc.allowed, tc.status, got)
			}
			said := ""
			for _, s := range got.Steps {
				said += s.Object + ": " + s.Text + "\n"
			}
			if !strings.Contains(said, tc.says) {
				t.Errorf("says\n%swant %q", said, tc.says)
			}
		})
	}
}

func TestTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	mint := func(c jwt.Claims, more map[string]any) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := jwt.Signed(signer).Claims(c).Claims(more).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := jwt.Claims{Issuer: "me", Subject: "you", Audience: jwt.Audience{"shop"}, Expiry: jwt.NewNumericDate(now.Add(time.Hour))}
	expired := good
	expired.Expiry = jwt.NewNumericDate(now.Add(-time.Hour))
	foreign := good
	foreign.Issuer = "they"
	elsewhere := good
	elsewhere.Audience = jwt.Audience{"bar"}
	policies := &waypoint.Policies{
		Authentication: []*waypoint.Authentication{{Namespace: "shop", Name: "jwt", Rules: []*waypoint.JWTRule{{Issuer: "me", Jwks: string(set), Audiences: []string{"shop"}}}}},
		Authorization: []*waypoint.Authorization{{Namespace: "shop", Name: "admins", Rules: []*waypoint.AuthorizationRule{{
			From: []*waypoint.Source{{RequestPrincipals: []*waypoint.StringMatch{exact("me/you")}}},
			When: []*waypoint.Condition{{Key: "request.auth.claims[group]", Values: []*waypoint.StringMatch{exact("admin")}}},
		}}}},
	}
	admin := map[string]any{"group": []string{"user", "admin"}}
	for name, tc := range map[string]struct {
		token  string
		status int
	}{
		"good":              {mint(good, admin), 0},
		"without the claim": {mint(good, map[string]any{"group": "user"}), 403},
		"missing":           {"", 403},
		"expired":           {mint(expired, admin), 401},
		"other issuer":      {mint(foreign, admin), 401},
		"other audience":    {mint(elsewhere, admin), 403},
		"garbage":           {"x.y.z", 401},
		"no signature":      {"eyJhbGciOiJub25lIn0.eyJpc3MiOiJtZSJ9.", 401},
	} {
		t.Run(name, func(t *testing.T) {
			got := Explain(world(t, policies), request(func(r *Request) {
				if tc.token != "" {
					r.Headers = map[string]string{"Authorization": "Bearer " + tc.token}
				}
			}))
			if got.Status != tc.status {
				t.Errorf("status %d, want %d: %+v", got.Status, tc.status, got.Steps)
			}
		})
	}
}
