package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/install/admin"
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
	lab, err := a.openLab()
	if err != nil {
		return nil, err
	}
	all := labProxies(lab)
	if s.node != "" {
		return pick(all, s.node, lab)
	}
	if len(args) == 1 {
		return a.locate(ctx, all, args[0], lab)
	}
	return all, nil
}

func (a *app) openLab() (*labfile.Lab, error) {
	lab, err := labfile.Load(a.lab)
	if errors.Is(err, labfile.ErrNotFound) && a.lab == "" {
		return nil, fmt.Errorf("nothing to ask: no lab is running on this machine; start one with \"ambitctl lab up\", or name a file with --file: %w", err)
	}
	return lab, err
}

func labProxies(lab *labfile.Lab) []proxy {
	var out []proxy
	for _, n := range lab.Nodes {
		out = append(out, proxy{node: n.Name, endpoint: admin.Endpoint{
			What: "ztunnel of " + n.Name, Address: "unix:" + n.ZtunnelAdmin, Hint: "see \"ambitctl lab status --lab " + lab.Name + "\""}})
	}
	return out
}

func pick(all []proxy, node string, lab *labfile.Lab) ([]proxy, error) {
	var names []string
	for _, p := range all {
		if p.node == node {
			return []proxy{p}, nil
		}
		names = append(names, p.node)
	}
	return nil, fmt.Errorf("lab %s has no node %q; it has %s", lab.Name, node, strings.Join(names, ", "))
}

// locate resolves [type/]name[.namespace] to the proxy of that node, or of that pod's node.
func (a *app) locate(ctx context.Context, all []proxy, arg string, lab *labfile.Lab) ([]proxy, error) {
	if _, name, ok := strings.Cut(arg, "/"); ok {
		arg = name
	}
	for _, p := range all {
		if p.node == arg || "ztunnel-"+p.node == arg {
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
		return nil, fmt.Errorf("%q is neither a node of lab %s nor a pod the mesh knows; see \"ambitctl ztunnel-config workloads\"", arg, lab.Name)
	case 1:
		return pick(all, nodes[0], lab)
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
		return proxy{}, nil, errors.New("the lab has no nodes")
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

func labNames(*app) []string {
	labs, err := labfile.List()
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range labs {
		out = append(out, l.Name)
	}
	return out
}

func nodeNames(a *app) []string {
	lab, err := labfile.Load(a.lab)
	if err != nil {
		return nil
	}
	var out []string
	for _, n := range lab.Nodes {
		out = append(out, n.Name)
	}
	return out
}
