package stories

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// TestWaypointProtocols sends everything that is not a plain request through a waypoint.
func TestWaypointProtocols(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	w.namespace("shop", "istio.io/dataplane-mode: ambient", "istio.io/use-waypoint: wp")
	w.pod("shop", "client", "client", "node1")
	w.pod("shop", "web", "web", "node2")
	w.pod("shop", "web", "web-2", "node1")
	ports := map[string]int{"tcp": 7000, "first": 7001, "brief": 7002, "rude": 7003, "whole": 7004}
	for _, pod := range []string{"web", "web-2"} {
		w.handle("shop", pod, 8080, upgradable(echoRequest(pod)))
		w.serve("shop", pod, ports["tcp"])
		w.each("shop", pod, ports["first"], func(c *net.TCPConn) {
			fmt.Fprintln(c, "hello from", pod)
			_, _ = io.Copy(c, c)
		})
		w.each("shop", pod, ports["brief"], func(c *net.TCPConn) { fmt.Fprintln(c, "hello and good bye") })
		w.each("shop", pod, ports["rude"], func(c *net.TCPConn) {
			_, _ = c.Write([]byte("half a wo"))
			_, _ = c.Read(make([]byte, 1))
			_ = c.SetLinger(0)
		})
		w.each("shop", pod, ports["whole"], func(c *net.TCPConn) {
			n, _ := io.Copy(io.Discard, c)
			_, _ = c.Write(make([]byte, n))
		})
		w.grpc("shop", pod, 8090)
	}
	var list strings.Builder
	for name, port := range ports {
		fmt.Fprintf(&list, "{name: tcp-%s, port: %d}, ", name, port)
	}
	w.now(waypointYAML("shop", "wp", "service") + fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [%s{name: http, port: 80, targetPort: 8080}, {name: h2, port: 81, targetPort: 8080, appProtocol: kubernetes.io/h2c}, {name: grpc, port: 82, targetPort: 8090}, {name: unknown, port: 83, targetPort: 8080}, {name: unknown-tcp, port: 84, targetPort: 7000}, {name: unknown-first, port: 85, targetPort: 7001}]}
`, list.String()))
	vip := w.vip("shop", "web")
	at := func(name string) string { return net.JoinHostPort(vip, fmt.Sprint(ports[name])) }

	t.Run("TCP", func(t *testing.T) {
		w := w.as(t)
		waypoints := w.addresses("shop", w.proxies("shop", "wp"))
		for _, addr := range []string{at("tcp"), vip + ":84"} {
			got, err := w.call("shop", "client", addr, "\x00hi-there")
			parts := strings.Fields(got)
			if err != nil || len(parts) != 3 || parts[2] != "\x00hi-there" || !slices.Contains(waypoints, parts[1]) {
				t.Errorf("%s: %q, %v; want an answer to one of %v", addr, got, err, waypoints)
			}
		}
		c, err := w.dial("shop", "client", at("first"))
		w.must(err)
		defer c.Close()
		w.must(c.SetDeadline(time.Now().Add(patience)))
		r := bufio.NewReader(c)
		if line, err := r.ReadString('\n'); err != nil || !strings.HasPrefix(line, "hello from web") {
			t.Errorf("a server that speaks first: %q, %v", line, err)
		}
		if _, err := fmt.Fprintln(c, "and back"); err != nil {
			t.Error(err)
		}
		if line, err := r.ReadString('\n'); err != nil || line != "and back\n" {
			t.Errorf("then: %q, %v", line, err)
		}
	})
	t.Run("Ends", func(t *testing.T) {
		w := w.as(t)
		for range 50 {
			c, err := w.dial("shop", "client", at("brief"))
			w.must(err)
			w.must(c.SetDeadline(time.Now().Add(patience / 6)))
			if all, err := io.ReadAll(c); err != nil || string(all) != "hello and good bye\n" {
				t.Fatalf("a server that says a line and goes: %q, %v", all, err)
			}
			c.Close()
		}
		if log, err := w.DaemonLog("ztunnel@node1"); err != nil || strings.Contains(string(log), "peer-reset") {
			t.Errorf("an end is logged as a break: %v", err)
		}
		const size = 3 << 20
		c, err := w.dial("shop", "client", at("whole"))
		w.must(err)
		defer c.Close()
		w.must(c.SetDeadline(time.Now().Add(patience)))
		_, err = c.Write(make([]byte, size))
		w.must(err)
		w.must(c.(*net.TCPConn).CloseWrite())
		if n, err := io.Copy(io.Discard, c); err != nil || n != size {
			t.Errorf("after the client finished: %d of %d bytes, %v", n, size, err)
		}
		// A connection that broke ends for the other side, too, if not as a break: see runtime in waypoint/envoy.
		c, err = w.dial("shop", "client", at("rude"))
		w.must(err)
		defer c.Close()
		w.must(c.SetDeadline(time.Now().Add(patience)))
		if _, err := io.ReadFull(c, make([]byte, 9)); err != nil {
			t.Error(err)
		}
		_, _ = c.Write([]byte("x"))
		if n, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("a server that resets: %d bytes, %v", n, err)
		}
	})
	t.Run("Patience", func(t *testing.T) {
		w := w.as(t)
		// Where it must be found out what a client speaks, one that says nothing for long is taken for no HTTP. It must
		// not get past a policy about HTTP in this way.
		deny := strings.Replace(getOnly("shop", "web"), "rules:", "action: DENY\n  rules:", 1)
		w.now(deny)
		w.status("shop", "client", "http://"+vip+":83/", 403)
		c, err := w.dial("shop", "client", vip+":83")
		w.must(err)
		defer c.Close()
		greeted, err := w.dial("shop", "client", vip+":85")
		w.must(err)
		defer greeted.Close()
		w.must(c.SetDeadline(time.Now().Add(6 * time.Second))) // longer than the waypoint waits
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("a connection that says nothing is sent %d bytes", n)
		}
		w.must(greeted.SetDeadline(time.Now().Add(time.Second)))
		if n, err := greeted.Read(make([]byte, 1)); err == nil {
			t.Errorf("a server that speaks first says %d bytes to whom nothing is allowed", n)
		}
		w.must(c.SetDeadline(time.Now().Add(patience)))
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n")
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err == nil && resp.StatusCode != 403 {
			t.Errorf("a client that waited is answered %s", resp.Status)
		}
		if got, err := w.call("shop", "client", vip+":83", "\x00no-http"); err == nil {
			t.Errorf("no HTTP where HTTP is refused: %q", got)
		}
		w.through("shop", "client", "POST http://"+vip+":83/", "shop/wp")
		w.remove(deny)
		w.now(onlyClient)
		if got, err := w.call("shop", "client", vip+":84", "\x00no-http"); err != nil || !strings.HasSuffix(got, "no-http") {
			t.Errorf("no HTTP where the client may do anything: %q, %v", got, err)
		}
		w.remove(onlyClient)
		w.synced()
	})
	t.Run("HTTP2", func(t *testing.T) {
		w := w.as(t)
		for _, port := range []string{"81", "83"} {
			two := w.client("shop", "client", true)
			tr := two.Transport.(*http.Transport)
			tr.Protocols = new(http.Protocols)
			tr.Protocols.SetUnencryptedHTTP2(true)
			pods := map[string]int{}
			for range 20 {
				a, err := send(two, "POST http://"+vip+":"+port+"/x?y=1")
				if err != nil || a.Status != 200 || a.Proto != "HTTP/2.0" || a.Path != "/x?y=1" || a.by() != "shop/wp" {
					t.Fatalf("port %s: %+v, %v", port, a, err)
				}
				pods[a.Pod]++
			}
			if len(pods) != 2 {
				t.Errorf("port %s: one connection's requests went to %v", port, pods)
			}
		}
		w.through("shop", "client", "http://"+vip+":83/", "shop/wp")
	})
	t.Run("GRPC", func(t *testing.T) {
		w := w.as(t)
		conn, err := grpc.NewClient("passthrough:///"+vip+":82", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(_ context.Context, addr string) (net.Conn, error) { return w.dial("shop", "client", addr) }))
		w.must(err)
		defer conn.Close()
		hc := grpc_health_v1.NewHealthClient(conn)
		for range 10 {
			if got, err := hc.Check(w.soon(), &grpc_health_v1.HealthCheckRequest{}); err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
				t.Fatalf("check: %v, %v", got, err)
			}
		}
		ctx, cancel := context.WithCancel(w.soon())
		defer cancel()
		stream, err := hc.Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		w.must(err)
		if got, err := stream.Recv(); err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("watch: %v, %v", got, err)
		}
		if _, err := hc.Check(w.soon(), &grpc_health_v1.HealthCheckRequest{Service: "nobody"}); err == nil || !strings.Contains(err.Error(), "NotFound") {
			t.Errorf("a gRPC error: %v", err)
		}
	})
	t.Run("WebSocket", func(t *testing.T) {
		w := w.as(t)
		c, err := w.dial("shop", "client", vip+":80")
		w.must(err)
		defer c.Close()
		w.must(c.SetDeadline(time.Now().Add(patience)))
		fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%v, %v", resp, err)
		}
		for _, line := range []string{"one\n", "two\n"} {
			_, _ = io.WriteString(c, line)
			if got, err := r.ReadString('\n'); err != nil || got != line {
				t.Errorf("%q, %v", got, err)
			}
		}
	})
	t.Run("Large", func(t *testing.T) {
		w := w.as(t)
		body := strings.Repeat("0123456789abcdef", 1<<15)
		resp, err := w.client("shop", "client", false).Post("http://"+vip+"/up", "text/plain", strings.NewReader(body))
		w.must(err)
		defer resp.Body.Close()
		if back, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(back), body) {
			t.Errorf("%d bytes came back of %d, %v", len(back), len(body), err)
		}
	})
	t.Run("Headless", func(t *testing.T) {
		w := w.as(t)
		w.apply(`
apiVersion: v1
kind: Service
metadata: {name: each, namespace: shop}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
`)
		// Behind a headless service a client picks a pod: the waypoint is asked only when it is for pods, too.
		w.label("Gateway", "shop", "wp", "istio.io/waypoint-for=all")
		for _, pod := range []string{"web", "web-2"} {
			if a := w.through("shop", "client", "http://"+w.podIP("shop", pod)+":8080/", "shop/wp", "Host: each.shop"); a.Pod != pod || a.Host != "each.shop" {
				t.Errorf("%s: %+v", pod, a)
			}
			if got, err := w.call("shop", "client", w.podIP("shop", pod)+":7000", "\x00hi-there"); err != nil || !strings.HasPrefix(got, pod+" ") {
				t.Errorf("TCP to %s: %q, %v", pod, got, err)
			}
		}
	})
}

// each handles connections to a port inside a pod, and closes them afterwards.
func (w *world) each(ns, pod string, port int, handle func(*net.TCPConn)) {
	w.Helper()
	var l net.Listener
	w.must(w.inside(ns, pod, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return err }))
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		conns []net.Conn // guarded by mu
	)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() { defer c.Close(); handle(c.(*net.TCPConn)) })
		}
	})
	w.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// upgradable echoes bytes for requests to /ws, which is what a WebSocket is to a proxy.
func upgradable(h http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ws" {
			h.ServeHTTP(rw, r)
			return
		}
		c, buf, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(c, buf)
	})
}

// grpc serves the health protocol from a port inside a pod.
func (w *world) grpc(ns, pod string, port int) {
	w.Helper()
	var l net.Listener
	w.must(w.inside(ns, pod, func() (err error) { l, err = net.Listen("tcp", fmt.Sprintf(":%d", port)); return err }))
	s := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	w.Cleanup(func() { s.Stop(); <-done })
}

// addresses of pods.
func (w *world) addresses(ns string, pods []string) (out []string) {
	w.Helper()
	for _, p := range pods {
		out = append(out, w.podIP(ns, p))
	}
	return out
}
