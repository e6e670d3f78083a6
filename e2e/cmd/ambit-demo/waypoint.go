package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// The second act: what needs to see requests.
const (
	reviews = "http://reviews:9080/reviews/0"
	fromPod = "ambitctl lab exec -n bookinfo client -- ambit-echo "
)

// deploy puts a waypoint in front of the shop.
func deploy(ctx context.Context, s *stage) error {
	s.step("A waypoint: from connections to requests", "Whatever a label names goes through it; pods and callers stay as they are.")
	// The policy of step 7 names the client as it did before: the proxies behind the waypoint know whom it speaks for.
	if _, err := s.show(ctx, 2, "ambitctl lab delete -f "+s.samples+"/policies/only-productpage.yaml"); err != nil {
		return err
	}
	if _, err := s.show(ctx, 4, "ambitctl waypoint apply -n bookinfo --enroll-namespace --wait"); err != nil {
		return err
	}
	if _, err := s.output(ctx, "ambitctl lab wait"); err != nil {
		return err
	}
	out, err := s.show(ctx, 6, fromPod+"get -i "+reviews+" | sed '/^{/d'")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "istio-envoy") || !strings.Contains(out, " 200 ") {
		return fmt.Errorf("the answer did not come through the waypoint:\n%s", out)
	}
	s.proof("the same service, now behind an unmodified Envoy, with mutual TLS on both sides of it")
	return nil
}

// counts reads a tally.
func counts(out string) map[string]int {
	kinds := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^ *(\d+)  (.+)$`).FindAllStringSubmatch(out, -1) {
		n, err := strconv.Atoi(m[1])
		if err == nil {
			kinds[m[2]] = n
		}
	}
	return kinds
}

// apply applies a sample and waits until it is in force.
func apply(ctx context.Context, s *stage, sample string) error {
	if _, err := s.show(ctx, 3, "ambitctl lab apply -f "+s.samples+"/waypoint/"+sample); err != nil {
		return err
	}
	_, err := s.output(ctx, "ambitctl lab wait")
	return err
}

// split sends a tenth of the requests to a new version.
func split(ctx context.Context, s *stage) error {
	s.step("A tenth of the requests for the new version", "VirtualService and DestinationRule, as they are written for Istio; an HTTPRoute does it as well.")
	if err := apply(ctx, s, "reviews-90-10.yaml"); err != nil {
		return err
	}
	out, err := s.show(ctx, 4, fromPod+"tally -n 200 --by version "+reviews)
	if err != nil {
		return err
	}
	got := counts(out)
	if got["200 v1"]+got["200 v2"] != 200 || got["200 v2"] < 4 || got["200 v2"] > 50 {
		return fmt.Errorf("200 requests were to go 9 to 1 to v1 and v2:\n%s", out)
	}
	if _, err := s.show(ctx, 3, "ambitctl proxy-config route --name reviews"); err != nil {
		return err
	}
	s.proof("%d to v1, %d to v2", got["200 v1"], got["200 v2"])
	return nil
}

// requests allows a method, and shows that there is no way around.
func requests(ctx context.Context, s *stage) error {
	s.step("Read, but do not write; and no way around", "A policy bound to a service is enforced by its waypoint, and the pods' own proxies let nobody past it.")
	if err := apply(ctx, s, "reviews-read-only.yaml"); err != nil {
		return err
	}
	read, err := s.show(ctx, 2, fromPod+"tally -n 1 "+reviews)
	if err != nil {
		return err
	}
	written, err := s.show(ctx, 2, fromPod+"tally -n 1 -X POST "+reviews)
	if err != nil {
		return err
	}
	if counts(read)["200"] != 1 || counts(written)["403"] != 1 {
		return fmt.Errorf("GET was to be allowed and POST refused:\n%s%s", read, written)
	}
	out, err := s.output(ctx, "ambitctl ztunnel-config workload --workload-namespace bookinfo | awk '/ reviews-v1-/ {print $3, $4}'")
	if err != nil {
		return err
	}
	address, node, ok := strings.Cut(strings.TrimSpace(out), " ")
	if !ok {
		return fmt.Errorf("there is no pod of reviews-v1: %q", out)
	}
	s.typed(fromPod + "get http://" + address + ":9080/reviews/0")
	if out, err := s.output(ctx, fromPod+"get http://"+address+":9080/reviews/0"); err == nil {
		return fmt.Errorf("the pod answered to its own address:\n%s", out)
	}
	log, err := s.output(ctx, "ambitctl lab logs daemon/ztunnel@"+node+" | grep waypoint-required | grep -o 'error=.*' | tail -1")
	if err != nil || !strings.Contains(log, "reviews-read-only") {
		return fmt.Errorf("the refusal has no reason in the log of %s: %w\n%s", node, err, log)
	}
	s.print(log, 1)
	s.proof("GET is allowed, POST is refused, and the pod's own address is no way around")
	return nil
}

// tokens requires one, and routes by what it says.
func tokens(ctx context.Context, s *stage) error {
	s.step("Tokens, and what they claim", "Details want a token; editors see the third version of reviews.")
	if err := apply(ctx, s, "details-need-token.yaml"); err != nil {
		return err
	}
	bearer := func(who string) string {
		return `-H "Authorization: Bearer $(cat ` + s.samples + "/waypoint/jwt/" + who + `.jwt)" `
	}
	for _, try := range []struct{ flags, want string }{{"", "403"}, {bearer("expired"), "401"}, {bearer("reader"), "200"}} {
		out, err := s.show(ctx, 2, fromPod+"tally -n 1 "+try.flags+"http://details:9080/details/0")
		if err != nil {
			return err
		}
		if counts(out)[try.want] != 1 {
			return fmt.Errorf("the answer was to be %s:\n%s", try.want, out)
		}
	}
	if err := apply(ctx, s, "reviews-by-claim.yaml"); err != nil {
		return err
	}
	out, err := s.show(ctx, 2, fromPod+"tally -n 10 --by version "+bearer("editor")+reviews)
	if err != nil {
		return err
	}
	if counts(out)["200 v3"] != 10 {
		return fmt.Errorf("an editor was to see version 3:\n%s", out)
	}
	s.proof("no token 403, an expired one 401, a good one 200; an editor's chooses the route")
	return nil
}

// outside lets clients in that are not in the mesh.
func outside(ctx context.Context, s *stage) error {
	s.step("The way in from outside", "A Gateway of class istio, from a host that has no part in the mesh:")
	if err := apply(ctx, s, "ingress.yaml"); err != nil {
		return err
	}
	out, err := s.output(ctx, `ambitctl lab get service public-istio -n bookinfo -o json | grep -o '"ip": *"[^"]*"' | head -1 | cut -d'"' -f4`)
	if err != nil {
		return err
	}
	address := strings.TrimSpace(out)
	out, err = s.show(ctx, 2, `ambitctl lab exec control -- curl -s -o /dev/null -w '%{http_code}\n' -H 'Host: www.bookinfo.example' `+
		`-H "Authorization: Bearer $(cat `+s.samples+`/waypoint/jwt/reader.jwt)" http://`+address+"/productpage")
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) != "200" {
		return fmt.Errorf("the page was to be served to the outside, the answer is %s", out)
	}
	s.proof("the page is served at %s, through gateway, waypoint and node proxies", address)
	return nil
}
