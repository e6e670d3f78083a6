package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const page = "http://productpage:9080/productpage"

// cast is where the players of the story are.
type cast struct {
	node map[string]string // of a pod, by its app label
	name map[string]string
}

// story is the demo, one chapter after the other. Each ends with a check of its own, so that a demo that prints lies
// fails instead.
func story(ctx context.Context, s *stage) error {
	for _, chapter := range []func(context.Context, *stage) error{
		begin, plaintext, enrol, encrypted, identities, authorize, strict, cut, restart,
		deploy, split, requests, tokens, outside,
	} {
		if err := chapter(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func begin(ctx context.Context, s *stage) error {
	s.step("Three nodes, a control plane, a CA", "Nodes and pods are network namespaces; everything else is the real programs.")
	if _, err := s.show(ctx, 8, fmt.Sprintf("ambitctl lab up %s --nodes 3", s.lab)); err != nil {
		return err
	}
	s.step("Bookinfo, from ordinary manifests", "And two clients: one in the shop's namespace, one outside.")
	if _, err := s.show(ctx, 3, "ambitctl lab apply -f "+s.samples+"/bookinfo"); err != nil {
		return err
	}
	// Something that keeps a connection open, which bookinfo does not.
	if _, err := s.show(ctx, 3, "ambitctl lab apply -n bookinfo -f "+s.samples+"/echo.yaml"); err != nil {
		return err
	}
	if _, err := s.output(ctx, "ambitctl lab wait"); err != nil {
		return err
	}
	_, err := s.show(ctx, 12, "ambitctl lab get pods -n bookinfo")
	return err
}

// find learns where the pods are.
func find(ctx context.Context, s *stage) (cast, error) {
	out, err := s.output(ctx, "ambitctl lab get pods -A -o json")
	if err != nil {
		return cast{}, err
	}
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Spec struct{ NodeName string }
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return cast{}, fmt.Errorf("list of pods: %w", err)
	}
	c := cast{node: map[string]string{}, name: map[string]string{}}
	for _, p := range list.Items {
		app := p.Metadata.Labels["app"]
		c.node[app], c.name[app] = p.Spec.NodeName, p.Metadata.Name
	}
	for _, app := range []string{"client", "outsider", "productpage", "reviews"} {
		if c.name[app] == "" {
			return c, fmt.Errorf("there is no pod of app %s", app)
		}
	}
	return c, nil
}

// watched captures a node's link while a pod fetches the page.
func watched(ctx context.Context, s *stage, node string) (string, error) {
	tap, err := s.start(ctx, "ambitctl lab capture "+node+" --seconds 2")
	if err != nil {
		return "", err
	}
	// Until the capture has ended, so that it cannot miss us whenever it began.
	done := make(chan struct{})
	var report string
	var tapErr error
	go func() {
		defer close(done)
		report, tapErr = tap.wait(ctx)
	}()
	s.typed("ambitctl lab exec -n bookinfo client -- ambit-echo get " + page)
	for {
		if _, err := s.output(ctx, "ambitctl lab exec -n bookinfo client -- ambit-echo get "+page); err != nil {
			return "", err
		}
		select {
		case <-done:
			s.print(report, 12)
			return report, tapErr
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func plaintext(ctx context.Context, s *stage) error {
	c, err := find(ctx, s)
	if err != nil {
		return err
	}
	s.step("Before: everything is readable on the wire", "The link of "+c.node["client"]+", where the client runs, while it fetches the page:")
	report, err := watched(ctx, s, c.node["client"])
	if err != nil {
		return err
	}
	if !strings.Contains(report, "HTTP, readable") {
		return errors.New("the request was expected to be readable")
	}
	s.proof("anybody between the nodes reads requests and answers")
	return nil
}

func enrol(ctx context.Context, s *stage) error {
	s.step("Into the mesh: one label, running pods, no restart", "A connection that is open, and new ones all the time, while the pods are captured:")
	hold, err := s.start(ctx, "ambitctl lab exec -n bookinfo client -- ambit-echo hold --duration 4s echo:9000")
	if err != nil {
		return err
	}
	loop, err := s.start(ctx, "ambitctl lab exec -n bookinfo client -- ambit-echo loop -q --rate 50 --duration 4s http://productpage:9080/health")
	if err != nil {
		return err
	}
	if _, err := s.show(ctx, 3, "ambitctl lab label namespace bookinfo istio.io/dataplane-mode=ambient"); err != nil {
		return err
	}
	if _, err := s.output(ctx, "ambitctl lab wait"); err != nil {
		return err
	}
	out, err := loop.wait(ctx)
	s.print(out, 6)
	if err != nil {
		return fmt.Errorf("new connections during enrolment: %w", err)
	}
	out, err = hold.wait(ctx)
	s.print(out, 4)
	if err != nil {
		return fmt.Errorf("the open connection: %w", err)
	}
	s.proof("no connection was lost, neither the open one nor a new one (what was open stays as it was: plaintext, to its end)")
	_, err = s.show(ctx, 14, "ambitctl ztunnel-config workload")
	return err
}

func encrypted(ctx context.Context, s *stage) error {
	c, err := find(ctx, s)
	if err != nil {
		return err
	}
	s.step("After: the same request on the same wire", "")
	report, err := watched(ctx, s, c.node["client"])
	if err != nil {
		return err
	}
	if strings.Contains(report, "HTTP, readable") || !strings.Contains(report, ":15008") {
		return errors.New("only TLS to port 15008 was expected")
	}
	s.proof("only TLS to port 15008: HBONE, one tunnel for each pair of pods")
	return nil
}

func identities(ctx context.Context, s *stage) error {
	c, err := find(ctx, s)
	if err != nil {
		return err
	}
	s.step("Who is talking", "Each pod speaks as its service account; both ends prove it. From the proxy of "+c.node["productpage"]+":")
	out, err := s.show(ctx, 6, fmt.Sprintf(`ambitctl lab logs daemon/ztunnel@%s | grep 'direction="inbound"' | grep sa/client | tail -1 | tr '\t ' '\n' | grep -E 'identity|dst.service'`, c.node["productpage"]))
	if err != nil {
		return err
	}
	if !strings.Contains(out, "spiffe://cluster.local/ns/bookinfo/sa/client") || !strings.Contains(out, "sa/bookinfo-productpage") {
		return errors.New("both identities were expected")
	}
	s.proof("both ends have proved who they are")
	_, err = s.show(ctx, 8, "ambitctl ztunnel-config certificate --node "+c.node["productpage"])
	return err
}

func authorize(ctx context.Context, s *stage) error {
	s.step("Who may talk to whom", "Reviews shall answer the product page and nobody else:")
	if _, err := s.show(ctx, 3, "ambitctl lab apply -f "+s.samples+"/policies/only-productpage.yaml"); err != nil {
		return err
	}
	get := "ambitctl lab exec -n bookinfo client -- ambit-echo get http://reviews:9080/reviews/0"
	if err := until(ctx, "the policy", func() (bool, error) { _, err := s.output(ctx, get); return err != nil, err }); err != nil {
		return err
	}
	if err := s.fails(ctx, 2, get); err != nil {
		return err
	}
	out, err := s.show(ctx, 3, "ambitctl lab exec -n bookinfo client -- ambit-echo get "+page+" | grep -c blockquote")
	if err != nil || strings.TrimSpace(out) == "0" {
		return fmt.Errorf("the product page was expected to have reviews: %w", err)
	}
	s.note("And the reason, at the proxy that refused:")
	out, err = s.show(ctx, 3, `for n in node1 node2 node3; do ambitctl lab logs daemon/ztunnel@$n; done | grep error= | grep inbound | tail -1 | grep -oE 'src.identity="[^"]*"|error=.*'`)
	if err != nil {
		return err
	}
	if !strings.Contains(out, "allow policies exist, but none allowed") {
		return errors.New("the reason was expected in the log")
	}
	s.proof("the client is refused by name, the product page is served")
	return nil
}

func strict(ctx context.Context, s *stage) error {
	s.step("No plaintext any more", "The outsider is not in the mesh. So far it gets through:")
	get := "ambitctl lab exec -n outside outsider -- ambit-echo get http://productpage.bookinfo:9080/health"
	if _, err := s.show(ctx, 2, get); err != nil {
		return err
	}
	if _, err := s.show(ctx, 2, "ambitctl lab apply -f "+s.samples+"/policies/strict.yaml"); err != nil {
		return err
	}
	if err := until(ctx, "STRICT", func() (bool, error) { _, err := s.output(ctx, get); return err != nil, err }); err != nil {
		return err
	}
	if err := s.fails(ctx, 2, get); err != nil {
		return err
	}
	if _, err := s.show(ctx, 1, "ambitctl lab exec -n bookinfo client -- ambit-echo get http://productpage:9080/health"); err != nil {
		return err
	}
	s.proof("STRICT refuses plaintext; inside the mesh nothing changes")
	return nil
}

func cut(ctx context.Context, s *stage) error {
	s.step("A policy change reaches connections that are open", "The client holds a connection, then its account is put in quarantine:")
	hold, err := s.start(ctx, "ambitctl lab exec -n bookinfo client -- ambit-echo hold --duration 15s echo:9000")
	if err != nil {
		return err
	}
	conns := "ambitctl ztunnel-config connections --direction outbound"
	if err := until(ctx, "the connection", func() (bool, error) {
		out, err := s.output(ctx, conns)
		return strings.Contains(out, "client"), err
	}); err != nil {
		return err
	}
	if _, err := s.show(ctx, 4, conns); err != nil {
		return err
	}
	if _, err := s.show(ctx, 2, "ambitctl lab apply -f "+s.samples+"/policies/quarantine-client.yaml"); err != nil {
		return err
	}
	out, err := hold.wait(ctx)
	s.print(out, 3)
	if err == nil {
		return errors.New("the connection was expected to be cut")
	}
	s.proof("it was cut when the policy arrived")
	_, err = s.show(ctx, 2, "ambitctl lab delete -f "+s.samples+"/policies/quarantine-client.yaml")
	return err
}

func restart(ctx context.Context, s *stage) error {
	s.step("A new ztunnel that nobody notices", "The proxies of all nodes are replaced, one after the other, under load:")
	if err := until(ctx, "the client to be let in again", func() (bool, error) {
		_, err := s.output(ctx, "ambitctl lab exec -n bookinfo client -- ambit-echo get http://productpage:9080/health")
		return err == nil, err
	}); err != nil {
		return err
	}
	loop, err := s.start(ctx, "ambitctl lab exec -n bookinfo client -- ambit-echo loop -q --rate 100 --duration 5s http://productpage:9080/health")
	if err != nil {
		return err
	}
	for _, node := range []string{"node1", "node2", "node3"} {
		if _, err := s.show(ctx, 2, "ambitctl lab rollout restart ztunnel "+node); err != nil {
			return err
		}
	}
	out, err := loop.wait(ctx)
	s.print(out, 6)
	if err != nil {
		return fmt.Errorf("new connections during the restarts: %w", err)
	}
	s.proof("not one new connection failed")
	return nil
}

// next says what to try, once everything stays up.
func (s *stage) next(took time.Duration) {
	s.step("What to try next", fmt.Sprintf("The mesh stays up (%.0f s so far). With bin/ in your PATH and AMBIT_LAB=%s:", took.Seconds(), s.lab))
	for _, line := range []string{
		"ambitctl ztunnel-config all                      # what the proxies know",
		"ambitctl lab fail ztunnel node2; ambitctl lab heal",
		"ambitctl lab capture node1 -w /tmp/node1.pcap",
		"ambitctl proxy-config route waypoint.bookinfo   # what the waypoint does",
		"ambitctl lab apply -f YOUR.yaml; ambitctl config refused",
		"ambitctl lab down " + s.lab,
	} {
		fmt.Fprintf(s.out, "    %s %s\n", s.paint("2", "$"), line)
	}
}
