package envoy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// shop is one HTTP service with one pod, and an Envoy in front of it.
type shop struct {
	*envoytest.Proxy
	world *envoytest.World
	svc   *waypoint.Service
	t     *testing.T
}

func openShop(t *testing.T, ip string) *shop {
	t.Helper()
	w, _, _ := echoWorld(t, ip, waypoint.Protocol_HTTP1)
	w.Services[0].Policies = &waypoint.Policies{}
	p := envoytest.Start(t, w)
	p.Node(ip, idEcho)
	return &shop{p, w, w.Services[0], t}
}

// outside adds a service of one pod that is not in the mesh.
func (s *shop) outside(name, ip string, port uint32, protocol waypoint.Protocol) *waypoint.Backend {
	pod := envoytest.Pod(name, ip, name)
	pod.TunnelProtocol = workload.TunnelProtocol_NONE
	host := name + ".default.svc.cluster.local"
	vip := fmt.Sprintf("10.97.0.%d", len(s.world.Services))
	s.world.Add(host, vip, []envoytest.Port{{Number: port, Target: port, Protocol: protocol}}, pod)
	return &waypoint.Backend{Namespace: "default", Hostname: host, Port: port}
}

// apply sets the service's policies.
func (s *shop) apply(p *waypoint.Policies) {
	s.t.Helper()
	s.svc.Policies = p
	s.Apply(s.world)
}

const shopURL = "http://echo.default.svc.cluster.local"

// ask sends one request and returns the status, the body or echo, and the answer's header.
func ask(t *testing.T, c *http.Client, method, path string, header ...string) (int, string, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, shopURL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(body), resp.Header
}

func wantStatus(t *testing.T, c *http.Client, status int, method, path string, header ...string) {
	t.Helper()
	if got, body, _ := ask(t, c, method, path, header...); got != status {
		t.Errorf("%s %s %v: %d %q, want %d", method, path, header, got, body, status)
	}
}

func exact(values ...string) []*waypoint.StringMatch {
	var out []*waypoint.StringMatch
	for _, v := range values {
		out = append(out, &waypoint.StringMatch{Kind: &waypoint.StringMatch_Exact{Exact: v}})
	}
	return out
}

func prefix(v string) []*waypoint.StringMatch {
	return []*waypoint.StringMatch{{Kind: &waypoint.StringMatch_Prefix{Prefix: v}}}
}

func present() []*waypoint.StringMatch {
	return []*waypoint.StringMatch{{Kind: &waypoint.StringMatch_Present{Present: true}}}
}

func from(s *waypoint.Source) *waypoint.AuthorizationRule {
	return &waypoint.AuthorizationRule{From: []*waypoint.Source{s}}
}

func to(o *waypoint.Operation) *waypoint.AuthorizationRule {
	return &waypoint.AuthorizationRule{To: []*waypoint.Operation{o}}
}

func policy(action waypoint.Authorization_Action, name string, rules ...*waypoint.AuthorizationRule) *waypoint.Authorization {
	return &waypoint.Authorization{Namespace: "default", Name: name, Action: action, Rules: rules}
}

func authorization(all ...*waypoint.Authorization) *waypoint.Policies {
	return &waypoint.Policies{Authorization: all}
}

// TestAuthorization: what GET may, POST may not; DENY is stronger than ALLOW; a policy without rules lets nobody in.
func TestAuthorization(t *testing.T) {
	s := openShop(t, "127.0.31.1")
	client := s.Peer(idClient).Client("10.96.0.1:80")
	other := s.Peer(idOther).Client("10.96.0.1:80")
	wantStatus(t, client, 200, "POST", "/")

	reads := policy(waypoint.Authorization_ALLOW, "reads", to(&waypoint.Operation{Methods: exact("GET")}))
	s.apply(authorization(reads))
	wantStatus(t, client, 200, "GET", "/")
	if status, body, _ := ask(t, client, "POST", "/"); status != 403 || body != "RBAC: access denied" {
		t.Errorf("POST: %d %q", status, body)
	}

	s.apply(authorization(reads,
		policy(waypoint.Authorization_DENY, "not-others", from(&waypoint.Source{Principals: exact("cluster.local/ns/other/sa/other")}))))
	wantStatus(t, client, 200, "GET", "/")
	wantStatus(t, other, 403, "GET", "/")

	s.apply(authorization(policy(waypoint.Authorization_ALLOW, "nobody")))
	wantStatus(t, client, 403, "GET", "/")
	s.apply(authorization(policy(waypoint.Authorization_DENY, "nothing"), policy(waypoint.Authorization_AUDIT, "notes", &waypoint.AuthorizationRule{})))
	wantStatus(t, client, 200, "GET", "/")
}

// TestSources: every field of a source is about the authenticated peer and the address it really has.
func TestSources(t *testing.T) {
	s := openShop(t, "127.0.31.2")
	client := s.Peer(idClient).From("127.0.0.7").Client("10.96.0.1:80")
	other := s.Peer(idOther).From("127.0.0.8").Client("10.96.0.1:80")
	when := func(key string, values ...*waypoint.StringMatch) *waypoint.AuthorizationRule {
		return &waypoint.AuthorizationRule{When: []*waypoint.Condition{{Key: key, Values: values}}}
	}
	for name, rule := range map[string]*waypoint.AuthorizationRule{
		"principal":       from(&waypoint.Source{Principals: exact("cluster.local/ns/default/sa/client")}),
		"not principal":   from(&waypoint.Source{NotPrincipals: exact("cluster.local/ns/other/sa/other")}),
		"namespace":       from(&waypoint.Source{Namespaces: exact("default")}),
		"namespace end":   from(&waypoint.Source{Namespaces: []*waypoint.StringMatch{{Kind: &waypoint.StringMatch_Suffix{Suffix: "ault"}}}}),
		"not namespace":   from(&waypoint.Source{NotNamespaces: prefix("oth")}),
		"account":         from(&waypoint.Source{ServiceAccounts: []string{"default/client"}}),
		"address":         from(&waypoint.Source{IpBlocks: []string{"127.0.0.7"}}),
		"not address":     from(&waypoint.Source{NotIpBlocks: []string{"127.0.0.8/32"}}),
		"remote address":  from(&waypoint.Source{RemoteIpBlocks: []string{"127.0.0.6/31"}}),
		"when ip":         when("source.ip", exact("127.0.0.7")[0]),
		"when namespace":  when("source.namespace", exact("default")[0]),
		"when principal":  when("source.principal", prefix("cluster.local/ns/default/")[0]),
		"when account":    when("source.serviceAccount", exact("default/client")[0]),
		"port and source": {From: []*waypoint.Source{{Namespaces: exact("default")}}, To: []*waypoint.Operation{{Ports: []uint32{80}}}},
		"destination":     {From: []*waypoint.Source{{Namespaces: exact("default")}}, When: []*waypoint.Condition{{Key: "destination.ip", Values: exact("10.96.0.0/24")}, {Key: "destination.port", Values: exact("80")}}},
	} {
		s.apply(authorization(policy(waypoint.Authorization_ALLOW, "p", rule)))
		if status, _, _ := ask(t, client, "GET", "/"); status != 200 {
			t.Errorf("%s: client %d", name, status)
		}
		if status, _, _ := ask(t, other, "GET", "/"); status != 403 {
			t.Errorf("%s: other %d", name, status)
		}
	}
}

// TestSpoofing: headers a client sends change neither the verdict nor what the application is told.
func TestSpoofing(t *testing.T) {
	s := openShop(t, "127.0.31.3")
	s.apply(authorization(policy(waypoint.Authorization_ALLOW, "p", from(&waypoint.Source{
		Principals: exact("cluster.local/ns/default/sa/client"), IpBlocks: []string{"127.0.0.7"},
	}))))
	lies := []string{
		"X-Forwarded-Client-Cert", "By=" + idClient + ";URI=" + idClient, "X-Forwarded-For", "127.0.0.7",
		"baggage", "k8s.namespace.name=default", "x-ambit-client-identity", idClient, "x-ambit-client-address", "127.0.0.7",
		"io.istio.peer_principal", idClient, "x-envoy-original-dst-host", "127.0.0.1:1", "x-envoy-external-address", "127.0.0.7",
		"x-envoy-upstream-rq-timeout-ms", "1", "x-envoy-retry-on", "5xx", "x-envoy-max-retries", "9", "X-Envoy-Internal", "true",
	}
	wantStatus(t, s.Peer(idOther).From("127.0.0.8").Client("10.96.0.1:80"), 403, "GET", "/", lies...)
	wantStatus(t, s.Peer(idOther).From("127.0.0.7").Client("10.96.0.1:80"), 403, "GET", "/", lies...)

	s.apply(nil)
	status, echo, err := envoytest.Get(s.Peer(idOther).From("127.0.0.8").Client("10.96.0.1:80"), shopURL+"/?delay=20ms", lies...)
	if err != nil || status != 200 {
		t.Fatalf("%d %v", status, err)
	}
	for name := range echo.Header {
		if l := strings.ToLower(name); strings.HasPrefix(l, "x-envoy-") || strings.HasPrefix(l, "x-ambit-") {
			t.Errorf("the application got %s: %q", name, echo.Header[name])
		}
	}
	if got, want := echo.Header.Get("X-Forwarded-Client-Cert"), "By="+envoytest.Identity+";URI="+idOther; got != want {
		t.Errorf("XFCC %q, want %q", got, want)
	}
	if got, want := echo.Header.Get("X-Forwarded-For"), "127.0.0.7,127.0.0.8"; got != want {
		t.Errorf("XFF %q, want %q", got, want)
	}
}

// TestPolicyOnOpenConnection: the next request of a connection that is open feels a change.
func TestPolicyOnOpenConnection(t *testing.T) {
	s := openShop(t, "127.0.31.4")
	conn, err := s.Peer(idClient).Dial(t.Context(), "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	get := func() int {
		t.Helper()
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	if got := get(); got != 200 {
		t.Fatalf("before: %d", got)
	}
	s.svc.Policies = authorization(policy(waypoint.Authorization_DENY, "closed", &waypoint.AuthorizationRule{}))
	s.Apply(s.world)
	s.Await("the policy acts", func() error {
		if got := get(); got != 403 {
			return fmt.Errorf("status %d", got)
		}
		return nil
	})
	s.svc.Policies = nil
	s.Apply(s.world)
	s.Await("the policy is gone", func() error {
		if got := get(); got != 200 {
			return fmt.Errorf("status %d", got)
		}
		return nil
	})
}

// TestBrokenPolicy: a policy that cannot be evaluated closes what it is about and says why; a dry run closes nothing.
func TestBrokenPolicy(t *testing.T) {
	s := openShop(t, "127.0.31.5")
	client := s.Peer(idClient).Client("10.96.0.1:80")
	bad := policy(waypoint.Authorization_ALLOW, "bad", &waypoint.AuthorizationRule{
		When: []*waypoint.Condition{{Key: "experimental.envoy.filters.network.mysql_proxy[db.table]", Values: exact("x")}},
	})
	s.svc.Policies = authorization(bad, policy(waypoint.Authorization_ALLOW, "all", &waypoint.AuthorizationRule{}))
	problems := s.TryApply(s.world)
	if len(problems) != 1 || problems[0].Object != "AuthorizationPolicy default/bad" {
		t.Errorf("problems: %v", problems)
	}
	wantStatus(t, client, 403, "GET", "/")

	bad.DryRun = true
	s.TryApply(s.world)
	wantStatus(t, client, 200, "GET", "/")
	bad.Action = waypoint.Authorization_DENY
	s.TryApply(s.world)
	wantStatus(t, client, 200, "GET", "/")
	var stats strings.Builder
	if err := s.Admin("GET", "/stats?filter=istio_dry_run", &stats); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"istio_dry_run_deny_.shadow_denied: 2"} {
		if !strings.Contains(stats.String(), want) {
			t.Errorf("no %q in the statistics:\n%s", want, stats.String())
		}
	}
}

// TestTCPAuthorization: connections that are not HTTP are refused by what can be known of them.
func TestTCPAuthorization(t *testing.T) {
	const ip = "127.0.31.6"
	w := &envoytest.World{}
	port := envoytest.TCPApp(t, "tcp", ip)
	svc := w.Add("tcp.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{{Number: 9000, Target: port, Protocol: waypoint.Protocol_TCP}},
		envoytest.Pod("tcp", ip, "echo"))
	p := envoytest.Start(t, w)
	p.Node(ip, idEcho)
	authority := "10.96.0.1:9000"
	greeted := func(id string) bool {
		c, err := p.Peer(id).Dial(t.Context(), authority)
		if err != nil {
			return false
		}
		defer c.Close()
		line, _ := bufio.NewReader(c).ReadString('\n')
		return line == "tcp\n"
	}
	check := func(name string, client, other bool) {
		t.Helper()
		if got := greeted(idClient); got != client {
			t.Errorf("%s: client %v, want %v", name, got, client)
		}
		if got := greeted(idOther); got != other {
			t.Errorf("%s: other %v, want %v", name, got, other)
		}
	}
	check("no policy", true, true)
	svc.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", from(&waypoint.Source{Namespaces: exact("default")})))
	p.Apply(w)
	check("ALLOW", true, false)
	svc.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", to(&waypoint.Operation{Methods: exact("GET")})))
	if problems := p.TryApply(w); len(problems) == 0 {
		t.Error("nothing is said of an HTTP rule on a TCP port")
	}
	check("ALLOW of HTTP", false, false)
	svc.Policies = authorization(policy(waypoint.Authorization_DENY, "p", &waypoint.AuthorizationRule{
		From: []*waypoint.Source{{Namespaces: exact("other")}}, To: []*waypoint.Operation{{Paths: exact("/admin")}},
	}))
	p.TryApply(w)
	for _, authority = range []string{"10.96.0.1:9000", "tcp.default.svc.cluster.local:9000"} {
		check("DENY of HTTP from one namespace, "+authority, true, false)
	}
	authority = "10.96.0.1:09000" // nobody writes an address like that, unless to get around what is written otherwise
	check("another spelling", false, false)
	// What is only known of the connection is left to the network filter, which decides with the client's first bytes.
	svc.Policies = authorization(policy(waypoint.Authorization_ALLOW, "p", &waypoint.AuthorizationRule{
		From: []*waypoint.Source{{Namespaces: exact("default")}}, When: []*waypoint.Condition{{Key: "connection.sni", Values: exact("x")}},
	}))
	p.Apply(w)
	authority = "10.96.0.1:9000"
	c, err := p.Peer(idClient).Dial(t.Context(), authority)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "hello\n")
	if all, _ := io.ReadAll(c); strings.Contains(string(all), "hello") {
		t.Errorf("no SNI, and the answer is %q", all)
	}
}

// TestRateLimit: what is too much is refused with 429, and later let through again.
func TestRateLimit(t *testing.T) {
	s := openShop(t, "127.0.31.7")
	limit := func(rule *waypoint.RateLimitRule) *waypoint.Policies {
		return &waypoint.Policies{RateLimits: []*waypoint.RateLimit{{Namespace: "default", Name: "l", Rules: []*waypoint.RateLimitRule{rule}}}}
	}
	client := s.Peer(idClient).Client("10.96.0.1:80")
	other := s.Peer(idOther).Client("10.96.0.1:80")
	s.apply(limit(&waypoint.RateLimitRule{
		Requests: 2, Per: durationpb.New(time.Hour), Keys: []*waypoint.RateLimitKey{{Kind: &waypoint.RateLimitKey_Principal{Principal: true}}},
		Matches: []*waypoint.HTTPMatch{
			{Path: &waypoint.PathMatch{Kind: &waypoint.PathMatch_Segments{Segments: "/api"}}},
			{Query: []*waypoint.ValueMatch{{Name: "slow", Value: exact("yes")[0]}}},
		},
	}))
	wantStatus(t, client, 200, "GET", "/api?x=1")
	wantStatus(t, client, 200, "GET", "/api/v1")
	status, _, header := ask(t, client, "GET", "/api")
	if status != 429 || header.Get("Retry-After") == "" || header.Get("X-Ratelimit-Limit") == "" {
		t.Errorf("third: %d %v", status, header)
	}
	wantStatus(t, client, 429, "GET", "/other?slow=yes") // the same bucket
	wantStatus(t, client, 200, "GET", "/apiary")
	wantStatus(t, client, 200, "GET", "/other?slow=no")
	wantStatus(t, other, 200, "GET", "/api") // another client's bucket
	if status, _, header := ask(t, client, "POST", "/api", "Content-Type", "application/grpc"); status != 200 || header.Get("Grpc-Status") != "8" {
		t.Errorf("gRPC: %d %v", status, header)
	}

	s.apply(limit(&waypoint.RateLimitRule{Requests: 1, Per: durationpb.New(200 * time.Millisecond), Status: 503}))
	wantStatus(t, client, 200, "GET", "/")
	wantStatus(t, client, 503, "GET", "/")
	s.Await("tokens come back", func() error {
		if status, _, _ := ask(t, client, "GET", "/"); status != 200 {
			return fmt.Errorf("status %d", status)
		}
		return nil
	})
}
