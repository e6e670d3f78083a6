package apply

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// Object is a document as decoded from JSON.
type Object = map[string]any

// Manager is the name under which fields are owned.
const Manager = "ambitctl"

// Labels and annotations of what is installed. The label's value is the mesh's namespace.
const (
	LabelMesh         = "install.ambit.io/mesh"
	LabelComponent    = "install.ambit.io/component"
	labelPartOf       = "app.kubernetes.io/part-of"
	partOf            = "ambit"
	labelManagedBy    = "app.kubernetes.io/managed-by"
	annotationRelease = "meta.helm.sh/release-name"
)

// Resource is where objects of a kind are.
func (c *Client) Resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	m, err := c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		// A definition may have come since the last look.
		c.Mapper.Reset()
		m, err = c.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Dynamic.Resource(m.Resource).Namespace(o.GetNamespace()), nil
	}
	return c.Dynamic.Resource(m.Resource), nil
}

// Put applies one object on the server's side, and takes over fields that others have set. With dry, nothing changes, but the
// server says what it would say.
func (c *Client) Put(ctx context.Context, o Object, dry bool) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: o}
	r, err := c.Resource(u)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(u), explain(err))
	}
	opts := metav1.ApplyOptions{FieldManager: Manager, Force: true}
	if dry {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	got, err := r.Apply(ctx, u.GetName(), u, opts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(u), explain(err))
	}
	return got, nil
}

// Fetch reads an object of the same kind and name, nil if it is not there.
func (c *Client) Fetch(ctx context.Context, o Object) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: o}
	r, err := c.Resource(u)
	if meta.IsNoMatchError(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(u), explain(err))
	}
	got, err := r.Get(ctx, u.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", Name(u), explain(err))
	}
	return got, nil
}

// Remove deletes an object, and what it owns in the background. One that is not there is no error.
func (c *Client) Remove(ctx context.Context, gvr schema.GroupVersionResource, namespace, name string, dry bool) error {
	background := metav1.DeletePropagationBackground
	opts := metav1.DeleteOptions{PropagationPolicy: &background}
	if dry {
		opts.DryRun = []string{metav1.DryRunAll}
	}
	var r dynamic.ResourceInterface = c.Dynamic.Resource(gvr)
	if namespace != "" {
		r = c.Dynamic.Resource(gvr).Namespace(namespace)
	}
	if err := r.Delete(ctx, name, opts); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %s: %w", gvr.Resource, name, explain(err))
	}
	return nil
}

// List are the objects of a resource with a label selector, in all namespaces or one. A resource that the server does not have
// has none.
func (c *Client) List(ctx context.Context, gvr schema.GroupVersionResource, namespace, selector string) ([]unstructured.Unstructured, error) {
	var out []unstructured.Unstructured
	var r dynamic.ResourceInterface = c.Dynamic.Resource(gvr)
	if namespace != "" {
		r = c.Dynamic.Resource(gvr).Namespace(namespace)
	}
	for next := ""; ; {
		list, err := r.List(ctx, metav1.ListOptions{LabelSelector: selector, Limit: 500, Continue: next})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", gvr.Resource, explain(err))
		}
		out = append(out, list.Items...)
		if next = list.GetContinue(); next == "" {
			return out, nil
		}
	}
}

// Name says which object is meant, as people do.
func Name(u *unstructured.Unstructured) string {
	name := strings.ToLower(u.GetKind()) + " " + u.GetName()
	if ns := u.GetNamespace(); ns != "" {
		name = strings.ToLower(u.GetKind()) + " " + ns + "/" + u.GetName()
	}
	return name
}

// ErrForbidden is wrapped when the API server knows us and lets us not.
var ErrForbidden = errors.New("not permitted")

// explain adds what to do to the errors everybody meets.
func explain(err error) error {
	var unasked *url.Error
	var stranger *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.Canceled):
	case errors.As(err, &stranger):
		return fmt.Errorf("the API server is not the one of the kubeconfig: %w; see \"kubectl cluster-info\"", stranger)
	case errors.As(err, &unasked):
		where := unasked.URL
		if u, parsed := url.Parse(unasked.URL); parsed == nil {
			where = u.Scheme + "://" + u.Host
		}
		return fmt.Errorf("the API server %s does not answer: %w; see \"kubectl cluster-info\"", where, unasked.Err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%w: %w; installing takes the rights of cluster-admin, see \"kubectl auth can-i --list\"", ErrForbidden, err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("the API server does not know who we are: %w; the kubeconfig's credentials may have expired, see \"kubectl auth whoami\"", err)
	}
	return err
}
