//go:build kind

package cluster

import (
	"context"
	"flag"
	"io/fs"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/flags"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

var (
	hub       = flag.String("hub", "ambit", "where the images echo-basic and echo-advanced are from")
	tag       = flag.String("tag", "latest", "their tag")
	addresses = flag.String("addresses", "", "range of addresses to give to LoadBalancers, with a route to a node made for it (root); empty if the cluster has somebody who gives them out")
	release   = flag.String("release", "dev", "version of Ambit, for the report")
)

// profiles are those of protocols that Ambit speaks: all but UDP.
func profiles() []suite.ConformanceProfileName {
	return []suite.ConformanceProfileName{
		suite.GatewayHTTPConformanceProfileName, suite.GatewayGRPCConformanceProfileName, suite.GatewayTLSConformanceProfileName,
		suite.GatewayTCPConformanceProfileName, suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName,
	}
}

// unsupported are features Ambit does not claim; docs/conformance says why. What a later module adds is claimed at first.
func unsupported() []features.FeatureName {
	return []features.FeatureName{features.SupportUDPRoute, features.SupportGatewayFrontendClientCertificateValidationInsecureFallback}
}

// TestConformance runs the suite.
func TestConformance(t *testing.T) {
	opts := conformance.DefaultOptions(t)
	manifests, err := Manifests(&conformance.Manifests, *hub, *tag, nameServer(t, opts.Clientset))
	if err != nil {
		t.Fatal(err)
	}
	opts.ManifestFS = []fs.FS{manifests}
	if opts.GatewayClassName == flags.DefaultGatewayClassName {
		opts.GatewayClassName = "istio"
	}
	if len(opts.ConformanceProfiles) == 0 {
		opts.ConformanceProfiles = profiles()
	}
	if len(opts.SupportedFeatures) == 0 {
		for f := range features.SetsToNamesSet(features.AllFeatures) {
			if !slices.Contains(unsupported(), f) {
				opts.SupportedFeatures = append(opts.SupportedFeatures, f)
			}
		}
		slices.Sort(opts.SupportedFeatures)
	}
	opts.Implementation = confv1.Implementation{
		Organization: "ambit-mesh", Project: "ambit", URL: "https://github.com/ambit-mesh/ambit", Version: *release,
		Contact: []string{"https://github.com/ambit-mesh/ambit/issues"},
	}
	if *addresses != "" {
		b := balance(t, opts.Clientset)
		opts.UsableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: new(gatewayv1.IPAddressType), Value: b.Usable().String()}}
		opts.UnusableNetworkAddresses = []gatewayv1.GatewaySpecAddress{{Type: new(gatewayv1.IPAddressType), Value: b.Unusable().String()}}
	}
	if slices.Contains(opts.SupportedFeatures, features.SupportMesh) {
		waypoints(t, opts)
	}
	// The module writes its report when tests that run in parallel have begun, and counts them as passed. A report is about
	// what was seen.
	for i := range tests.ConformanceTests {
		tests.ConformanceTests[i].Parallel = false
	}
	conformance.RunConformanceWithOptions(t, opts)
}

// waypoints makes those of the mesh's namespaces. They go with the namespaces, which the suite deletes.
func waypoints(t *testing.T, opts suite.ConformanceOptions) {
	t.Helper()
	for _, ns := range meshNamespaces() {
		for _, o := range []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, waypoint(ns)} {
			if err := opts.Client.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		}
	}
}

// nameServer is the image of the cluster's own CoreDNS, which its nodes have; empty if it runs something else.
func nameServer(t *testing.T, api kubernetes.Interface) string {
	t.Helper()
	d, err := api.AppsV1().Deployments("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name == "coredns" {
			return c.Image
		}
	}
	return ""
}

// balance plays the cloud for as long as the test runs.
func balance(t *testing.T, api kubernetes.Interface) Balancer {
	t.Helper()
	prefix, err := netip.ParsePrefix(*addresses)
	if err != nil {
		t.Fatalf("-addresses %q is no range: write 198.51.100.0/24", *addresses)
	}
	nodes, err := api.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	via := ""
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			ip, err := netip.ParseAddr(a.Address)
			if a.Type == corev1.NodeInternalIP && err == nil && ip.Is4() == prefix.Addr().Is4() {
				via = a.Address
			}
		}
	}
	if via == "" {
		t.Fatalf("no node has an internal address of the family of %s", prefix)
	}
	route := []string{"route", "replace", prefix.Masked().String(), "via", via}
	if out, err := exec.CommandContext(t.Context(), "ip", route...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s; run the test as root, where the nodes' network is", strings.Join(route, " "), err, out)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = exec.CommandContext(context.WithoutCancel(ctx), "ip", "route", "del", prefix.Masked().String()).Run()
	})
	b := Balancer{Client: api, Range: prefix.Masked(), Log: t.Logf}
	wg.Go(func() { b.Run(ctx) })
	return b
}
