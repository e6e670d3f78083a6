package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ambit-mesh/ambit/e2e/lab/netspace"
)

// Ports of a server pod.
const (
	sinkPort = 9001 + iota // swallows
	httpPort               // answers requests of one fixed size
	echoPort               // one byte back for each
)

// One request and one answer of the HTTP load. Sizes are fixed so that the load itself costs next to nothing.
var (
	request  = []byte("GET /items/42 HTTP/1.1\r\nHost: bench.local\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n")
	response = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n%1024d", 42)
)

// server is the application of a server pod.
type server struct {
	listeners []net.Listener
	running   sync.WaitGroup
	received  atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func serve(ns string) (*server, error) {
	s := &server{conns: map[net.Conn]bool{}}
	for port, handle := range map[int]func(net.Conn){sinkPort: s.sink, httpPort: s.http, echoPort: s.echo} {
		var ln net.Listener
		err := netspace.Do(ns, func() (err error) {
			ln, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
			return err
		})
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners = append(s.listeners, ln)
		s.running.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				s.mu.Lock()
				s.conns[c] = true
				s.mu.Unlock()
				s.running.Go(func() {
					handle(c)
					c.Close()
					s.mu.Lock()
					delete(s.conns, c)
					s.mu.Unlock()
				})
			}
		})
	}
	return s, nil
}

func (s *server) close() {
	for _, ln := range s.listeners {
		ln.Close()
	}
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *server) sink(c net.Conn) {
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		s.received.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func (s *server) http(c net.Conn) {
	buf := make([]byte, len(request))
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(response); err != nil {
			return
		}
	}
}

func (s *server) echo(c net.Conn) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		if _, err := c.Write(b[:]); err != nil {
			return
		}
	}
}

// warmUp is the part of a sample that does not count.
const warmUp = 150 * time.Millisecond

// sample is one measurement of one path.
type sample struct {
	rate     float64 // per second
	cpu      float64 // seconds of the proxies, per unit
	p50, p99 float64 // seconds
}

// over runs work in n goroutines with a connection each until the sample is over, and returns how many units were done
// in the part that counts, and what the proxies used for them.
func (w *world) over(ctx context.Context, p *path, n, port int, count func() int64, work func(c *net.TCPConn, stop func() bool, counting func() bool)) (sample, error) {
	conns := make([]*net.TCPConn, 0, n)
	defer p.rest(ctx)
	defer func() {
		for _, c := range conns {
			c.SetLinger(0) // what is still on the way must not run into the next sample
			c.Close()
		}
	}()
	for range n {
		c, err := p.dial(port)
		if err != nil {
			return sample{}, fmt.Errorf("%s: %w", p.Name, err)
		}
		conns = append(conns, c)
	}
	return w.timed(ctx, p, n, count, func(i int, stop, counting func() bool) error {
		work(conns[i], stop, counting)
		return nil
	}, func() {
		for _, c := range conns {
			c.SetDeadline(time.Now())
		}
	})
}

func (w *world) timed(ctx context.Context, p *path, n int, count func() int64, work func(i int, stop, counting func() bool) error, interrupt func()) (sample, error) {
	var stopped, counting atomic.Bool
	var workers sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		workers.Go(func() {
			if err := work(i, stopped.Load, counting.Load); err != nil {
				errs <- err
			}
		})
	}
	end := func() {
		stopped.Store(true)
		interrupt()
		workers.Wait()
	}
	if err := pause(ctx, warmUp); err != nil {
		end()
		return sample{}, err
	}
	counting.Store(true)
	cpu, err := w.cpu(ctx, p)
	before, start := count(), time.Now()
	err = errors.Join(err, pause(ctx, w.cfg.sample))
	done, took := count()-before, time.Since(start).Seconds()
	counting.Store(false)
	after, cerr := w.cpu(ctx, p)
	end()
	select {
	case werr := <-errs:
		err = errors.Join(err, werr)
	default:
	}
	if err = errors.Join(err, cerr); err != nil {
		return sample{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	if done == 0 {
		return sample{}, fmt.Errorf("%s: nothing arrived in %s", p.Name, w.cfg.sample)
	}
	return sample{rate: float64(done) / took, cpu: (after - cpu) / float64(done)}, nil
}

// rest waits until the server has seen the end of all connections.
func (p *path) rest(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := poll(ctx, "connections to end", func() error {
		p.app.mu.Lock()
		defer p.app.mu.Unlock()
		if n := len(p.app.conns); n > 0 {
			return fmt.Errorf("%d are left", n)
		}
		return nil
	})
	if err != nil {
		step("%s: %v", p.Name, err)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bulk sends as fast as n connections take it.
func (w *world) bulk(ctx context.Context, p *path, n int) (sample, error) {
	data := make([]byte, 256<<10)
	return w.over(ctx, p, n, sinkPort, p.app.received.Load, func(c *net.TCPConn, stop, _ func() bool) {
		for !stop() {
			if _, err := c.Write(data); err != nil {
				return
			}
		}
	})
}

// http keeps n connections busy with one request at a time each.
func (w *world) http(ctx context.Context, p *path, n int) (sample, error) {
	var requests atomic.Int64
	var mu sync.Mutex
	var all []time.Duration
	s, err := w.over(ctx, p, n, httpPort, requests.Load, func(c *net.TCPConn, stop, counting func() bool) {
		buf := make([]byte, len(response))
		took := make([]time.Duration, 0, 1<<16)
		for !stop() {
			start := time.Now()
			if _, err := c.Write(request); err != nil {
				break
			}
			if _, err := io.ReadFull(c, buf); err != nil {
				break
			}
			requests.Add(1)
			if counting() {
				took = append(took, time.Since(start))
			}
		}
		mu.Lock()
		all = append(all, took...)
		mu.Unlock()
	})
	if err != nil || len(all) == 0 {
		return s, err
	}
	slices.Sort(all)
	s.p50, s.p99 = all[len(all)/2].Seconds(), all[len(all)*99/100].Seconds()
	return s, nil
}

// connect opens connections one after the other in n workers, each carrying one byte there and back.
func (w *world) connect(ctx context.Context, p *path, n int) (sample, error) {
	var opened atomic.Int64
	addr := net.JoinHostPort(p.server, strconv.Itoa(echoPort))
	return w.timed(ctx, p, n, opened.Load, func(_ int, stop, _ func() bool) error {
		return netspace.Do(p.client, func() error {
			var b [1]byte
			for !stop() {
				c, err := net.DialTimeout("tcp", addr, 10*time.Second)
				if err != nil {
					return err
				}
				c.Write(b[:])
				_, err = io.ReadFull(c, b[:])
				// A reset leaves no TIME_WAIT behind, of which there would soon be more than ports.
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
				if err != nil && !stop() {
					return err
				}
				opened.Add(1)
			}
			return nil
		})
	}, func() {})
}

// idle opens connections, lets them rest, and returns what each costs the proxies in memory, the client's first.
func (w *world) idle(ctx context.Context, p *path) ([]float64, error) {
	before, err := w.memory(ctx, p)
	if err != nil {
		return nil, err
	}
	var conns []*net.TCPConn
	defer p.rest(ctx)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range w.cfg.idle {
		c, err := p.dial(echoPort)
		if err != nil {
			return nil, fmt.Errorf("%s: connection %d: %w", p.Name, len(conns), err)
		}
		conns = append(conns, c)
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Write([]byte{1})
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return nil, fmt.Errorf("%s: connection %d: %w", p.Name, len(conns), err)
		}
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return nil, err
	}
	w.fetch(ctx, p, "idle", "heap?gc=1&debug=1")()
	after, err := w.memory(ctx, p)
	for i := range after {
		after[i] = (after[i] - before[i]) / float64(w.cfg.idle)
	}
	return after, err
}
