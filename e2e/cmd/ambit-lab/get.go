package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ambit-mesh/ambit/api/mesh"
	"github.com/ambit-mesh/ambit/e2e/lab/resource"
	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

func (a *app) get() *cobra.Command {
	var all bool
	var output, selector string
	c := &cobra.Command{
		Use:   "get KIND [NAME]",
		Short: "List objects: pods, services, deployments, policies, nodes, namespaces and every other kind applied",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"table", "wide", "json", "yaml", "name"}, output) {
				return fmt.Errorf("output %q: table, wide, json, yaml or name", output)
			}
			l, err := a.open()
			if err != nil {
				return err
			}
			name, namespace := "", a.namespace
			if len(args) == 2 {
				name = args[1]
			}
			if all {
				namespace = ""
			}
			list, err := l.Get(cmd.Context(), args[0], namespace, name)
			if err != nil {
				return err
			}
			if len(list) == 0 && !resource.IsKnown(args[0]) {
				return usagef("there is no kind %q, and no object of it", args[0])
			}
			list = slices.DeleteFunc(list, func(o resource.Object) bool { return !selected(o, selector) })
			if name != "" && len(list) == 0 {
				return fmt.Errorf("there is no %s %q in namespace %q", args[0], name, a.namespace)
			}
			return printObjects(list, output, all, name != "")
		},
	}
	c.Flags().BoolVarP(&all, "all-namespaces", "A", false, "all namespaces")
	c.Flags().StringVarP(&output, "output", "o", "table", "table, wide, json, yaml or name")
	c.Flags().StringVarP(&selector, "selector", "l", "", "labels, as KEY=VALUE,KEY=VALUE")
	return a.namespaced(c)
}

func selected(o resource.Object, selector string) bool {
	labels := o.Labels()
	for term := range strings.SplitSeq(selector, ",") {
		k, v, hasValue := strings.Cut(term, "=")
		got, ok := labels[k]
		if term != "" && (!ok || hasValue && got != v) {
			return false
		}
	}
	return true
}

func printObjects(list []resource.Object, output string, all, single bool) error {
	var v any = map[string]any{"apiVersion": "v1", "kind": "List", "items": list}
	if single && len(list) == 1 {
		v = list[0]
	}
	switch output {
	case "json":
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(v); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		return nil
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		fmt.Print(string(data))
		return nil
	case "name":
		for _, o := range list {
			fmt.Println(o.Name())
		}
		return nil
	}
	if len(list) == 0 {
		fmt.Fprintln(os.Stderr, "nothing found; -A looks in all namespaces")
		return nil
	}
	return printTables(list, output == "wide", all)
}

// printTables prints a table per kind, since kinds have columns of their own.
func printTables(list []resource.Object, wide, all bool) error {
	var errs []error
	for len(list) > 0 {
		kind := list[0].Kind()
		n := slices.IndexFunc(list, func(o resource.Object) bool { return o.Kind() != kind })
		if n < 0 {
			n = len(list)
		}
		columns, cells := layout(kind, wide)
		head := append([]string{"NAME"}, columns...)
		namespaced := all && list[0].Namespace() != ""
		if namespaced {
			head = append([]string{"NAMESPACE"}, head...)
		}
		w := table(append(head, "AGE")...)
		for _, o := range list[:n] {
			line := append([]string{o.Name()}, cells(o)...)
			if namespaced {
				line = append([]string{o.Namespace()}, line...)
			}
			row(w, append(line, age(o))...)
		}
		errs = append(errs, w.Flush())
		list = list[n:]
		if len(list) > 0 {
			fmt.Println()
		}
	}
	return errors.Join(errs...)
}

func age(o resource.Object) string {
	t, err := time.Parse(time.RFC3339, o.Text("metadata", "creationTimestamp"))
	if err != nil {
		return "-"
	}
	d := time.Since(t).Round(time.Second)
	switch {
	case d > 48*time.Hour:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	case d > 2*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	case d > 2*time.Minute:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

func layout(kind string, wide bool) ([]string, func(resource.Object) []string) {
	switch kind {
	case "Pod":
		return podColumns(wide)
	case "Service":
		return serviceColumns(wide)
	case "Node":
		return []string{"STATUS", "ADDRESS", "PODS", "ZONE"}, func(o resource.Object) []string {
			status := "NotReady"
			if conditionOf(o, "Ready") {
				status = "Ready"
			}
			return []string{status, strings.Join(field(o, "address", "status", "addresses")[:1], ""), join(o.At("spec", "podCIDRs")), o.Labels()[mesh.LabelZone]}
		}
	case "Namespace":
		return []string{"MESH", "WAYPOINT"}, func(o resource.Object) []string {
			return []string{dash(o.Labels()[mesh.LabelDataplaneMode]), dash(o.Labels()[mesh.LabelUseWaypoint])}
		}
	case "Deployment", "StatefulSet", "ReplicaSet", "DaemonSet", "Job":
		return []string{"READY", "UP-TO-DATE", "AVAILABLE"}, func(o resource.Object) []string {
			want := fmt.Sprint(o.Number(1, "spec", "replicas"))
			if kind == "DaemonSet" || kind == "Job" {
				want = fmt.Sprint(o.Number(0, "status", "replicas"))
			}
			return []string{fmt.Sprintf("%d/%s", o.Number(0, "status", "readyReplicas"), want),
				fmt.Sprint(o.Number(0, "status", "updatedReplicas")), fmt.Sprint(o.Number(0, "status", "availableReplicas"))}
		}
	case "AuthorizationPolicy":
		return []string{"KIND", "ACTION", "SELECTOR", "RULES"}, func(o resource.Object) []string {
			rules, _ := o.At("spec", "rules").([]any)
			action := o.Text("spec", "action")
			if action == "" {
				action = "ALLOW"
			}
			return []string{kind, action, selectorOf(o), fmt.Sprint(len(rules))}
		}
	case "PeerAuthentication":
		return []string{"KIND", "MODE", "SELECTOR"}, func(o resource.Object) []string {
			return []string{kind, dash(o.Text("spec", "mtls", "mode")), selectorOf(o)}
		}
	}
	if head, cells := layer7(kind); head != nil {
		return head, cells
	}
	return []string{"KIND"}, func(resource.Object) []string { return []string{kind} }
}

func selectorOf(o resource.Object) string {
	var parts []string
	for k, v := range o.Strings("spec", "selector", "matchLabels") {
		parts = append(parts, k+"="+v)
	}
	slices.Sort(parts)
	return dash(strings.Join(append(parts, targets(o)...), ","))
}

func podColumns(wide bool) ([]string, func(resource.Object) []string) {
	head := []string{"READY", "STATUS", "RESTARTS", "IP", "NODE", "MESH"}
	if wide {
		head = append(head, "SERVICE ACCOUNT", "ADDRESSES", "LABELS")
	}
	return head, func(o resource.Object) []string {
		containers, _ := o.At("status", "containerStatuses").([]any)
		ready, restarts := 0, 0
		status := o.Text("status", "phase")
		if reason := o.Text("status", "reason"); reason != "" {
			status = reason
		}
		for _, c := range containers {
			m := resource.Object{"c": c}
			if m.At("c", "ready") == true {
				ready++
			}
			restarts += m.Number(0, "c", "restartCount")
			if r := m.Text("c", "state", "waiting", "reason"); r != "" && r != "ContainerCreating" {
				status = r
			}
		}
		if o.Text("metadata", "deletionTimestamp") != "" {
			status = "Terminating"
		}
		cells := []string{fmt.Sprintf("%d/%d", ready, max(len(containers), 1)), status, fmt.Sprint(restarts),
			dash(o.Text("status", "podIP")), dash(o.Text("spec", "nodeName")), dash(o.Annotations()[mesh.AnnotationRedirection])}
		if len(containers) == 0 && conditionOf(o, "Ready") {
			cells[0] = "1/1"
		}
		if wide {
			var labels []string
			for k, v := range o.Labels() {
				labels = append(labels, k+"="+v)
			}
			slices.Sort(labels)
			cells = append(cells, o.Text("spec", "serviceAccountName"), strings.Join(field(o, "ip", "status", "podIPs"), ","), strings.Join(labels, ","))
		}
		return cells
	}
}

func serviceColumns(wide bool) ([]string, func(resource.Object) []string) {
	head := []string{"TYPE", "CLUSTER-IP", "PORTS"}
	if wide {
		head = append(head, "EXTERNAL-IP", "SELECTOR")
	}
	return head, func(o resource.Object) []string {
		kind := o.Text("spec", "type")
		if kind == "" {
			kind = "ClusterIP"
		}
		ips := join(o.At("spec", "clusterIPs"))
		if ips == "" {
			ips = o.Text("spec", "clusterIP")
		}
		var ports []string
		list, _ := o.At("spec", "ports").([]any)
		for _, p := range list {
			m := resource.Object{"p": p}
			proto := m.Text("p", "protocol")
			if proto == "" {
				proto = "TCP"
			}
			ports = append(ports, fmt.Sprintf("%d/%s", m.Number(0, "p", "port"), proto))
		}
		cells := []string{kind, dash(ips), dash(strings.Join(ports, ","))}
		if wide {
			var sel []string
			for k, v := range o.Strings("spec", "selector") {
				sel = append(sel, k+"="+v)
			}
			slices.Sort(sel)
			cells = append(cells, strings.Join(field(o, "ip", "status", "loadBalancer", "ingress"), ","), dash(strings.Join(sel, ",")))
		}
		return cells
	}
}

func conditionOf(o resource.Object, kind string) bool {
	list, _ := o.At("status", "conditions").([]any)
	for _, c := range list {
		m := resource.Object{"c": c}
		if m.Text("c", "type") == kind {
			return m.Text("c", "status") == "True"
		}
	}
	return false
}

// field collects one field of the maps in a list.
func field(o resource.Object, name string, path ...string) []string {
	list, _ := o.At(path...).([]any)
	var out []string
	for _, v := range list {
		out = append(out, resource.Object{"v": v}.Text("v", name))
	}
	if out == nil {
		out = []string{"-"}
	}
	return out
}

func join(v any) string {
	list, _ := v.([]any)
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprint(s))
	}
	return strings.Join(out, ",")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
