package stories

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/e2e/mesh"
)

// rolled restarts the waypoint's pods in order and waits until the old ones are gone.
func (w *world) rolled(change func() error) {
	w.Helper()
	before := w.proxies("shop", "waypoint")
	w.must(change())
	w.must(w.Settled(w.soon(), "Deployment", "shop", "waypoint", nil))
	for _, pod := range before {
		w.gone("shop", pod)
	}
	w.synced()
}

// TestWaypointRollsUnderLoad replaces the waypoint in all the ways an operator does, with one instance and with two: no
// request fails, neither on new connections nor on kept ones.
func TestWaypointRollsUnderLoad(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(1)
	restart := func() error { return w.Restart(w.soon(), "Deployment", "shop", "waypoint") }
	scale := func(n int) func() error {
		return func() error {
			err := w.Scale(w.soon(), "Deployment", "shop", "waypoint", n)
			return errors.Join(err, w.Settled(w.soon(), "Deployment", "shop", "waypoint", nil))
		}
	}
	s := w.storm("shop", "client", url)
	// Some requests take long; whoever is asked to end while they are under way waits for them.
	for _, keep := range []bool{true, false} {
		s.stops = append(s.stops, w.requests(w.client("shop", "client", keep), "POST "+url+"delay?d=1500ms"))
	}
	w.rolled(restart)
	w.must(scale(2)())
	w.rolled(restart)
	w.must(scale(1)())
	w.unharmed(s)
}

// TestWaypointUpgrade gives the waypoint another version by way of its class, as an upgrade of the mesh does.
func TestWaypointUpgrade(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(2)
	s := w.storm("shop", "client", url)
	w.rolled(func() error {
		_, err := w.Apply(w.soon(), []byte(strings.Replace(quickWaypoint, "value: \"5\"", "value: \"4\"", 1)), "shop")
		if err == nil {
			// Until the Deployment is written anew there is nothing to wait for.
			w.eventually("the new template", func() error {
				d, err := w.Get(w.ctx, "Deployment", "shop", "waypoint")
				if err == nil && (len(d) != 1 || !strings.Contains(fmt.Sprint(d[0].At("spec", "template")), "TERMINATION_DRAIN_DURATION_SECONDS value:4")) {
					err = errNotYet
				}
				return err
			})
		}
		return err
	})
	w.unharmed(s)
}

// processOf finds a process in a waypoint's pod by its name: envoy, or ambit-waypoint.
func (w *world) processOf(pod, name string) (pid int) {
	w.Helper()
	w.eventually(name+" to run in "+pod, func() error {
		p, err := w.Pod(w.ctx, "shop", pod)
		if err != nil || len(p.Containers) == 0 || p.Containers[0].Pid == 0 {
			return errors.Join(err, errNotYet)
		}
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range lines {
			data, _ := os.ReadFile(f)
			if program, _, _ := strings.Cut(string(data), "\x00"); filepath.Base(program) != name {
				continue
			}
			if pid, err = strconv.Atoi(filepath.Base(filepath.Dir(f))); err != nil || descends(strconv.Itoa(pid), p.Containers[0].Pid) {
				return err
			}
		}
		return errors.Join(err, errNotYet)
	})
	return pid
}

// instance is the waypoint's pod on a node.
func (w *world) instance(node string) string {
	w.Helper()
	for _, name := range w.proxies("shop", "waypoint") {
		if p, err := w.Pod(w.soon(), "shop", name); err == nil && p.Node == node {
			return name
		}
	}
	w.Fatalf("no waypoint on %s", node)
	return ""
}

// descends says whether a process is an ancestor of another, or it.
func descends(pid string, ancestor int) bool {
	for range 8 {
		if pid == strconv.Itoa(ancestor) {
			return true
		}
		data, err := os.ReadFile("/proc/" + pid + "/stat")
		_, rest, ok := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		if err != nil || !ok || len(fields) < 2 {
			return false
		}
		pid = fields[1]
	}
	return false
}

// recovered waits until everything runs and is in sync again after something was killed.
func (w *world) recovered() {
	w.Helper()
	w.eventually("the mesh to be whole again", func() error {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancel()
		// Whoever was killed a moment ago may still pass for running, and stops answering in between.
		if err := w.DaemonsReady(ctx, nil); err != nil {
			return err
		}
		if err := w.Settled(ctx, "Deployment", "shop", "waypoint", nil); err != nil {
			return err
		}
		return mesh.Synced(ctx, w.Lab, nil)
	})
}

// TestWaypointKilled kills parts of the mesh hard, alone and in pairs, while a service with two waypoints is asked. What
// is not in the path of requests is not noticed; what is, is back by itself, and a second later nothing fails any more.
func TestWaypointKilled(t *testing.T) {
	w := startWaypoints(t, options{nodes: 2})
	url := w.shop(2)
	w.now(churnRule("") + churnRoute(100, 0) + churnPolicy("allow", "{to: [{operation: {methods: [GET, POST]}}]}"))
	daemon := func(name string) func() { return func() { w.must(w.Signal(w.soon(), name, syscall.SIGKILL)) } }
	process := func(node, name string) func() {
		return func() { w.must(syscall.Kill(w.processOf(w.instance(node), name), syscall.SIGKILL)) }
	}
	// The client's node is the first, so the instance there is the one it uses while it can.
	for i, c := range []struct {
		name      string
		kill      []func()
		unnoticed bool
	}{
		{"ambitd and the CA", []func(){daemon("ambitd"), daemon("ambit-ca")}, true},
		{"the Envoy in use", []func(){process("node1", "envoy")}, false},
		{"the agent in use, and ambitd", []func(){daemon("ambitd"), process("node1", "ambit-waypoint")}, false},
		{"the other agent, and the CA", []func(){daemon("ambit-ca"), process("node2", "ambit-waypoint")}, true},
		{"both Envoys", []func(){process("node1", "envoy"), process("node2", "envoy")}, false},
		{"the other ztunnel, and the Envoy in use", []func(){daemon("ztunnel@node2"), process("node1", "envoy")}, false},
		{"the client's ztunnel, and ambitd", []func(){daemon("ambitd"), daemon("ztunnel@node1")}, false},
	} {
		s := w.storm("shop", "client", url)
		// A change is on its way when they die.
		version := []string{"v1", "v2"}[i%2]
		w.apply(churnRoute(100*(1-i%2), 100*(i%2)))
		for _, kill := range c.kill {
			kill()
		}
		w.recovered()
		back := time.Now()
		w.eventually("a second of load", func() error {
			if time.Since(back) < 1200*time.Millisecond {
				return errNotYet
			}
			return nil
		})
		got := s.end()
		if late := got.after(back.Add(time.Second)); len(late) > 0 {
			t.Errorf("%s: errors more than a second after it was back: %v", c.name, late)
		}
		if c.unnoticed && len(got.Errors) > 0 {
			t.Errorf("%s is not in the path, yet: %s", c.name, got)
		}
		t.Logf("%s: %s", c.name, got)
		w.status("shop", "client", "DELETE "+url, http.StatusForbidden)
		if a := w.status("shop", "client", "GET "+url, http.StatusOK); !strings.Contains(a.Body, "Text="+version) {
			t.Errorf("%s: the change of the route got lost: %q", c.name, a.Body)
		}
	}
}
