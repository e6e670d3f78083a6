package apply

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// recordName is the ConfigMap that says what is installed.
const recordName = "ambit-install"

// A Record is what was asked for when the mesh was installed, so that an upgrade asks for the same.
type Record struct {
	Version string
	Profile string
	// Values that were given, as YAML.
	Values string
	// Complete is false while an installation is under way, or if it was broken off.
	Complete bool
	At       time.Time
}

// Record reads what is installed; nil if nothing is.
func (c *Client) Record(ctx context.Context, namespace string) (*Record, error) {
	cm, err := c.Core.CoreV1().ConfigMaps(namespace).Get(ctx, recordName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is installed: %w", explain(err))
	}
	r := &Record{Version: cm.Data["version"], Profile: cm.Data["profile"], Values: cm.Data["values"], Complete: cm.Data["complete"] == "true"}
	r.At, _ = time.Parse(time.RFC3339, cm.Data["at"]) // only shown
	return r, nil
}

// Meshes are the namespaces in which something is installed.
func (c *Client) Meshes(ctx context.Context) ([]string, error) {
	list, err := c.Core.CoreV1().ConfigMaps(corev1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: LabelComponent + "=record"})
	if err != nil {
		return nil, fmt.Errorf("look for meshes: %w", explain(err))
	}
	var out []string
	for _, cm := range list.Items {
		out = append(out, cm.Namespace)
	}
	return out, nil
}

// Write says what is installed.
func (i *Installer) Write(ctx context.Context, r Record) error {
	if i.Dry {
		return nil
	}
	_, err := i.Client.Put(ctx, Object{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": recordName, "namespace": i.Namespace,
			"labels": map[string]any{LabelMesh: i.Namespace, LabelComponent: "record", labelPartOf: partOf, labelManagedBy: Manager},
		},
		"data": map[string]any{
			"version": r.Version, "profile": r.Profile, "values": r.Values,
			"complete": fmt.Sprint(r.Complete), "at": r.At.UTC().Format(time.RFC3339),
		},
	}, false)
	return err
}

// HelmRecord is what Helm installed in a namespace, as far as that can be seen; nil if it did not.
func (c *Client) HelmRecord(ctx context.Context, namespace string) (*Record, error) {
	d, err := c.Core.AppsV1().Deployments(namespace).Get(ctx, control, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what is installed: %w", explain(err))
	}
	if d.Annotations[annotationRelease] == "" {
		return nil, nil
	}
	return &Record{Version: d.Labels["app.kubernetes.io/version"], Profile: "of Helm", Complete: true, At: d.CreationTimestamp.Time}, nil
}
