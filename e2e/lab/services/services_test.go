package services

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/ambit-mesh/ambit/e2e/lab/resource"
)

func parse(t *testing.T, doc string) resource.Object {
	t.Helper()
	o, err := resource.Parse([]byte(doc), "shop")
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func pod(name string, ready bool, addr ...string) Pod {
	p := Pod{Namespace: "shop", Name: name, Labels: map[string]string{"app": "web"}, Ready: ready, Hostname: name, Subdomain: "all",
		Spec: &resource.PodSpec{Containers: []resource.Container{{Name: "c", Ports: []resource.Port{{Name: "http", ContainerPort: 8080}}}}}}
	for _, a := range addr {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	return p
}

func TestResolve(t *testing.T) {
	objects := []resource.Object{
		parse(t, "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.1.1, selector: {app: web}, ports: [{name: a, port: 80, targetPort: http}, {name: b, port: 81}, {name: c, port: 82, targetPort: nope}]}}"),
		parse(t, "{apiVersion: v1, kind: Service, metadata: {name: all}, spec: {clusterIP: None, publishNotReadyAddresses: true, selector: {app: web}}}"),
		parse(t, "{apiVersion: v1, kind: Service, metadata: {name: outside}, spec: {clusterIP: 10.96.1.2, ports: [{port: 5432}]}}"),
	}
	endpoints := []resource.Object{parse(t, `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: outside}},
  ports: [{port: 15432}], endpoints: [{addresses: [172.30.0.9]}, {addresses: [172.30.0.8], conditions: {ready: false}}, {addresses: [nonsense]}]}`)}
	pods := []Pod{pod("p2", true, "10.244.2.2", "fd00::2"), pod("p1", true, "10.244.1.2"), pod("p3", false, "10.244.3.2")}
	var out strings.Builder
	for _, s := range Resolve(objects, endpoints, pods) {
		fmt.Fprintf(&out, "%s/%s %v", s.Namespace, s.Name, s.VIPs)
		for _, p := range s.Ports {
			fmt.Fprintf(&out, " %d%v", p.Number, p.Endpoints)
		}
		fmt.Fprintf(&out, " %d hosts\n", len(s.Hosts))
	}
	want := `shop/all [] 4 hosts
shop/outside [10.96.1.2] 5432[172.30.0.9:15432] 1 hosts
shop/web [10.96.1.1] 80[10.244.1.2:8080 10.244.2.2:8080 [fd00::2]:8080] 81[10.244.1.2:81 10.244.2.2:81 [fd00::2]:81] 82[] 3 hosts
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestAllocate(t *testing.T) {
	doc := "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {%s ports: [{port: 80}]}}"
	first := parse(t, fmt.Sprintf(doc, ""))
	taken := map[netip.Addr]string{}
	if changed, err := Allocate(first, taken, true); !changed || err != nil {
		t.Fatalf("changed %v, %v", changed, err)
	}
	a := Addresses(first)
	if len(a) != 2 || !a[0].Is4() || !a[1].Is6() {
		t.Fatalf("addresses %v", a)
	}
	if changed, err := Allocate(first, taken, true); changed || err != nil {
		t.Errorf("again: changed %v, %v", changed, err)
	}
	taken[a[0]] = "shop/other"
	second := parse(t, fmt.Sprintf(doc, ""))
	if _, err := Allocate(second, taken, false); err != nil || Addresses(second)[0] == a[0] {
		t.Errorf("%v was given twice, %v", a[0], err)
	}
	for spec, want := range map[string]string{
		"clusterIP: " + a[0].String() + ",": "is taken by Service shop/other",
		"clusterIP: 192.0.2.1,":             "is not in 10.96.0.0/16",
	} {
		if _, err := Allocate(parse(t, fmt.Sprintf(doc, spec)), taken, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	headless := parse(t, fmt.Sprintf(doc, "clusterIP: None,"))
	if changed, err := Allocate(headless, taken, true); changed || err != nil {
		t.Errorf("headless: changed %v, %v", changed, err)
	}
	single := parse(t, fmt.Sprintf(doc, "ipFamilyPolicy: SingleStack, ipFamilies: [IPv6],"))
	if _, err := Allocate(single, taken, true); err != nil || len(Addresses(single)) != 1 || !Addresses(single)[0].Is6() {
		t.Errorf("IPv6 only: %v, %v", Addresses(single), err)
	}
}
