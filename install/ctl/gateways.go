package ctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/gateway"
)

// gatewaySource says which waypoint or gateway is asked.
type gatewaySource struct {
	namespace string
	address   string
	file      string
}

func (s *gatewaySource) add(cmd *cobra.Command, files bool) {
	cmd.Flags().StringVarP(&s.namespace, "namespace", "n", "", "namespace of the pod or Gateway (all)")
	cmd.Flags().StringVar(&s.address, "admin-address", "", "the proxy's admin endpoint itself: host:port or unix:PATH")
	if files {
		cmd.Flags().StringVarP(&s.file, "file", "f", "", "a config_dump file to read instead of asking a proxy")
	}
}

// instance is one pod of a waypoint or gateway.
type instance struct {
	namespace, gateway, pod, class string
	ready                          bool
	// identity is the SPIFFE id it speaks as.
	identity string
	endpoint admin.Endpoint
}

func (i instance) String() string { return i.pod + "." + i.namespace }

// instances lists the pods of all Gateways, those that are ready first.
func (a *app) instances(ctx context.Context, namespace string) ([]instance, error) {
	m, err := a.mesh()
	if err != nil {
		return nil, err
	}
	c, err := a.cluster()
	if err != nil {
		return nil, err
	}
	pods, err := podsWith(ctx, c, namespace, mesh.LabelGatewayName)
	if err != nil {
		return nil, err
	}
	var out []instance
	for _, p := range pods {
		name, _ := p.Label(mesh.LabelGatewayName)
		class, _ := p.Label(mesh.LabelGatewayClassName)
		out = append(out, instance{p.Namespace(), name, p.Name(), class, isReady(p), identityOf(p), m.Proxy(p).Endpoint})
	}
	slices.SortStableFunc(out, func(x, y instance) int {
		if x.ready == y.ready {
			return 0
		}
		if x.ready {
			return -1
		}
		return 1
	})
	return out, nil
}

// identityOf reads who a pod is from what its proxy was started with; the trust domain is the mesh's default otherwise.
func identityOf(p cluster.Object) string {
	domain := mesh.DefaultTrustDomain
	for _, c := range p.Items("spec", "containers") {
		for _, v := range c.Items("env") {
			if v.Text("name") == "TRUST_DOMAIN" && v.Text("value") != "" {
				domain = v.Text("value")
			}
		}
	}
	account := p.Text("spec", "serviceAccountName")
	if account == "" {
		account = mesh.DefaultServiceAccount
	}
	return "spiffe://" + domain + "/ns/" + p.Namespace() + "/sa/" + account
}

func isReady(p cluster.Object) bool {
	for _, c := range p.Items("status", "conditions") {
		if c.Text("type") == "Ready" {
			return c.Text("status") == "True"
		}
	}
	return false
}

// instanceFor finds the one proxy a command is about: a pod, or any pod of a Gateway. Without a name there must be only one
// Gateway.
func (a *app) instanceFor(ctx context.Context, s gatewaySource, args []string) (instance, error) {
	found, err := a.instancesFor(ctx, s, args)
	if err != nil {
		return instance{}, err
	}
	return found[0], nil
}

// instancesFor finds the pod that is named, or all pods of the Gateway that is.
func (a *app) instancesFor(ctx context.Context, s gatewaySource, args []string) ([]instance, error) {
	if s.address != "" {
		if len(args) > 0 {
			return nil, usagef("--admin-address names one proxy: leave out names")
		}
		return []instance{{endpoint: admin.Endpoint{What: "the proxy", Address: s.address}}}, nil
	}
	all, err := a.instances(ctx, s.namespace)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no waypoint and no gateway runs; start one with \"ambitctl waypoint apply\"")
	}
	var names []string
	for _, i := range all {
		if n := i.namespace + "/" + i.gateway; !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(args) == 0 {
		if len(names) > 1 {
			return nil, usagef("which one? there are %s: name a Gateway or a pod, as NAME.NAMESPACE", strings.Join(names, ", "))
		}
		return all, nil
	}
	found := matching(all, args[0])
	if len(found) == 0 {
		return nil, fmt.Errorf("no waypoint or gateway is called %q; there are %s", args[0], strings.Join(names, ", "))
	}
	for _, i := range found {
		if i.namespace != found[0].namespace || i.gateway != found[0].gateway {
			return nil, usagef("which %s? there are %s/%s and %s/%s: say NAME.NAMESPACE, or -n NAMESPACE", args[0], found[0].namespace, found[0].gateway, i.namespace, i.gateway)
		}
	}
	return found, nil
}

// matching finds the pods a name stands for: a Gateway or a pod, as NAME, NAME.NAMESPACE or NAMESPACE/NAME.
func matching(all []instance, want string) []instance {
	namespace, name, split := strings.Cut(want, "/")
	var out []instance
	for _, i := range all {
		names := []string{i.pod, i.pod + "." + i.namespace, i.gateway, i.gateway + "." + i.namespace}
		if split {
			names = []string{i.pod, i.gateway}
			if i.namespace != namespace {
				continue
			}
		} else {
			name = want
		}
		if slices.Contains(names, name) {
			out = append(out, i)
		}
	}
	return out
}

// facts asks a proxy what it was told.
func (i instance) facts(ctx context.Context) (*gateway.Facts, error) {
	body, err := i.endpoint.Get(ctx, "/facts")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return gateway.ReadFacts(body)
}
