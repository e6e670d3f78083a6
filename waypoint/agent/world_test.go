package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/api/waypoint"
	"github.com/ambit-mesh/ambit/api/workload"
	"github.com/ambit-mesh/ambit/api/xds"
	"github.com/ambit-mesh/ambit/ca/catest"
	"github.com/ambit-mesh/ambit/waypoint/agent/ads"
	"github.com/ambit-mesh/ambit/waypoint/envoy/envoytest"
)

// plane is a control plane whose facts are made by hand.
type plane struct {
	t           testing.TB
	collections map[string]*xds.Collection
	address     string
	server      *xds.Server
	grpc        *grpc.Server
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{t: t, collections: map[string]*xds.Collection{}}
	for _, typeURL := range []string{
		mesh.TypeAddress, mesh.TypeWaypointGateway, mesh.TypeWaypointService, mesh.TypeWaypointDestination,
		mesh.TypeWaypointVirtualHost, mesh.TypeWaypointSecret,
	} {
		p.collections[typeURL] = xds.NewCollection(typeURL)
	}
	p.start("127.0.0.1:0")
	t.Cleanup(p.stop)
	return p
}

func (p *plane) start(address string) {
	p.t.Helper()
	var all []*xds.Collection
	for _, c := range p.collections {
		all = append(all, c)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.address = l.Addr().String()
	p.server = xds.NewServer(xds.ServerConfig{}, all...)
	p.grpc = grpc.NewServer(p.server.Options()...)
	p.server.Register(p.grpc)
	go p.grpc.Serve(l) // ends with stop
}

func (p *plane) stop() {
	p.grpc.Stop()
	p.server.Wait()
}

// push makes the facts those of the world.
func (p *plane) push(w *envoytest.World) {
	p.t.Helper()
	put := map[string][]*xds.Resource{}
	add := func(typeURL, name string, m proto.Message, change func(*xds.Resource)) {
		body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			p.t.Fatal(err)
		}
		sum := sha256.Sum256(body)
		r := &xds.Resource{Name: name, Body: body, Version: hex.EncodeToString(sum[:8]), Scopes: []string{"default/waypoint"}}
		if change != nil {
			change(r)
		}
		put[typeURL] = append(put[typeURL], r)
	}
	gateway := w.Gateway
	if gateway == nil {
		gateway = &waypoint.Gateway{Namespace: "default", Name: "waypoint", Services: true, TrustDomains: []string{"cluster.local"}}
	}
	const prefix = "default/waypoint/"
	add(mesh.TypeWaypointGateway, prefix+"gateway", gateway, nil)
	for _, s := range w.Services {
		add(mesh.TypeWaypointService, prefix+mesh.ServiceName(s.GetNamespace(), s.GetHostname()), s, nil)
	}
	for _, d := range w.Destinations {
		add(mesh.TypeWaypointDestination, prefix+mesh.ServiceName(d.GetNamespace(), d.GetHostname()), d, nil)
	}
	for _, s := range w.Addresses {
		add(mesh.TypeAddress, mesh.ServiceName(s.GetNamespace(), s.GetHostname()),
			&workload.Address{Type: &workload.Address_Service{Service: s}}, func(r *xds.Resource) { r.Scopes = nil })
	}
	for _, wl := range w.Workloads {
		add(mesh.TypeAddress, wl.GetUid(), &workload.Address{Type: &workload.Address_Workload{Workload: wl}}, func(r *xds.Resource) {
			r.Scopes = nil
			for service := range wl.GetServices() {
				r.Services = append(r.Services, service)
			}
		})
	}
	for typeURL, c := range p.collections {
		have := map[string]bool{}
		for _, r := range put[typeURL] {
			have[r.Name] = true
		}
		var gone []string
		for _, r := range c.Snapshot() {
			if !have[r.Name] {
				gone = append(gone, r.Name)
			}
		}
		c.Apply(put[typeURL], gone)
	}
}

// running is an agent with a real Envoy, until the test ends or stop is called.
type running struct {
	*envoytest.Proxy
	t     testing.TB
	plane *plane
	ca    *catest.CA
	cfg   Config
	log   *envoytest.Buffer
	stop  context.CancelFunc
	ended chan error
	alter func([]ads.Update)
}

// launch starts an agent with the facts of a world and waits until it is ready.
func launch(t testing.TB, w *envoytest.World, change ...func(*Config)) *running {
	t.Helper()
	r := prepare(t, change...)
	r.plane.push(w)
	r.run()
	r.ready()
	return r
}

func prepare(t testing.TB, change ...func(*Config)) *running {
	t.Helper()
	r := &running{t: t, plane: newPlane(t), ca: catest.New(), log: &envoytest.Buffer{}, ended: make(chan error, 1)}
	ports := envoytest.FreePorts(t, 6)
	// Not t.TempDir: a socket's path must be short.
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r.cfg = Default()
	r.cfg.GatewayName, r.cfg.PodName, r.cfg.PodNamespace, r.cfg.ServiceAccount = "waypoint", "waypoint-0", "default", "waypoint"
	r.cfg.InstanceIP, r.cfg.Bind = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")
	r.cfg.XDSAddress, r.cfg.CAAddress = "http://"+r.plane.address, "http://127.0.0.1:1"
	r.cfg.PodInfo = ""
	r.cfg.RunDir, r.cfg.EnvoyConcurrency = dir, 2
	r.cfg.HBONEPort, r.cfg.PeerHBONEPort, r.cfg.ReadyPort, r.cfg.StatsPort = ports[0], ports[1], ports[2], ports[3]
	r.cfg.MetricsAddress = fmt.Sprintf("127.0.0.1:%d", ports[4])
	r.cfg.ToolsAddress = fmt.Sprintf("127.0.0.1:%d", ports[5])
	r.cfg.DrainWait, r.cfg.DrainDuration = 100*time.Millisecond, 10*time.Second
	for _, c := range change {
		c(&r.cfg)
	}
	r.Proxy = envoytest.Attach(t, r.ca, r.cfg.options("x"))
	return r
}

func (r *running) run() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	log := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	go func() { r.ended <- Run(ctx, r.cfg, Deps{Signer: r.ca, Logger: log, Version: "test", alter: r.alter}) }()
	r.t.Cleanup(func() {
		cancel()
		select {
		case err := <-r.ended:
			if err != nil {
				r.t.Errorf("Run: %v", err)
			}
		case <-time.After(30 * time.Second):
			r.t.Error("the agent does not stop")
		}
		if r.t.Failed() {
			r.t.Logf("the agent wrote:\n%s", r.log)
		}
	})
}

// end waits for the agent's end, for tests that cause it.
func (r *running) end() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.ended <- nil
		return err
	case <-time.After(30 * time.Second):
		r.t.Fatal("the agent does not stop")
		return nil
	}
}

// ready waits until a probe would succeed.
func (r *running) ready() {
	r.t.Helper()
	r.Await("ready", func() error {
		_, err := r.get(fmt.Sprintf("http://127.0.0.1:%d/healthz/ready", r.cfg.ReadyPort))
		return err
	})
}

func (r *running) get(url string) (string, error) {
	resp, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

func (r *running) tool(path string) string {
	r.t.Helper()
	text, err := r.get("http://" + r.cfg.ToolsAddress + path)
	if err != nil {
		r.t.Fatal(err)
	}
	return text
}

// expect polls until a request has the status and the answering application.
func (r *running) expect(c *http.Client, url string, status int, app string, header ...string) {
	r.t.Helper()
	r.Await(fmt.Sprintf("GET %s: %d from %q", url, status, app), func() error {
		got, echo, err := envoytest.Get(c, url, header...)
		if err == nil && (got != status || echo.App != app) {
			err = fmt.Errorf("%d from %q %s", got, echo.App, strings.TrimSpace(echo.Body))
		}
		return err
	})
}

// pid is Envoy's.
func (r *running) pid() (pid int) {
	r.t.Helper()
	r.Await("the process of Envoy", func() error {
		for line := range strings.Lines(r.log.String()) {
			if _, rest, ok := strings.Cut(line, "msg=\"Envoy started\""); ok {
				if _, err := fmt.Sscanf(rest[strings.Index(rest, "pid="):], "pid=%d", &pid); err != nil {
					return err
				}
			}
		}
		if pid == 0 {
			return errors.New("not in the log")
		}
		return nil
	})
	return pid
}
