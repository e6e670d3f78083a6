package ctl

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// forwards adds the commands that bring a part's own page to this machine.
func (a *app) forwards(cmd *cobra.Command, address *string, browser *bool) {
	run := func(looking bool, find func(ctx context.Context, args []string) (what string, dial func(context.Context) (net.Conn, error), err error)) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			what, dial, err := find(cmd.Context(), args)
			if err != nil {
				return err
			}
			l, err := a.loopback(cmd.Context(), *address)
			if err != nil {
				return err
			}
			at := "http://" + l.Addr().String()
			fmt.Fprintln(a.env.Out, at)
			fmt.Fprintf(a.env.Err, "%s is at this address until you interrupt this command.\n", what)
			a.browse(cmd.Context(), *browser, at)
			return forward(cmd.Context(), l, dial, looking)
		}
	}
	add := func(looking bool, use, short string, args cobra.PositionalArgs, find func(context.Context, []string) (string, func(context.Context) (net.Conn, error), error)) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: run(looking, find)})
	}
	add(true, "envoy [GATEWAY|POD]", "Forward to the admin pages of a waypoint or gateway", atMostOne, func(ctx context.Context, args []string) (string, func(context.Context) (net.Conn, error), error) {
		i, err := a.instanceFor(ctx, gatewaySource{}, args)
		return i.endpoint.What, i.endpoint.Connect, err
	})
	add(true, "ztunnel [NODE|POD]", "Forward to the admin pages of a node proxy", atMostOne, func(ctx context.Context, args []string) (string, func(context.Context) (net.Conn, error), error) {
		list, err := a.proxies(ctx, proxySource{}, args)
		if err != nil {
			return "", nil, err
		}
		return list[0].endpoint.What, list[0].endpoint.Connect, nil
	})
	for name, s := range map[string]struct {
		selector, value string
		port            int
	}{"grafana": {"app.kubernetes.io/name", "grafana", 3000}, "prometheus": {"app.kubernetes.io/name", "prometheus", 9090}} {
		add(false, name, "Forward to the "+name+" of the cluster", none, func(ctx context.Context, _ []string) (string, func(context.Context) (net.Conn, error), error) {
			return a.addon(ctx, name, s.selector, s.value, s.port)
		})
	}
}

// ported is a mesh whose pods' ports can be connected to.
type ported interface {
	Port(namespace, pod string, port int) func(context.Context) (net.Conn, error)
}

// addon finds a pod that somebody else installed.
func (a *app) addon(ctx context.Context, name, label, value string, port int) (string, func(context.Context) (net.Conn, error), error) {
	m, err := a.mesh()
	if err != nil {
		return "", nil, err
	}
	f, ok := m.(ported)
	if !ok {
		return "", nil, fmt.Errorf("%s has no %s: it is found in clusters only", m, name)
	}
	pods, err := podsWith(ctx, m, "", label)
	if err != nil {
		return "", nil, err
	}
	for _, p := range pods {
		if v, _ := p.Label(label); v == value && isReady(p) {
			return fmt.Sprintf("%s, pod %s/%s", name, p.Namespace(), p.Name()), f.Port(p.Namespace(), p.Name(), port), nil
		}
	}
	return "", nil, fmt.Errorf("no pod that is ready has label %s=%s: is %s installed?", label, value, name)
}

// forward hands requests on until ctx ends. Pages of other origins may not ask, and with looking nobody may change anything:
// the admin pages know nobody, and everybody on this machine can connect here.
func forward(ctx context.Context, l net.Listener, dial func(context.Context) (net.Conn, error), looking bool) error {
	at := l.Addr().String()
	_, port, _ := net.SplitHostPort(at)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "admin"}) },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }, MaxIdleConns: 8, IdleConnTimeout: 10 * time.Second,
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
		FlushInterval: -1,
	}
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host, p, err := net.SplitHostPort(r.Host); err != nil || p != port || host != "127.0.0.1" && host != "localhost" && host != "::1" {
			http.Error(w, "this is at http://"+at+" only", http.StatusMisdirectedRequest)
			return
		}
		if looking && r.Method != http.MethodGet && r.Method != http.MethodHead {
			http.Error(w, "this address is for looking; ambitctl's commands change things", http.StatusMethodNotAllowed)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	srv := &http.Server{Handler: http.NewCrossOriginProtection().Handler(own), ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	var wg sync.WaitGroup
	ctx, stop := context.WithCancel(ctx)
	wg.Go(func() { <-ctx.Done(); srv.Close() })
	err := srv.Serve(l)
	ended := ctx.Err()
	stop()
	wg.Wait()
	if ended != nil {
		return nil
	}
	return err
}
