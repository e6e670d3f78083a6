//go:build kind

package kind

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// says runs ambitctl and expects words in what it prints.
func (c *cluster) says(args string, want ...string) {
	c.Helper()
	c.eventually("ambitctl "+args+" says "+strings.Join(want, ", "), func() error {
		out, stderr, err := c.try(strings.Fields(args)...)
		if err != nil {
			return fmt.Errorf("%w: %s%s", err, out, stderr)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				return fmt.Errorf("no %q in:\n%s%s", w, out, stderr)
			}
		}
		return nil
	})
}

// fails runs ambitctl and expects that it finds something wrong, in words. It is asked again until it does.
func (c *cluster) fails(args string, want ...string) {
	c.Helper()
	c.eventually("ambitctl "+args+" finds "+strings.Join(want, ", "), func() error {
		out, stderr, err := c.try(strings.Fields(args)...)
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 79 {
			return fmt.Errorf("it does not say that something has failed: %v: %s%s", err, out, stderr)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				return fmt.Errorf("no %q in:\n%s%s", w, out, stderr)
			}
		}
		return nil
	})
}

// TestCommands runs every command that looks into a mesh against the cluster.
func TestCommands(t *testing.T) {
	c := open(t)
	c.shop("ctl")
	c.says("version", "client version: ", "control plane version: ", "data plane version: ")
	c.says("proxy-status", "ISTIOD", "ztunnel-", "ambitd-", "2 (WADS,WDS)")
	c.says("proxy-status -v 1", "SYNCED")
	c.says("ztunnel-config workloads --workload-namespace ctl", "client", "HBONE")
	c.says("ztunnel-config services --service-namespace ctl", "web", "3/3")
	c.says("ztunnel-config certificates client.ctl", "ns/ctl/sa/client", "Leaf", "Available")
	c.says("ztunnel-config policies", "POLICY NAME")
	c.says("ztunnel-config connections client.ctl", "WORKLOAD")
	c.says("ztunnel-config all client.ctl --with-headers", "# workloads", "# certificates")
	c.says("ztunnel-config log client.ctl --level info,access:debug", "access=debug")
	c.says("ztunnel-config log client.ctl --reset", "current log level is info")
	c.says("enrolment -n ctl", "is labelled istio.io/dataplane-mode=ambient", "in ")
	c.says("ca status", "trust domain: ", "Issuer")
	c.says("ca roots", "BEGIN CERTIFICATE")

	if _, stderr, err := c.try("ztunnel-config", "certificates", "nobody.ctl"); err == nil || !strings.Contains(stderr, "neither a node of") {
		t.Errorf("a pod that is not there: %v, %s", err, stderr)
	}
	if _, stderr, err := c.try("proxy-status", "-i", "elsewhere"); err == nil || !strings.Contains(stderr, "runs no control plane") {
		t.Errorf("another namespace: %v, %s", err, stderr)
	}
}

// TestWaypointCommands sets a waypoint up, looks into it, and deletes it.
func TestWaypointCommands(t *testing.T) {
	c := open(t)
	url := c.shop("ctl-waypoint")
	c.says("waypoint apply -n ctl-waypoint --enroll-namespace --wait", "waypoint ctl-waypoint/waypoint is ready!", `labeled with "istio.io/use-waypoint: waypoint"`)
	c.answers("ctl-waypoint", "client", url)
	c.says("waypoint list -A", "ctl-waypoint", "waypoint")
	c.says("waypoint status -n ctl-waypoint", "Programmed")
	c.says("proxy-status waypoint.ctl-waypoint", "Gateway match (1)")
	for what, want := range map[string]string{
		"route": "web.ctl-waypoint", "cluster": "web.ctl-waypoint.svc.cluster.local", "listener": "connect_terminate", "endpoint": "|web.ctl-waypoint.svc.cluster.local",
		"secret": "ACTIVE", "ecds": "ECDS NAME", "bootstrap": "bootstrap", "all": "connect_terminate", "problems": "in force", "log": "current log level",
	} {
		c.says("proxy-config "+what+" waypoint.ctl-waypoint", want)
	}
	c.says("proxy-config log waypoint.ctl-waypoint --level rbac:debug", "rbac:debug")
	c.apply("ctl-waypoint", `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: lost}
spec:
  hosts: [web]
  http: [{match: [{uri: {prefix: /lost}}], route: [{destination: {host: nowhere}}]}, {route: [{destination: {host: web}}]}]
`)
	c.says("config refused -n ctl-waypoint", "VirtualService ctl-waypoint/lost", "nowhere")
	c.says("config status -n ctl-waypoint", "WaypointBound")
	c.says("waypoint delete -n ctl-waypoint waypoint", "waypoint ctl-waypoint/waypoint deleted")
	c.says("waypoint list -n ctl-waypoint", "No waypoints found.")
}

// TestExplainAgrees compares what explain says with what happens to the same request.
func TestExplainAgrees(t *testing.T) {
	c := open(t)
	c.shop("ctl-explain")
	c.apply("ctl-explain", plain("stranger"))
	c.ready("ctl-explain", "role=client")
	c.captured("ctl-explain", "")
	c.says("waypoint apply -n ctl-explain --enroll-namespace --wait", "is ready!")
	c.apply("ctl-explain", `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRefs: [{kind: Service, group: "", name: web}]
  action: ALLOW
  rules:
  - from: [{source: {principals: [cluster.local/ns/ctl-explain/sa/client]}}]
    to: [{operation: {methods: [GET], paths: ["/", "/open*"]}}]
`)
	pod := net.JoinHostPort(c.pods("ctl-explain", "app=web")[0].Status.PodIP, "8080")
	for _, q := range []struct {
		from, url string
		flags     []string
	}{
		{"client", "http://web.ctl-explain/", nil},
		{"client", "http://web.ctl-explain/open/x", nil},
		{"client", "http://web.ctl-explain/closed", nil},
		{"client", "http://web.ctl-explain/", []string{"-X", "POST"}},
		{"stranger", "http://web.ctl-explain/", nil},
		{"client", "http://" + pod + "/", nil}, // around the waypoint
		{"client", "http://web.ctl-explain:81/", nil},
	} {
		what := q.from + " " + q.url + " " + strings.Join(q.flags, " ")
		c.eventually("explain agrees about "+what, func() error {
			_, failed := c.fetch("ctl-explain", q.from, q.url, q.flags...)
			out, stderr, err := c.try(append([]string{"explain", q.from + ".ctl-explain", q.url, "-o", "json"}, q.flags...)...)
			if exit := (*exec.ExitError)(nil); err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 79) {
				return fmt.Errorf("%w: %s%s", err, out, stderr)
			}
			var e struct{ Allowed bool }
			if err := json.Unmarshal([]byte(out), &e); err != nil {
				return err
			}
			if e.Allowed != (failed == nil) {
				return fmt.Errorf("explain says allowed: %v, the request: %v\n%s", e.Allowed, failed, out)
			}
			return nil
		})
	}
}
