package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ambit-mesh/ambit/control/analyze"
	"github.com/ambit-mesh/ambit/install/cluster"
	"github.com/ambit-mesh/ambit/install/table"
)

// analysis is what is to be analyzed and how.
type analysis struct {
	cfg       analyze.Config
	format    format
	list      bool
	over      bool
	namespace string
	failOn    string
	least     string
	entries   string
	suppress  []string
}

// visibleOwn is the control plane's setting by which only its own namespace sees a ServiceEntry.
const visibleOwn = "namespace"

func (a *app) analyze() *cobra.Command {
	var s analysis
	cmd := &cobra.Command{Use: "analyze [FILE|FOLDER|-]...", Short: "Find mistakes in configuration, before it is applied or in a mesh that runs",
		Long: `Find mistakes in configuration: fields that do not exist, routes and policies for nothing, policies that nobody enforces,
NetworkPolicies that cut the mesh off or let more in than they say, and more; --list says what. Each kind of finding has a code.

With files or folders (- is standard input; folders below that begin with a dot are left out) those alone are looked at, and no mesh is needed: the pods of Deployments and the like
are imagined. With -k they are looked at as if they had been applied to the mesh, and what that would bring is listed. Without
files the mesh itself is looked at. -n is the namespace of documents that name none; findings about others are counted, not listed.

The exit code is 79 when something is found that is as bad as --fail-on says. What is known and accepted is left out with
--suppress, or with annotation ` + analyze.AnnotationSuppress + `: CODE,... on the object.`,
		Example: `  ambitctl analyze shop/
  kustomize build . | ambitctl analyze -
  ambitctl analyze -k new-policy.yaml
  ambitctl analyze -n shop --fail-on warning
  ambitctl analyze --suppress AMB205 --suppress "AMB401=AuthorizationPolicy shop/later"`}
	f := cmd.Flags()
	a.outputFlag(cmd, &s.format)
	f.BoolVarP(&s.list, "list", "L", false, "list the kinds of findings")
	f.BoolVarP(&s.over, "use-mesh", "k", false, "lay the files over what the mesh has")
	f.StringVarP(&s.namespace, "namespace", "n", "", "namespace of file objects that name none, and the one whose findings are listed")
	f.StringVar(&s.failOn, "fail-on", "error", "how bad a finding must be for exit code 79: error, warning, info or never")
	f.StringVar(&s.least, "level", "info", "how bad a finding must be to be listed: error, warning or info")
	f.StringArrayVarP(&s.suppress, "suppress", "S", nil, "leave out a kind of finding: CODE or its name, and =\"KIND NAMESPACE/NAME\" behind it for one object")
	f.StringVar(&s.cfg.RootNamespace, "root-namespace", "", "namespace of mesh-wide policies (files)")
	f.StringVar(&s.cfg.TrustDomain, "trust-domain", "", "trust domain of the mesh's identities (files)")
	f.StringVar(&s.cfg.ClusterDomain, "cluster-domain", "", "DNS domain of Services (files)")
	f.BoolVar(&s.cfg.NetworkPolicies, "network-policies", false, "node proxies enforce NetworkPolicies (files)")
	f.BoolVar(&s.cfg.DryRunPolicies, "dry-run-policies", false, "the control plane accepts policies annotated istio.io/dry-run (files)")
	f.StringSliceVar(&s.cfg.Revisions, "revisions", nil, "revision and tags of the control plane that is to run Gateways (files, default \"default\")")
	f.StringVar(&s.entries, "service-entry-visibility", "", "who sees ServiceEntries: public or namespace (files, default \"public\")")
	levels := []string{"error", "warning", "info"}
	a.complete(cmd, "fail-on", func(*app) []string { return append(levels, "never") })
	a.complete(cmd, "level", func(*app) []string { return levels })
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case s.list:
			return a.analyzers(s.format)
		case s.failOn != "never" && analyze.Level(s.failOn).Severity() == 0:
			return usagef("--fail-on %q: error, warning, info or never", s.failOn)
		case analyze.Level(s.least).Severity() == 0:
			return usagef("--level %q: error, warning or info", s.least)
		case s.entries != "" && s.entries != "public" && s.entries != visibleOwn:
			return usagef("--service-entry-visibility %q: public or %s", s.entries, visibleOwn)
		case s.over && len(args) == 0:
			return usagef("-k lays files over the mesh: name some, or leave it out to look at the mesh itself")
		}
		if err := s.codes(); err != nil {
			return err
		}
		s.cfg.Namespace, s.cfg.NamespaceEntries = s.namespace, s.entries == visibleOwn
		r, err := a.analyzed(cmd, &s, args)
		if err != nil {
			return err
		}
		return a.conclude(&s, r)
	}
	return cmd
}

// analyzers lists what can be found.
func (a *app) analyzers(f format) error {
	all := analyze.Catalog()
	if f.structured() {
		return a.data(f, all)
	}
	t := &table.Table{Head: []string{"CODE", "NAME", "LEVEL", "FINDS"}}
	for _, x := range all {
		t.Add(string(x.Code), x.Name, string(x.Level), x.Summary)
	}
	return a.table(t)
}

// analyzed judges files, the mesh, or the files laid over the mesh.
func (a *app) analyzed(cmd *cobra.Command, s *analysis, args []string) (analyze.Result, error) {
	files, err := a.documents(args)
	if err != nil {
		return analyze.Result{}, err
	}
	if len(args) > 0 && !s.over {
		return analyze.Run(s.cfg, files), nil
	}
	m, err := a.mesh()
	if err != nil {
		return analyze.Result{}, err
	}
	objects, err := a.objects(cmd.Context(), m)
	if err != nil {
		return analyze.Result{}, err
	}
	s.cfg.Live = true
	var said []analyze.Finding
	all, err := a.refusals(cmd, controlSource{})
	if err == nil {
		s.cfg.RootNamespace, s.cfg.TrustDomain, s.cfg.ClusterDomain = all.Settings.RootNamespace, all.Settings.TrustDomain, all.Settings.ClusterDomain
		s.cfg.ClusterID, s.cfg.NetworkPolicies, s.cfg.DryRunPolicies = all.Settings.ClusterID, all.Settings.NetworkPolicies, all.Settings.DryRunPolicies
		s.cfg.Revisions, s.cfg.NamespaceEntries = all.Settings.Revisions, all.Settings.ServiceEntryVisibility == visibleOwn
		said, err = findings(append(all.Entries, a.proxyProblems(cmd.Context())...))
	}
	if s.over {
		if err != nil {
			fmt.Fprintf(a.env.Err, "ambitctl: the control plane's settings are not known, its defaults are taken: %v\n", err)
		}
		return brought(s.cfg, objects, files), nil
	}
	if err != nil {
		// The mesh is looked at as well as can be without it.
		fmt.Fprintf(a.env.Err, "ambitctl: without the control plane's word: %v\n", err)
	} else {
		s.cfg.Told = true
	}
	r := analyze.Run(s.cfg, objects)
	r.Findings = append(r.Findings, said...)
	analyze.Sort(r.Findings)
	return r, nil
}

// brought is what files would bring to a mesh.
func brought(cfg analyze.Config, mesh, files []analyze.Document) analyze.Result {
	before := analyze.Run(cfg, mesh)
	after := analyze.Run(cfg, slices.Concat(mesh, files))
	after.Findings = slices.DeleteFunc(after.Findings, func(f analyze.Finding) bool {
		return f.File == "" && slices.ContainsFunc(before.Findings, f.Same)
	})
	return after
}

// findings are the control plane's words as findings.
func findings(entries []refusal) ([]analyze.Finding, error) {
	raw, err := json.Marshal(entries)
	if err != nil {
		return nil, fmt.Errorf("encode refusals: %w", err)
	}
	return analyze.Decode(raw)
}

// conclude prints the findings that are wanted and fails if one is bad enough.
func (a *app) conclude(s *analysis, r analyze.Result) error {
	if s.namespace != "" && r.In[s.namespace] == 0 && (r.Objects > 0 || len(r.Findings) == 0) {
		return fmt.Errorf("none of %s is of namespace %s; there are objects of %s", howMany(r.Objects, "object"), s.namespace, someOf(slices.Sorted(maps.Keys(r.In))))
	}
	fail, elsewhere := false, 0
	r.Findings = slices.DeleteFunc(r.Findings, func(f analyze.Finding) bool {
		of := f.Namespace
		if f.Kind == "Namespace" {
			of = f.Object
		}
		switch {
		case s.suppressed(f):
			return true
		case s.namespace != "" && of != s.namespace && (of != "" || f.File == ""):
			elsewhere++
			return true
		}
		fail = fail || s.failOn != "never" && f.Level.Severity() >= analyze.Level(s.failOn).Severity()
		return f.Level.Severity() < analyze.Level(s.least).Severity()
	})
	if s.format.structured() {
		if r.Findings == nil {
			r.Findings = []analyze.Finding{}
		}
		if err := a.data(s.format, r.Findings); err != nil {
			return err
		}
	} else {
		objects := howMany(r.Objects, "object")
		if s.namespace != "" {
			objects = howMany(r.In[s.namespace], "object") + " of namespace " + s.namespace
			if elsewhere > 0 {
				objects += " (" + howMany(elsewhere, "finding") + " elsewhere)"
			}
		}
		a.printAnalysis(r.Findings, objects)
	}
	if fail {
		return errIssues
	}
	return nil
}

// codes turns names of findings to suppress into codes, and refuses what is neither: it would suppress nothing.
func (s *analysis) codes() error {
	all := analyze.Catalog()
	for i, x := range s.suppress {
		given, of, one := strings.Cut(x, "=")
		at := slices.IndexFunc(all, func(a analyze.Analyzer) bool {
			return strings.EqualFold(given, string(a.Code)) || strings.EqualFold(given, a.Name)
		})
		if at < 0 {
			return usagef("--suppress %q: there is no finding %q; --list has their codes and names", x, given)
		}
		if kind, name, ok := strings.Cut(of, " "); one && (!ok || kind == "" || name == "") {
			return usagef("--suppress %q: write CODE=\"KIND NAMESPACE/NAME\"", x)
		}
		s.suppress[i] = string(all[at].Code) + x[len(given):]
	}
	return nil
}

// suppressed reports whether the command line wants to hear nothing of a finding.
func (s *analysis) suppressed(f analyze.Finding) bool {
	return slices.ContainsFunc(s.suppress, func(x string) bool {
		code, of, one := strings.Cut(x, "=")
		name := f.Object
		if f.Namespace != "" {
			name = f.Namespace + "/" + name
		}
		return strings.EqualFold(code, string(f.Code)) && (!one || strings.EqualFold(of, f.Kind+" "+name))
	})
}

// someOf names a few.
func someOf(all []string) string {
	switch n := len(all); {
	case n == 0:
		return "no namespace"
	case n > 5:
		return fmt.Sprintf("%s and %d others", strings.Join(all[:5], ", "), n-5)
	}
	return strings.Join(all, ", ")
}

// printAnalysis tells what was found in objects.
func (a *app) printAnalysis(all []analyze.Finding, objects string) {
	paint := a.paint()
	count := map[analyze.Level]int{}
	for _, f := range all {
		count[f.Level]++
		level := string(f.Level)
		if paint != nil {
			level = paint("", level)
		}
		at := refusal{File: f.File, Line: f.Line, Kind: f.Kind, Namespace: f.Namespace, Name: f.Object, Field: f.Field}
		fmt.Fprintf(a.env.Out, "%s [%s %s] %s\n  %s\n", level, f.Code, f.Name, strings.Join(at.where(), ": "), f.Problem)
		if f.Fix != "" {
			fmt.Fprintf(a.env.Out, "  fix: %s\n", f.Fix)
		}
	}
	if len(all) == 0 {
		fmt.Fprintf(a.env.Out, "Nothing is wrong with %s.\n", objects)
		return
	}
	var parts []string
	for _, l := range []analyze.Level{analyze.Error, analyze.Warning, analyze.Info} {
		if n := count[l]; n > 0 {
			parts = append(parts, howMany(n, map[analyze.Level]string{analyze.Error: "error", analyze.Warning: "warning", analyze.Info: "note"}[l]))
		}
	}
	fmt.Fprintf(a.env.Out, "%s in %s.\n", strings.Join(parts, ", "), objects)
}

func howMany(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}

// analyzedKinds are those of a mesh that are looked at. What is in Secrets is nobody's business here.
var analyzedKinds = []string{
	"Namespace", "Pod", "Service", "ServiceEntry", "WorkloadEntry", "NetworkPolicy", "Gateway", "GatewayClass", "ListenerSet",
	"AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "VirtualService", "DestinationRule", "HTTPRoute", "GRPCRoute",
	"TLSRoute", "TCPRoute", "ReferenceGrant", "Telemetry", "WasmPlugin", "LocalRateLimitPolicy", "ExtensionPolicy",
	"ProxyConfig", "WorkloadGroup", "Gateway.networking.istio.io",
}

// objects are those of a mesh, each as a document. Kinds that it does not have are none.
func (a *app) objects(ctx context.Context, m cluster.Cluster) ([]analyze.Document, error) {
	var out []analyze.Document
	for _, kind := range analyzedKinds {
		list, err := m.List(ctx, kind, "")
		if errors.Is(err, cluster.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, o := range list {
			if meta, ok := o["metadata"].(map[string]any); ok {
				delete(meta, "managedFields")
			}
			data, err := json.Marshal(o)
			if err != nil {
				return nil, fmt.Errorf("encode %s: %w", o, err)
			}
			out = append(out, analyze.Document{Data: data})
		}
	}
	return out, nil
}

// maxFile bounds what is read of one file.
const maxFile = 256 << 20

// stdin is what standard input is called.
const stdin = "(standard input)"

// documents reads files, what of YAML and JSON is in folders, and standard input.
func (a *app) documents(args []string) (out []analyze.Document, err error) {
	read := func(name string, in io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(in, maxFile+1))
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if len(data) > maxFile {
			return fmt.Errorf("%s has more than %d MiB: split it", name, maxFile>>20)
		}
		if filepath.Ext(name) == ".json" && !slices.Contains(args, name) && !bytes.Contains(data, []byte(`"kind"`)) {
			return nil // a folder may have other JSON in it
		}
		out = append(out, analyze.Document{Name: name, Data: data, Found: name != stdin && !slices.Contains(args, name)})
		return nil
	}
	file := func(name string) error {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		return read(name, f)
	}
	for _, arg := range args {
		if arg == "-" {
			if err := read(stdin, a.env.In); err != nil {
				return nil, err
			}
			continue
		}
		err := filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != arg && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir // .git, .github and the like
			}
			if err != nil || d.IsDir() {
				return err
			}
			if path != arg && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
				return nil
			}
			// A pipe that is named is waited for; one that happens to be in a folder nobody may ever write to.
			if st, err := os.Stat(path); err != nil || path != arg && !st.Mode().IsRegular() {
				return err
			}
			return file(path)
		})
		if err != nil {
			return nil, err
		}
	}
	if len(args) > 0 && len(out) == 0 {
		return nil, fmt.Errorf("there is no YAML or JSON in %s", strings.Join(args, ", "))
	}
	return out, nil
}
