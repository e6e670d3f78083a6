package supervisor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
)

// probe asks the container how it is until ctx ends: first whether it has started, then whether it is ready and alive.
func (c *container) probe(ctx context.Context, proc *sandbox.Proc) {
	if p := c.spec.StartupProbe; p != nil {
		passed := false
		c.every(ctx, p, func(ok bool) bool {
			passed = ok
			if !ok {
				c.k.s.log.Info("startup probe failed, ending container", "pod", c.k.key.String(), "container", c.spec.Name)
				proc.Stop(c.grace(), c.k.hurry)
			}
			return false
		}, proc)
		if !passed {
			return
		}
		if c.spec.ReadinessProbe == nil {
			c.set(func(st *containerStatus) { st.ready = st.running })
		}
	}
	liveness := make(chan struct{})
	go func() {
		defer close(liveness)
		if p := c.spec.LivenessProbe; p != nil {
			c.every(ctx, p, func(ok bool) bool {
				if !ok {
					c.k.s.log.Info("liveness probe failed, ending container", "pod", c.k.key.String(), "container", c.spec.Name)
					proc.Stop(c.grace(), c.k.hurry)
				}
				return ok
			}, proc)
		}
	}()
	if p := c.spec.ReadinessProbe; p != nil {
		c.every(ctx, p, func(ok bool) bool {
			c.set(func(st *containerStatus) { st.ready = ok && st.running && !c.k.told() })
			return true
		}, proc)
	}
	<-liveness
}

// grace is how long a container may take to end.
func (c *container) grace() time.Duration { return time.Duration(c.k.spec.Grace()) * time.Second }

// every probes until ctx ends or result says stop. result hears of every change of opinion, and the first.
func (c *container) every(ctx context.Context, p *resource.Probe, result func(ok bool) bool, proc *sandbox.Proc) {
	period := time.Duration(cmp.Or(p.PeriodSeconds, 10)) * time.Second
	known, opinion, successes, failures := false, false, 0, 0
	// The first attempts come quickly: most programs are up within a blink, and waiting a whole period for the second
	// look would make every rollout slow.
	wait, quick := time.Duration(p.InitialDelaySeconds)*time.Second, 20*time.Millisecond
	for {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		err := c.ask(ctx, p, proc)
		if ctx.Err() != nil {
			return
		}
		wait = period
		if err == nil {
			successes, failures = successes+1, 0
		} else {
			successes, failures = 0, failures+1
			if !known && quick < period {
				// These do not count: the program has had no time yet.
				wait, quick, failures = quick, 2*quick, 0
			}
		}
		now := opinion
		if successes >= cmp.Or(p.SuccessThreshold, 1) {
			now = true
		}
		if failures >= cmp.Or(p.FailureThreshold, 3) {
			now = false
		} else if failures > 0 && !known {
			continue
		}
		if known && now == opinion || successes == 0 && failures == 0 {
			continue
		}
		known, opinion = true, now
		if !result(now) {
			return
		}
	}
}

// ask probes once, from the node, as a kubelet does.
func (c *container) ask(ctx context.Context, p *resource.Probe, proc *sandbox.Proc) error {
	timeout := time.Duration(cmp.Or(p.TimeoutSeconds, 1)) * time.Second
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case p.Exec != nil && len(p.Exec.Command) > 0:
		code, err := sandbox.Enter(ctx, proc.Pid(), p.Exec.Command, c.k.env(c.spec), c.spec.WorkingDir, sandbox.Stdio{})
		if err == nil && code != 0 {
			err = fmt.Errorf("exit status %d", code)
		}
		return err
	case p.TCPSocket != nil:
		port, ok := c.k.spec.PortNumber(p.TCPSocket.Port)
		if !ok {
			return fmt.Errorf("no port %q", p.TCPSocket.Port)
		}
		conn, err := c.k.dial(ctx, net.JoinHostPort(c.k.addrs[0].String(), strconv.Itoa(port)))
		if err != nil {
			return err
		}
		return conn.Close()
	case p.HTTPGet != nil:
		return c.httpGet(ctx, p)
	}
	return errors.New("probe has no httpGet, tcpSocket or exec")
}

func (c *container) httpGet(ctx context.Context, p *resource.Probe) error {
	port, ok := c.k.spec.PortNumber(p.HTTPGet.Port)
	if !ok {
		return fmt.Errorf("no port %q", p.HTTPGet.Port)
	}
	url := strings.ToLower(cmp.Or(p.HTTPGet.Scheme, "HTTP")) + "://" +
		net.JoinHostPort(c.k.addrs[0].String(), strconv.Itoa(port)) + "/" + strings.TrimPrefix(p.HTTPGet.Path, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, h := range p.HTTPGet.HTTPHeaders {
		req.Header.Set(h.Name, h.Value)
	}
	req.Header.Set("User-Agent", "kube-probe/lab")
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, addr string) (net.Conn, error) { return c.k.dial(ctx, addr) },
		// A kubelet does not verify either: it asks whether the port serves, not who it is.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 10<<10)
	if resp.StatusCode < 200 || resp.StatusCode >= 400 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return nil
}

// dial connects from the node's namespace.
func (k *kubelet) dial(ctx context.Context, addr string) (net.Conn, error) {
	return dialIn(ctx, netspace.Path(k.host.Netns), "tcp", addr)
}

func dialIn(ctx context.Context, ns, network, addr string) (conn net.Conn, err error) {
	err = netspace.Do(ns, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}
