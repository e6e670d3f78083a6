package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/e2e/bench/proc"
	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
)

// Requests and answers of the hop. An answer has 1 KB, as in the data plane's benchmark.
var (
	request  = []byte("GET /items/42 HTTP/1.1\r\nHost: bench.local\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n")
	response = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n%1024d", 42)
)

// way is one way from a client to a server.
type way struct {
	Name string
	// The processes whose CPU counts: node proxies, and Envoy (0 if there is none).
	nodes []int
	envoy int

	client string // network namespace
	addr   string
	tls    *tls.Config // nil: the connection is plaintext, or the mesh's affair
}

// serve answers every request at an address inside a namespace until stopped. With a config it speaks TLS.
func serve(ns, addr string, config *tls.Config) (stop func(), err error) {
	var l net.Listener
	err = netspace.Do(ns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	go func() { // ends with the listener; connections end with their clients
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := newHeads(c)
				for in.next() == nil {
					if _, err := c.Write(response); err != nil {
						return
					}
				}
			}()
		}
	}()
	return func() { l.Close() }, nil
}

// dial opens a connection; inside says that the calling thread is in the client's namespace already.
func (w *way) dial(inside bool) (net.Conn, error) {
	var c net.Conn
	open := func() (err error) {
		c, err = net.DialTimeout("tcp", w.addr, 10*time.Second)
		return err
	}
	do := func() error { return netspace.Do(w.client, open) }
	if inside {
		do = open
	}
	if err := do(); err != nil {
		return nil, err
	}
	// A reset leaves no TIME_WAIT behind, of which there would soon be more than ports.
	c.(*net.TCPConn).SetLinger(0)
	if w.tls == nil {
		return c, nil
	}
	secure := tls.Client(c, w.tls)
	if err := secure.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return secure, nil
}

// once sends one request and reads its answer.
func once(c io.Writer, in *heads) error {
	if _, err := c.Write(request); err != nil {
		return err
	}
	if err := in.next(); err != nil {
		return err
	}
	if in.status != 200 {
		return fmt.Errorf("answered %d", in.status)
	}
	return nil
}

// sample is one measurement of a way. CPU is in seconds for one request.
type sample struct {
	rate, p50, p99    float64
	nodeCPU, envoyCPU float64
	failed            int // workers that ended with an error
}

// warmUp is the part of a sample that does not count.
const warmUp = 100 * time.Millisecond

// keepAlive keeps n connections busy with one request at a time each.
func (w *way) keepAlive(ctx context.Context, n int, length time.Duration) (sample, error) {
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	for i := range conns {
		c, err := w.dial(false)
		if err != nil {
			return sample{}, err
		}
		conns[i] = c
	}
	return w.timed(ctx, n, length, func(i int, more func(error) bool) {
		in := newHeads(conns[i])
		for more(once(conns[i], in)) {
		}
	})
}

// connect opens a connection for each request, n at a time.
func (w *way) connect(ctx context.Context, n int, length time.Duration) (sample, error) {
	return w.timed(ctx, n, length, func(_ int, more func(error) bool) {
		err := netspace.Do(w.client, func() error {
			for {
				c, err := w.dial(true)
				if err == nil {
					err = once(c, newHeads(c))
					c.Close()
				}
				if !more(err) {
					return nil
				}
			}
		})
		if err != nil {
			more(err)
		}
	})
}

// timed runs n workers. Each calls more after every request, with what it came to, until that says no.
func (w *way) timed(ctx context.Context, n int, length time.Duration, work func(i int, more func(error) bool)) (sample, error) {
	var (
		stopped, counting atomic.Bool
		workers           sync.WaitGroup
		mu                sync.Mutex
		all               []time.Duration
		failed            []error
	)
	for i := range n {
		workers.Go(func() {
			took := make([]time.Duration, 0, 1<<15)
			last := time.Now()
			work(i, func(err error) bool {
				now := time.Now()
				if err != nil {
					mu.Lock()
					failed = append(failed, err)
					mu.Unlock()
					return false
				}
				if counting.Load() {
					took = append(took, now.Sub(last))
				}
				last = now
				return !stopped.Load()
			})
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	err := pause(ctx, warmUp)
	nodes, envoy := proc.CPU(w.nodes...), time.Duration(0)
	if w.envoy > 0 {
		envoy = proc.CPU(w.envoy)
	}
	counting.Store(true)
	began := time.Now()
	err = errors.Join(err, pause(ctx, length))
	took := time.Since(began)
	counting.Store(false)
	nodes = proc.CPU(w.nodes...) - nodes
	if w.envoy > 0 {
		envoy = proc.CPU(w.envoy) - envoy
	}
	stopped.Store(true)
	workers.Wait()
	if len(failed) > 0 {
		step("%s: %d of %d connections failed: %v", w.Name, len(failed), n, failed[0])
	}
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no answer within %s", length)
	}
	if err != nil {
		return sample{}, fmt.Errorf("%s: %w", w.Name, err)
	}
	slices.Sort(all)
	count := float64(len(all))
	return sample{
		rate: count / took.Seconds(), p50: all[len(all)/2].Seconds(), p99: all[len(all)*99/100].Seconds(),
		nodeCPU: nodes.Seconds() / count, envoyCPU: envoy.Seconds() / count,
		failed: len(failed),
	}, nil
}
