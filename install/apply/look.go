package apply

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/install/check"
)

// Look gathers what the API server knows that matters for a mesh in a namespace.
func (c *Client) Look(ctx context.Context, namespace string, now func() time.Time) (check.Facts, error) {
	f := check.Facts{Namespace: check.Namespace{Name: namespace}}
	v, err := c.ServerVersion(ctx)
	if err != nil {
		return f, err
	}
	f.Version = check.Version{Major: v.Major, Minor: v.Minor, Text: v.String()}
	f.Now = now()
	f.Server = c.serverTime(ctx)
	for _, look := range []func(context.Context, *check.Facts) error{c.lookNodes, c.lookNamespace, c.lookGateway, c.lookOthers, c.lookPolicies} {
		if err := look(ctx, &f); err != nil {
			return f, explain(err)
		}
	}
	return f, nil
}

// serverTime is the API server's clock; zero if it does not say.
func (c *Client) serverTime(ctx context.Context) time.Time {
	client, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return time.Time{}
	}
	base, _, err := rest.DefaultServerUrlFor(c.Config)
	if err != nil {
		return time.Time{}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/version").String(), nil)
	if err != nil {
		return time.Time{}
	}
	resp, err := client.Do(req)
	if err != nil {
		return time.Time{}
	}
	resp.Body.Close()
	t, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return t
}

func (c *Client) lookNodes(ctx context.Context, f *check.Facts) error {
	list, err := c.Core.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	// Kubelets write their own time into their Lease.
	beats := map[string]time.Time{}
	if leases, err := c.Core.CoordinationV1().Leases("kube-node-lease").List(ctx, metav1.ListOptions{}); err == nil {
		for _, l := range leases.Items {
			if l.Spec.RenewTime != nil {
				beats[l.Name] = l.Spec.RenewTime.Time
			}
		}
	}
	asked := c.serverTime(ctx)
	for _, n := range list.Items {
		info := n.Status.NodeInfo
		node := check.Node{
			Name: n.Name, OS: info.OperatingSystem, Arch: info.Architecture, Kernel: info.KernelVersion,
			Image: info.OSImage, Runtime: info.ContainerRuntimeVersion,
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady {
				node.Ready, node.Trouble = cond.Status == corev1.ConditionTrue, cond.Message
			}
		}
		if beat := beats[n.Name]; !asked.IsZero() && beat.After(asked.Add(time.Second)) {
			node.Ahead = beat.Sub(asked)
		}
		f.Nodes = append(f.Nodes, node)
	}
	return nil
}

func (c *Client) lookNamespace(ctx context.Context, f *check.Facts) error {
	ns, err := c.Core.CoreV1().Namespaces().Get(ctx, f.Namespace.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Namespace.Exists = true
	f.Namespace.Enforce = ns.Labels["pod-security.kubernetes.io/enforce"]
	f.Namespace.Ending = ns.DeletionTimestamp != nil
	return nil
}

// HelmProfile stands for the values of a release of Helm, which are not known.
const HelmProfile = "of Helm"

// Lost are those of some CustomResourceDefinitions that are not there.
func (c *Client) Lost(ctx context.Context, names []string) ([]string, error) {
	list, err := c.List(ctx, resourceDefinitions, "", "")
	if err != nil {
		return nil, err
	}
	have := map[string]bool{}
	for _, u := range list {
		have[u.GetName()] = true
	}
	lost := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return have[name] })
	slices.Sort(lost)
	return lost, nil
}

// wanted are the Gateway API's kinds that the mesh reads and that are in every channel.
var wanted = []string{"gatewayclasses", "gateways", "httproutes", "grpcroutes", "tlsroutes", "referencegrants", "backendtlspolicies"}

func (c *Client) lookGateway(ctx context.Context, f *check.Facts) error {
	list, err := c.List(ctx, resourceDefinitions, "", "")
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, u := range list {
		plural, group, _ := strings.Cut(u.GetName(), ".")
		switch {
		case group == "gateway.networking.k8s.io":
			have[plural] = true
			if plural == "gateways" {
				f.Gateway.Installed = true
				f.Gateway.Version = u.GetAnnotations()["gateway.networking.k8s.io/bundle-version"]
				f.Gateway.Channel = u.GetAnnotations()["gateway.networking.k8s.io/channel"]
			}
		case strings.HasSuffix(group, ".istio.io") && u.GetLabels()[labelPartOf] != partOf:
			f.Foreign = append(f.Foreign, u.GetName())
		}
	}
	if f.Gateway.Installed {
		for _, k := range wanted {
			if !have[k] {
				f.Gateway.Missing = append(f.Gateway.Missing, k)
			}
		}
	}
	slices.Sort(f.Foreign)
	return nil
}

// lookOthers finds agents and proxies of other meshes, and the cluster's network plugin.
func (c *Client) lookOthers(ctx context.Context, f *check.Facts) error {
	list, err := c.Core.AppsV1().DaemonSets(corev1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	f.Plugin = c.lookPlugin(ctx, list.Items)
	for _, d := range list.Items {
		app := d.Spec.Template.Labels["app"]
		if d.Labels[LabelMesh] == f.Namespace.Name || d.Labels[labelPartOf] == partOf && d.Namespace == f.Namespace.Name {
			continue
		}
		if d.Spec.Template.Labels["k8s-app"] == "istio-cni-node" || app == "ztunnel" || app == "kmesh" {
			f.Rivals = append(f.Rivals, "daemonset "+d.Namespace+"/"+d.Name)
		}
	}
	return nil
}

// right is something that installing takes.
type right struct{ verb, group, resource string }

var rights = []right{
	{"create", "", "namespaces"}, {"create", "apiextensions.k8s.io", "customresourcedefinitions"},
	{"create", "rbac.authorization.k8s.io", "clusterroles"}, {"escalate", "rbac.authorization.k8s.io", "clusterroles"},
	{"create", "rbac.authorization.k8s.io", "clusterrolebindings"}, {"create", "rbac.authorization.k8s.io", "roles"},
	{"create", "rbac.authorization.k8s.io", "rolebindings"}, {"create", "", "serviceaccounts"}, {"create", "", "services"},
	{"create", "", "configmaps"}, {"create", "apps", "deployments"}, {"create", "apps", "daemonsets"}, {"create", "policy", "poddisruptionbudgets"},
	{"create", "admissionregistration.k8s.io", "validatingadmissionpolicies"},
}

// Denied lists what we may not do and installing takes.
func (c *Client) Denied(ctx context.Context, namespace string) ([]string, error) {
	var out []string
	for _, r := range rights {
		review, err := c.Core.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authv1.SelfSubjectAccessReview{
			Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authv1.ResourceAttributes{
				Namespace: namespace, Verb: r.verb, Group: r.group, Resource: r.resource,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("ask what we may do: %w", explain(err))
		}
		if !review.Status.Allowed {
			out = append(out, r.verb+" "+r.resource)
		}
	}
	return out, nil
}

// Parts are the Deployments and DaemonSets of the mesh, and what runs for Gateways.
func (c *Client) Parts(ctx context.Context, namespace string, names map[string]string) ([]check.Part, error) {
	var out []check.Part
	for _, name := range []string{control, agentDaemonSet, "ztunnel"} {
		kind, wanted := names[name]
		if !wanted {
			continue
		}
		p, err := c.part(ctx, kind, namespace, name)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	list, err := c.Core.AppsV1().Deployments(corev1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: labelManaged})
	if err != nil {
		return nil, explain(err)
	}
	for _, d := range list.Items {
		if !slices.ContainsFunc(d.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return strings.HasPrefix(m.Manager, managerPrefix) }) {
			continue
		}
		p, err := c.part(ctx, "Deployment", d.Namespace, d.Name)
		if err != nil {
			return nil, err
		}
		p.Namespace = d.Namespace
		out = append(out, p)
	}
	return out, nil
}

func (c *Client) part(ctx context.Context, kind, namespace, name string) (check.Part, error) {
	r, err := c.Rollout(ctx, kind, namespace, name)
	if apierrors.IsNotFound(err) {
		return check.Part{Name: name, Kind: kind, Missing: true}, nil
	}
	return check.Part{
		Name: name, Kind: kind, Want: r.Want, Have: r.Ready, Settled: r.Settled && r.Updated >= r.Want, Trouble: r.Trouble, Images: r.Images,
	}, err
}

// Root is when the mesh's newest root certificate ends; zero if it is not known.
func (c *Client) Root(ctx context.Context, namespace string) time.Time {
	cm, err := c.Core.CoreV1().ConfigMaps(namespace).Get(ctx, "istio-ca-root-cert", metav1.GetOptions{})
	if err != nil {
		return time.Time{}
	}
	var last time.Time
	for rest := []byte(cm.Data["root-cert.pem"]); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return last
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.After(last) {
			last = cert.NotAfter
		}
	}
}
