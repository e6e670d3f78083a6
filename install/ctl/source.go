package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/install/admin"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/dump"
)

// proxySource says which node proxies are asked.
type proxySource struct {
	node    string
	file    string
	address string
}

func (a *app) proxyFlags(cmd *cobra.Command, s *proxySource, files bool) {
	cmd.Flags().StringVar(&s.node, "node", "", "the node whose proxy to ask")
	cmd.Flags().StringVar(&s.address, "admin-address", "", "the proxy's admin endpoint itself: host:port or unix:PATH")
	a.complete(cmd, "node", nodeNames)
	if files {
		cmd.Flags().StringVarP(&s.file, "file", "f", "", "a config_dump file to read instead of asking a proxy")
	}
}

// proxy is one node proxy. Node is empty for a file or an address.
type proxy struct {
	node     string
	pod      string
	endpoint admin.Endpoint
	file     string
}

// proxies lists whom to ask, for a positional argument that may name a node, or a pod on one.
func (a *app) proxies(ctx context.Context, s proxySource, args []string) ([]proxy, error) {
	switch {
	case s.file != "":
		if s.node != "" || s.address != "" || len(args) > 0 {
			return nil, usagef("--file stands for a proxy: leave out --node, --admin-address and names")
		}
		return []proxy{{file: s.file}}, nil
	case s.address != "":
		if s.node != "" || len(args) > 0 {
			return nil, usagef("--admin-address names one proxy: leave out --node and names")
		}
		return []proxy{{endpoint: admin.Endpoint{What: "ztunnel", Address: s.address}}}, nil
	}
	all, err := a.allProxies(ctx)
	if err != nil {
		return nil, err
	}
	if s.node != "" {
		return a.pick(all, s.node)
	}
	if len(args) == 1 {
		return a.locate(ctx, all, args[0])
	}
	return all, nil
}

// allProxies are the node proxies of the mesh.
func (a *app) allProxies(ctx context.Context) ([]proxy, error) {
	list, err := a.parts(ctx, cluster.NodeProxy)
	if err != nil {
		return nil, err
	}
	var out []proxy
	for _, p := range list {
		out = append(out, proxy{node: p.Node, pod: p.Pod, endpoint: p.Endpoint})
	}
	return out, nil
}

// pick finds the proxies of a node: two, while one takes over from the other.
func (a *app) pick(all []proxy, node string) ([]proxy, error) {
	var names []string
	var found []proxy
	for _, p := range all {
		if p.node == node {
			found = append(found, p)
		}
		if !slices.Contains(names, p.node) {
			names = append(names, p.node)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no node %q; it has %s", a.found, node, strings.Join(names, ", "))
	}
	return found, nil
}

// locate resolves [type/]name[.namespace] to the proxy of that node, the proxy that is called so, or that of a pod's node.
func (a *app) locate(ctx context.Context, all []proxy, arg string) ([]proxy, error) {
	if _, name, ok := strings.Cut(arg, "/"); ok {
		arg = name
	}
	for _, p := range all {
		switch arg {
		case p.node, "ztunnel-" + p.node:
			return a.pick(all, p.node)
		case p.pod, p.pod + "." + a.namespace:
			return []proxy{p}, nil
		}
	}
	_, d, err := a.first(ctx, all)
	if err != nil {
		return nil, err
	}
	var nodes []string
	for _, w := range d.Workloads {
		if w.Value.Name == arg || w.Value.Name+"."+w.Value.Namespace == arg {
			nodes = append(nodes, w.Value.Node)
		}
	}
	switch len(nodes) {
	case 0:
		return nil, fmt.Errorf("%q is neither a node of %s nor a pod the mesh knows; see \"ambitctl ztunnel-config workloads\"", arg, a.found)
	case 1:
		return a.pick(all, nodes[0])
	}
	return nil, fmt.Errorf("%d pods are called %q; add the namespace: %s.NAMESPACE", len(nodes), arg, arg)
}

// open reads the dump of p.
func (p proxy) open(ctx context.Context) (*dump.Dump, error) {
	if p.file != "" {
		f, err := os.Open(p.file)
		if err != nil {
			return nil, fmt.Errorf("config_dump file: %w", err)
		}
		defer f.Close()
		d, err := dump.Parse(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.file, err)
		}
		return d, nil
	}
	body, err := p.endpoint.Get(ctx, "/config_dump")
	if err != nil {
		return nil, err
	}
	defer body.Close()
	d, err := dump.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.endpoint.What, err)
	}
	return d, nil
}

// first reads the dump of the first proxy that answers: what all of them know, any of them can tell.
func (a *app) first(ctx context.Context, all []proxy) (proxy, *dump.Dump, error) {
	var errs []error
	for _, p := range all {
		d, err := p.open(ctx)
		if err == nil {
			return p, d, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return proxy{}, nil, errors.New("there are no node proxies")
	}
	return proxy{}, nil, errors.Join(errs...)
}

// answer is the dump of one proxy.
type answer struct {
	node string
	*dump.Dump
}

// every reads the dumps of all proxies. With several, one that does not answer is only told about.
func (a *app) every(ctx context.Context, all []proxy) ([]answer, error) {
	var out []answer
	var errs []error
	for _, p := range all {
		d, err := p.open(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, answer{p.node, d})
	}
	if len(out) == 0 {
		return nil, errors.Join(errs...)
	}
	for _, err := range errs {
		fmt.Fprintf(a.env.Err, "ambitctl: %v\n", err)
	}
	return out, nil
}
