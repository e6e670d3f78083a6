package envoy_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// dormant puts no endpoint out.
func dormant() *waypoint.TrafficPolicy {
	return &waypoint.TrafficPolicy{Outliers: &waypoint.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(0), ConsecutiveGatewayErrors: wrapperspb.UInt32(0)}}
}

func hashed(h *waypoint.ConsistentHash) *waypoint.TrafficPolicy {
	return &waypoint.TrafficPolicy{LoadBalancer: &waypoint.LoadBalancer{Algorithm: waypoint.LoadBalancer_HASH, Hash: h}}
}

// TestHash: one key, one endpoint; many keys, all endpoints. For every kind of key, by ring and by table.
func TestHash(t *testing.T) {
	header := &waypoint.ConsistentHash_Header{Header: "X-User"}
	type call struct {
		hash *waypoint.ConsistentHash
		ask  func(c *http.Client, key string) string
	}
	get := func(c *http.Client, url string, header ...string) string {
		_, echo := exchange(t, c, "GET", url, nil, header...)
		return echo.App
	}
	byHeader := func(c *http.Client, key string) string { return get(c, "http://reviews/", "x-user", key) }
	calls := map[string]call{
		"10.96.2.1": {&waypoint.ConsistentHash{Key: header}, byHeader},
		"10.96.2.2": {&waypoint.ConsistentHash{Key: header, Maglev: wrapperspb.UInt64(0)}, byHeader},
		"10.96.2.3": {&waypoint.ConsistentHash{Key: &waypoint.ConsistentHash_Cookie{Cookie: &waypoint.HashCookie{Name: "user"}}},
			func(c *http.Client, key string) string { return get(c, "http://reviews/", "cookie", "user="+key) }},
		"10.96.2.4": {&waypoint.ConsistentHash{Key: &waypoint.ConsistentHash_Query{Query: "user"}},
			func(c *http.Client, key string) string { return get(c, "http://reviews/?user="+key) }},
		"10.96.2.5": {&waypoint.ConsistentHash{Key: &waypoint.ConsistentHash_SourceIp{SourceIp: true}}, nil},
	}
	s := store(t, "127.0.39", func(s *bookstore) {
		for vip, call := range calls {
			s.also(vip).Policy = hashed(call.hash)
		}
	})
	calls["10.96.2.5"] = call{ask: func(_ *http.Client, key string) string {
		return get(s.proxy.Peer(idClient).From("127.0.99."+key).Client("10.96.2.5:80"), "http://reviews/")
	}}
	for vip, call := range calls {
		c, seen := s.proxy.Peer(idClient).Client(vip+":80"), map[string]bool{}
		for key := 1; key <= 12; key++ {
			first := call.ask(c, fmt.Sprint(key))
			seen[first] = true
			for range 2 {
				if again := call.ask(c, fmt.Sprint(key)); again != first {
					t.Errorf("%s: key %d went to %s and then to %s", vip, key, first, again)
				}
			}
		}
		if len(seen) != 2 {
			t.Errorf("%s: 12 keys went to %v", vip, seen)
		}
	}
}

// also adds another service with the pods of reviews, and returns how it is talked to.
func (s *bookstore) also(vip string) *waypoint.Destination {
	s.Add("also-"+vip+".default.svc.cluster.local", vip, []envoytest.Port{{Number: 80, Target: s.port, Protocol: waypoint.Protocol_HTTP1}}, s.Workloads[:2]...)
	return s.Destinations[len(s.Destinations)-1]
}

// TestHashCookieIsHandedOut: a lifetime asks for it.
func TestHashCookieIsHandedOut(t *testing.T) {
	s := store(t, "127.0.40", func(s *bookstore) {
		s.Destinations[0].Policy = hashed(&waypoint.ConsistentHash{Key: &waypoint.ConsistentHash_Cookie{
			Cookie: &waypoint.HashCookie{Name: "user", Path: "/", Ttl: durationpb.New(time.Hour)},
		}})
	})
	c := s.client()
	resp, first := exchange(t, c, "GET", "http://reviews/", nil)
	cookie := resp.Header.Get("set-cookie")
	if !strings.HasPrefix(cookie, "user=") || !strings.Contains(cookie, "3600") {
		t.Fatalf("cookie %q", cookie)
	}
	value, _, _ := strings.Cut(cookie, ";")
	for range 10 {
		if _, echo := exchange(t, c, "GET", "http://reviews/", nil, "cookie", value); echo.App != first.App {
			t.Fatalf("%s and then %s", first.App, echo.App)
		}
	}
}

// TestSession: who was answered by an endpoint comes back to it, by cookie and by header, from the rule or the destination.
func TestSession(t *testing.T) {
	s := store(t, "127.0.41", func(s *bookstore) {
		s.Destinations[0].Session = &waypoint.SessionPersistence{By: &waypoint.SessionPersistence_Cookie{Cookie: "stuck"}}
	})
	sticks := func(what string, c *http.Client, carry func(*http.Response) (string, string)) {
		t.Helper()
		seen := map[string]bool{}
		for range 10 {
			resp, first := exchange(t, c, "GET", "http://reviews/", nil)
			seen[first.App] = true
			name, value := carry(resp)
			if value == "" {
				t.Fatalf("%s: nothing to come back with: %v", what, resp.Header)
			}
			for range 4 {
				if _, echo := exchange(t, c, "GET", "http://reviews/", nil, name, value); echo.App != first.App {
					t.Fatalf("%s: %s and then %s", what, first.App, echo.App)
				}
			}
		}
		if len(seen) != 2 {
			t.Errorf("%s: all sessions at %v", what, seen)
		}
	}
	byCookie := func(r *http.Response) (string, string) {
		value, _, _ := strings.Cut(r.Header.Get("set-cookie"), ";")
		return "cookie", value
	}
	sticks("destination", s.client(), byCookie)
	s.route(t, `[{"session":{"header":"x-session"}, "forward":{"backends":[{$reviews,"weight":1}]}}]`)
	sticks("header", s.client(), func(r *http.Response) (string, string) { return "x-session", r.Header.Get("x-session") })
	s.route(t, `[{"session":{"cookie":"sid","lifetime":"60s"}, "forward":{"backends":[{$reviews,"weight":1}]}}]`)
	sticks("cookie", s.client(), byCookie)
}

// TestOutlier: an endpoint that fails is left out for a while, as the destination asks; and one whose connections break even
// when nobody asked.
func TestOutlier(t *testing.T) {
	s := store(t, "127.0.42", func(s *bookstore) {
		s.Destinations[0].Policy = &waypoint.TrafficPolicy{Outliers: &waypoint.OutlierDetection{
			Consecutive_5Xx: wrapperspb.UInt32(3), Interval: durationpb.New(100 * time.Millisecond),
			BaseEjection: durationpb.New(time.Minute), MaxEjectionPercent: wrapperspb.UInt32(100),
		}}
		s.also("10.96.2.1")
	})
	s.route(t, `[
	 {"matches":[{"path":{"segments":"/v2"}}], "retry":{"attempts":0}, "forward":{"backends":[{$reviews,"subset":"v2","weight":1}]}},
	 {"retry":{"attempts":0}, "forward":{"backends":[{$reviews,"weight":1}]}}]`)
	c := s.client()
	for range 3 {
		if resp, _ := exchange(t, c, "GET", "http://reviews/v2?status=500", nil); resp.StatusCode != 500 {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	s.proxy.Await("the endpoint to be left out", func() error {
		resp, echo := exchange(t, c, "GET", "http://reviews/v2", nil)
		if resp.StatusCode != 503 {
			return fmt.Errorf("%d from %s", resp.StatusCode, echo.App)
		}
		return nil
	})
	// Nobody asked: the application's own errors put nothing out.
	c = s.proxy.Peer(idClient).Client("10.96.2.1:80")
	seen := map[string]int{}
	for range 40 {
		resp, echo := exchange(t, c, "POST", "http://reviews/?status=503", nil)
		if resp.StatusCode != 503 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		seen[echo.App]++
	}
	if seen["v1"] == 0 || seen["v2"] < 10 {
		t.Errorf("put out for the application's own errors: answers of %v", seen)
	}
}

// TestDeadPodIsLeftOut: with nothing configured, a pod that breaks every connection is asked no more after a few.
func TestDeadPodIsLeftOut(t *testing.T) {
	s := store(t, "127.0.43", nil, "v2")
	killed := killer(t, fmt.Sprintf("127.0.43.2:%d", s.port))
	c := s.client()
	for range 100 {
		if resp, _ := exchange(t, c, "GET", "http://reviews/", nil); resp.StatusCode != 200 {
			t.Fatalf("GET: %d", resp.StatusCode)
		}
	}
	// Five put it out; a few more may be under way, and after 5 s it gets another chance.
	if n := killed.Load(); n < 5 || n > 20 {
		t.Errorf("the dead pod was asked %d times in 100 requests", n)
	}
}

// TestTLS: the waypoint speaks TLS to a destination inside the tunnel, verifies whom it speaks to, and fails rather than
// going unprotected.
func TestTLS(t *testing.T) {
	s := store(t, "127.0.44", nil, "v1", "v2")
	server := func(ip string) *httptest.Server {
		l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", ip, s.port))
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s sni=%s", r.Proto, r.TLS.ServerName)
		}))
		srv.Listener.Close()
		srv.Listener = l
		srv.EnableHTTP2 = true
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv
	}
	one := server("127.0.44.1")
	server("127.0.44.2")
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.Certificate().Raw}))
	cases := map[string]struct {
		tls  *waypoint.ClientTLS
		want string
	}{
		"verified":           {&waypoint.ClientTLS{Mode: waypoint.ClientTLS_SIMPLE, Sni: "example.com", Ca: ca}, "HTTP/2.0 sni=example.com"},
		"another name":       {&waypoint.ClientTLS{Mode: waypoint.ClientTLS_SIMPLE, Sni: "other.com", Ca: ca}, ""},
		"a name it also has": {&waypoint.ClientTLS{Mode: waypoint.ClientTLS_SIMPLE, Sni: "sni.example", SubjectAltNames: []string{"127.0.0.1"}, Ca: ca}, "HTTP/2.0 sni=sni.example"},
		"insecure":           {&waypoint.ClientTLS{Mode: waypoint.ClientTLS_SIMPLE, Sni: "any.example", InsecureSkipVerify: true}, "HTTP/2.0 sni=any.example"},
		"broken":             {&waypoint.ClientTLS{Mode: waypoint.ClientTLS_MUTUAL, Broken: "Secret default/client does not exist"}, ""},
		"no roots":           {&waypoint.ClientTLS{Mode: waypoint.ClientTLS_SIMPLE, Ca: "nonsense"}, ""},
	}
	vips := map[string]string{}
	for name, x := range cases {
		vips[name] = fmt.Sprintf("10.96.2.%d", len(vips)+1)
		d := s.also(vips[name])
		d.Policy = dormant()
		d.Policy.Tls = x.tls
	}
	if problems := s.proxy.TryApply(s.World); len(problems) != 2 {
		t.Errorf("problems: %v", problems)
	}
	for name, x := range cases {
		resp, echo := exchange(t, s.proxy.Peer(idClient).Client(vips[name]+":80"), "GET", "http://reviews/", nil)
		if x.want == "" && resp.StatusCode != 503 || x.want != "" && echo.Body != x.want {
			t.Errorf("%s: %d %q, want %q", name, resp.StatusCode, echo.Body, x.want)
		}
	}
}

// TestFailover: traffic stays near while what is near works, goes on to what is far when it does not, and is divided by
// weight where that is asked for.
func TestFailover(t *testing.T) {
	s := store(t, "127.0.48", func(s *bookstore) {
		// The proxy is in r1/z1.
		s.Workloads[0].Locality = &workload.Locality{Region: "r1", Zone: "z1"}
		s.Workloads[1].Locality = &workload.Locality{Region: "r2", Zone: "z2"}
		s.Destinations[0].Policy = &waypoint.TrafficPolicy{
			LoadBalancer: &waypoint.LoadBalancer{Locality: &waypoint.Locality{Enabled: wrapperspb.Bool(true)}},
			Outliers: &waypoint.OutlierDetection{
				Consecutive_5Xx: wrapperspb.UInt32(2), Interval: durationpb.New(100 * time.Millisecond),
				BaseEjection: durationpb.New(time.Minute), MaxEjectionPercent: wrapperspb.UInt32(100),
			},
		}
		s.also("10.96.2.1").Policy = &waypoint.TrafficPolicy{LoadBalancer: &waypoint.LoadBalancer{Locality: &waypoint.Locality{
			Distribute: []*waypoint.Locality_Distribute{{From: "r1/*", To: map[string]uint32{"r1/z1/*": 80, "r2/*": 20}}},
		}}}
	})
	c := s.client()
	for range 20 {
		want(t, c, "http://reviews/", 200, "v1")
	}
	for range 2 {
		exchange(t, c, "POST", "http://reviews/?status=500", nil)
	}
	s.proxy.Await("the far endpoint", func() error {
		if _, echo := exchange(t, c, "GET", "http://reviews/", nil); echo.App != "v2" {
			return fmt.Errorf("%q answered", echo.App)
		}
		return nil
	})
	near := 0
	c = s.proxy.Peer(idClient).Client("10.96.2.1:80")
	for range 200 {
		if _, echo := exchange(t, c, "GET", "http://reviews/", nil); echo.App == "v1" {
			near++
		}
	}
	if near < 130 || near > 188 {
		t.Errorf("%d of 200 stayed near, want about 160", near)
	}
}
