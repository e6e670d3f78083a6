package envoy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// serveGRPC runs a server at ip for the rest of the test.
func serveGRPC(t *testing.T, ip string, register func(*grpc.Server)) uint32 {
	t.Helper()
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// guard is a gRPC authorizer: it likes requests that say please.
type guard struct {
	authv3.UnimplementedAuthorizationServer
}

func (guard) Check(_ context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	h := r.GetAttributes().GetRequest().GetHttp().GetHeaders()
	if h["x-say"] == "please" {
		return &authv3.CheckResponse{Status: &rpcstatus.Status{}, HttpResponse: &authv3.CheckResponse_OkResponse{OkResponse: &authv3.OkHttpResponse{
			Headers: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-guard", Value: "seen"}}},
		}}}, nil
	}
	return &authv3.CheckResponse{Status: &rpcstatus.Status{Code: int32(codes.PermissionDenied)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
		DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: 418}, Body: "say please"},
	}}, nil
}

// TestCustom: authorizers by HTTP and gRPC, one after the other, and when they cannot be asked.
func TestCustom(t *testing.T) {
	s := openShop(t, "127.0.33.1")
	l, err := net.Listen("tcp", "127.0.33.2:0")
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Checked", r.URL.Path)
		if r.Header.Get("X-Ticket") != "valid" || !strings.HasPrefix(r.URL.Path, "/check") {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "no ticket")
		}
	}))
	web.Listener.Close()
	web.Listener = l
	web.Start()
	t.Cleanup(web.Close)
	byHTTP := &waypoint.ExternalAuthorizer{
		Name:    "tickets",
		Service: s.outside("tickets", "127.0.33.2", uint32(l.Addr().(*net.TCPAddr).Port), waypoint.Protocol_HTTP1),
		Timeout: durationpb.New(5 * time.Second),
		Transport: &waypoint.ExternalAuthorizer_Http{Http: &waypoint.ExternalAuthorizer_HTTP{
			PathPrefix: "/check", CheckHeaders: exact("x-ticket"), UpstreamHeaders: exact("x-checked"),
		}},
	}
	port := serveGRPC(t, "127.0.33.3", func(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, guard{}) })
	byGRPC := &waypoint.ExternalAuthorizer{
		Name: "guard", Service: s.outside("guard", "127.0.33.3", port, waypoint.Protocol_GRPC),
		Timeout: durationpb.New(5 * time.Second), Transport: &waypoint.ExternalAuthorizer_Grpc{Grpc: &waypoint.ExternalAuthorizer_GRPC{}},
	}
	custom := func(name string, a *waypoint.ExternalAuthorizer, path string) *waypoint.Authorization {
		p := policy(waypoint.Authorization_CUSTOM, name, to(&waypoint.Operation{Paths: prefix(path)}))
		p.Authorizer = a
		return p
	}
	s.apply(authorization(custom("h", byHTTP, "/t"), custom("g", byGRPC, "/t/g")))
	client := s.Peer(idClient).Client("10.96.0.1:80")
	wantStatus(t, client, 200, "GET", "/free")
	if status, body, _ := ask(t, client, "GET", "/t"); status != 401 || body != "no ticket" {
		t.Errorf("no ticket: %d %q", status, body)
	}
	if status, body, _ := ask(t, client, "GET", "/t", "x-ticket", "valid"); status != 200 || !strings.Contains(body, "/check/t") {
		t.Errorf("ticket: %d %q", status, body)
	}
	wantStatus(t, client, 418, "GET", "/t/g", "x-ticket", "valid")
	wantStatus(t, client, 401, "GET", "/t/g", "x-say", "please")
	if status, body, _ := ask(t, client, "GET", "/t/g", "x-ticket", "valid", "x-say", "please"); status != 200 || !strings.Contains(body, "seen") {
		t.Errorf("both: %d %q", status, body)
	}
	// DENY is asked after CUSTOM and still decides.
	s.apply(authorization(custom("h", byHTTP, "/t"), policy(waypoint.Authorization_DENY, "d", to(&waypoint.Operation{Paths: exact("/t/x")}))))
	wantStatus(t, client, 403, "GET", "/t/x", "x-ticket", "valid")

	// Nobody there.
	web.Close()
	wantStatus(t, client, 403, "GET", "/t", "x-ticket", "valid")
	byHTTP.StatusOnError = 503
	s.apply(authorization(custom("h", byHTTP, "/t")))
	wantStatus(t, client, 503, "GET", "/t", "x-ticket", "valid")
	byHTTP.FailOpen = true
	s.apply(authorization(custom("h", byHTTP, "/t")))
	wantStatus(t, client, 200, "GET", "/t")

	// No such provider: what it would decide is refused.
	s.svc.Policies = authorization(custom("h", nil, "/t"))
	if problems := s.TryApply(s.world); len(problems) != 1 {
		t.Errorf("problems: %v", problems)
	}
	wantStatus(t, client, 403, "GET", "/t")
	wantStatus(t, client, 200, "GET", "/free")
	broken := custom("h", byHTTP, "/t")
	broken.Broken = "the mesh configuration has no such provider"
	s.svc.Policies = authorization(broken)
	if problems := s.TryApply(s.world); len(problems) != 1 || !strings.Contains(problems[0].Text, broken.Broken) {
		t.Errorf("problems: %v", problems)
	}
	wantStatus(t, client, 403, "GET", "/t")
	wantStatus(t, client, 200, "GET", "/free")
}

func lua(name, source string, phase waypoint.Extension_Phase, priority int32) *waypoint.Extension {
	return &waypoint.Extension{Namespace: "default", Name: name, Phase: phase, Priority: priority,
		Kind: &waypoint.Extension_Lua{Lua: &waypoint.Lua{Source: source}}}
}

// TestLua: scripts run in the order of phases and priorities; one that fails closes or is passed over, and never keeps
// anything else from being accepted.
func TestLua(t *testing.T) {
	s := openShop(t, "127.0.34.1")
	client := s.Peer(idClient).Client("10.96.0.1:80")
	note := func(mark string) string {
		return `function envoy_on_request(h) h:headers():add("x-order", "` + mark + `") end
function envoy_on_response(h) h:headers():add("x-back", "` + mark + `") end -- ]] ]=]`
	}
	s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{
		lua("last", note("5"), waypoint.Extension_UNSPECIFIED, 0),
		lua("z", note("2"), waypoint.Extension_AUTHZ, 5),
		lua("a", note("3"), waypoint.Extension_AUTHZ, 1),
		lua("stats", note("4"), waypoint.Extension_STATS, 0),
		lua("first", note("1"), waypoint.Extension_AUTHN, 0),
	}})
	status, body, header := ask(t, client, "GET", "/")
	if status != 200 || !strings.Contains(body, `"X-Order":["1","2","3","4","5"]`) {
		t.Errorf("%d %s", status, body)
	}
	if got := strings.Join(header.Values("X-Back"), ""); got != "54321" {
		t.Errorf("on the way back: %s", got)
	}
	for name, source := range map[string]string{
		"no Lua":             "this is no Lua",
		"fails when loaded":  `error("no")`,
		"fails when running": `function envoy_on_request(h) h:nothing() end`,
		"fails on the way back": `function envoy_on_request(h) h:headers():get("x") end
function envoy_on_response(h) local x = nil; x.y = 1 end`,
		"breaks out": "]=]\nfunction envoy_on_request(h) error('x') end --[=[",
	} {
		x := lua("x", source, waypoint.Extension_UNSPECIFIED, 0)
		s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{x}})
		if status, _, _ := ask(t, client, "GET", "/"); status != 503 {
			t.Errorf("%s: %d, want 503", name, status)
		}
		x.FailOpen = true
		s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{x}})
		if status, _, _ := ask(t, client, "GET", "/"); status != 200 {
			t.Errorf("%s, open: %d, want 200", name, status)
		}
	}
	// A script of a rule runs for its routes only, after those of the service.
	s.svc.Ports[0].Http = []*waypoint.HTTPRule{
		{
			Matches:    []*waypoint.HTTPMatch{{Path: &waypoint.PathMatch{Kind: &waypoint.PathMatch_Prefix{Prefix: "/own"}}}},
			Extensions: []*waypoint.Extension{lua("own", note("2"), waypoint.Extension_AUTHN, -1)},
			Action:     forward(s.svc),
		}, {Action: forward(s.svc)},
	}
	s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{lua("host", note("1"), waypoint.Extension_AUTHN, 0)}})
	if _, body, _ := ask(t, client, "GET", "/own"); !strings.Contains(body, `"X-Order":["1","2"]`) {
		t.Errorf("/own: %s", body)
	}
	if _, body, _ := ask(t, client, "GET", "/"); !strings.Contains(body, `"X-Order":["1"]`) {
		t.Errorf("/: %s", body)
	}
}

func forward(svc *waypoint.Service) *waypoint.HTTPRule_Forward {
	return &waypoint.HTTPRule_Forward{Forward: &waypoint.Forward{Backends: []*waypoint.Backend{
		{Namespace: svc.GetNamespace(), Hostname: svc.GetHostname(), Port: svc.GetPorts()[0].GetNumber(), Weight: 1},
	}}}
}

// marker is a processor that adds a header each way and refuses /secret.
type marker struct {
	procv3.UnimplementedExternalProcessorServer
}

func (marker) Process(stream procv3.ExternalProcessor_ProcessServer) error {
	mark := &procv3.HeadersResponse{Response: &procv3.CommonResponse{HeaderMutation: &procv3.HeaderMutation{
		SetHeaders: []*corev3.HeaderValueOption{{Header: &corev3.HeaderValue{Key: "x-processed", RawValue: []byte("yes")}}},
	}}}
	for {
		in, err := stream.Recv()
		if err != nil {
			return nil
		}
		out := &procv3.ProcessingResponse{Response: &procv3.ProcessingResponse_ResponseHeaders{ResponseHeaders: mark}}
		if h := in.GetRequestHeaders(); h != nil {
			out.Response = &procv3.ProcessingResponse_RequestHeaders{RequestHeaders: mark}
			for _, one := range h.GetHeaders().GetHeaders() {
				if one.GetKey() == ":path" && string(one.GetRawValue()) == "/secret" {
					out.Response = &procv3.ProcessingResponse_ImmediateResponse{ImmediateResponse: &procv3.ImmediateResponse{
						Status: &typev3.HttpStatus{Code: 451},
					}}
				}
			}
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

// TestProcessor: an external processor changes requests and answers, and its absence closes or is passed over.
func TestProcessor(t *testing.T) {
	s := openShop(t, "127.0.35.1")
	port := serveGRPC(t, "127.0.35.2", func(g *grpc.Server) { procv3.RegisterExternalProcessorServer(g, marker{}) })
	x := &waypoint.Extension{Namespace: "default", Name: "p", Kind: &waypoint.Extension_Processor{Processor: &waypoint.ExternalProcessor{
		Service: s.outside("processor", "127.0.35.2", port, waypoint.Protocol_GRPC), RequestHeaders: true, ResponseHeaders: true,
		Timeout: durationpb.New(5 * time.Second),
	}}}
	s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{x}})
	client := s.Peer(idClient).Client("10.96.0.1:80")
	if status, body, header := ask(t, client, "GET", "/"); status != 200 || !strings.Contains(body, "X-Processed") || header.Get("X-Processed") != "yes" {
		t.Errorf("%d %s %v", status, body, header)
	}
	wantStatus(t, client, 451, "GET", "/secret")
	x.GetProcessor().Service = s.outside("nobody", "127.0.35.3", 9, waypoint.Protocol_GRPC)
	s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{x}})
	if status, _, _ := ask(t, client, "GET", "/"); status < 500 {
		t.Errorf("nobody there: %d", status)
	}
	x.FailOpen = true
	s.apply(&waypoint.Policies{Extensions: []*waypoint.Extension{x}})
	wantStatus(t, client, 200, "GET", "/")

	x.GetProcessor().RequestBody = "SOMETIMES"
	s.svc.Policies = &waypoint.Policies{Extensions: []*waypoint.Extension{x}}
	if problems := s.TryApply(s.world); len(problems) != 1 {
		t.Errorf("problems: %v", problems)
	}
	wantStatus(t, client, 200, "GET", "/")
	x.FailOpen = false
	s.TryApply(s.world)
	wantStatus(t, client, 503, "GET", "/")
}

// TestUnknownBackends: references to services nobody knows fail alone.
func TestUnknownBackends(t *testing.T) {
	s := openShop(t, "127.0.33.9")
	nowhere := &waypoint.Backend{Namespace: "default", Hostname: "nowhere.example", Port: 80}
	grpcGuard := &waypoint.ExternalAuthorizer{Name: "g", Service: nowhere, Transport: &waypoint.ExternalAuthorizer_Grpc{Grpc: &waypoint.ExternalAuthorizer_GRPC{}}}
	webGuard := &waypoint.ExternalAuthorizer{Name: "h", Service: nowhere, Transport: &waypoint.ExternalAuthorizer_Http{Http: &waypoint.ExternalAuthorizer_HTTP{}}}
	custom := func(name string, a *waypoint.ExternalAuthorizer, path string) *waypoint.Authorization {
		p := policy(waypoint.Authorization_CUSTOM, name, to(&waypoint.Operation{Paths: exact(path)}))
		p.Authorizer = a
		return p
	}
	s.svc.Policies = authorization(custom("g", grpcGuard, "/g"), custom("h", webGuard, "/h"))
	s.TryApply(s.world)
	client := s.Peer(idClient).Client("10.96.0.1:80")
	wantStatus(t, client, 403, "GET", "/g")
	wantStatus(t, client, 403, "GET", "/h")
	wantStatus(t, client, 200, "GET", "/")
	s.svc.Policies.Extensions = []*waypoint.Extension{{Namespace: "default", Name: "p", FailOpen: true,
		Kind: &waypoint.Extension_Processor{Processor: &waypoint.ExternalProcessor{Service: nowhere, RequestHeaders: true}}}}
	s.svc.Policies.Authorization = nil
	s.TryApply(s.world)
	wantStatus(t, client, 200, "GET", "/h")
}

// TestBrokenExtensions: what cannot be carried out and may not be left out fails requests, and is nothing to other connections.
func TestBrokenExtensions(t *testing.T) {
	const ip = "127.0.33.13"
	w := &envoytest.World{}
	svc := w.Add("mixed.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{
		{Number: 80, Target: envoytest.App(t, "web", ip), Protocol: waypoint.Protocol_HTTP1},
		{Number: 9000, Target: envoytest.TCPApp(t, "tcp", ip), Protocol: waypoint.Protocol_TCP},
	}, envoytest.Pod("mixed", ip, "echo"))
	p := envoytest.Start(t, w)
	p.Node(ip, idEcho)
	for name, x := range map[string]*waypoint.Extension{
		"any kind": {Broken: "there is no Service"}, "Wasm": {Broken: "it is foreign", Kind: &waypoint.Extension_Wasm{Wasm: &waypoint.Wasm{}}},
	} {
		x.Namespace, x.Name = "default", "x"
		svc.Policies = &waypoint.Policies{Extensions: []*waypoint.Extension{x}}
		if problems := p.TryApply(w); len(problems) == 0 || !strings.Contains(problems[0].Text, x.Broken) {
			t.Errorf("%s: problems %v", name, problems)
		}
		client := p.Peer(idClient).Client("10.96.0.1:80")
		wantStatus(t, client, 503, "GET", "/")
		c, err := p.Peer(idClient).Dial(t.Context(), "10.96.0.1:9000")
		if err != nil {
			t.Fatalf("%s: TCP: %v", name, err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); line != "tcp\n" {
			t.Errorf("%s: TCP: %q, %v", name, line, err)
		}
		c.Close()
		svc.Policies = nil
		p.Apply(w)
		wantStatus(t, p.Peer(idClient).Client("10.96.0.1:80"), 200, "GET", "/")
	}
}

// TestCustomTCP: a gRPC authorizer decides about connections, too.
func TestCustomTCP(t *testing.T) {
	const ip = "127.0.33.11"
	w := &envoytest.World{}
	port := envoytest.TCPApp(t, "tcp", ip)
	svc := w.Add("tcp.default.svc.cluster.local", "10.96.0.1", []envoytest.Port{{Number: 9000, Target: port, Protocol: waypoint.Protocol_TCP}},
		envoytest.Pod("tcp", ip, "echo"))
	s := &shop{world: w, svc: svc, t: t}
	guardPort := serveGRPC(t, "127.0.33.12", func(g *grpc.Server) { authv3.RegisterAuthorizationServer(g, guard{}) })
	p := policy(waypoint.Authorization_CUSTOM, "g", from(&waypoint.Source{Namespaces: exact("other")}))
	p.Authorizer = &waypoint.ExternalAuthorizer{
		Name: "guard", Service: s.outside("guard", "127.0.33.12", guardPort, waypoint.Protocol_GRPC),
		Timeout: durationpb.New(5 * time.Second), Transport: &waypoint.ExternalAuthorizer_Grpc{Grpc: &waypoint.ExternalAuthorizer_GRPC{}},
	}
	svc.Policies = authorization(p)
	s.Proxy = envoytest.Start(t, w)
	s.Node(ip, idEcho)
	echoes := func(id string) bool {
		c, err := s.Peer(id).Dial(t.Context(), "10.96.0.1:9000")
		if err != nil {
			return false
		}
		defer c.Close()
		_, _ = io.WriteString(c, "hello\n")
		r := bufio.NewReader(c)
		_, _ = r.ReadString('\n')
		line, _ := r.ReadString('\n')
		return line == "hello\n"
	}
	if !echoes(idClient) {
		t.Error("a connection no policy is about was refused")
	}
	if echoes(idOther) {
		t.Error("the authorizer refuses, and the connection works")
	}
}
