package apply

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/user"
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
	// Run is which run of which ambitctl it is of, and By who runs it.
	Run, By string
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
	r := &Record{Version: cm.Data["version"], Profile: cm.Data["profile"], Values: cm.Data["values"], Complete: cm.Data["complete"] == "true", Run: cm.Data["run"], By: cm.Data["by"]}
	r.At, _ = time.Parse(time.RFC3339, cm.Data["at"]) // only shown
	return r, nil
}

// Meshes are the namespaces in which something is installed. A record alone is none: everybody may write one into a namespace
// of his, and every mesh has things that belong to no namespace.
func (c *Client) Meshes(ctx context.Context) ([]string, error) {
	list, err := c.Core.CoreV1().ConfigMaps(corev1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: LabelComponent + "=record"})
	if err != nil {
		return nil, fmt.Errorf("look for meshes: %w", explain(err))
	}
	var out []string
	for _, cm := range list.Items {
		if cm.Name != recordName {
			continue
		}
		roles, err := c.Core.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{LabelSelector: LabelMesh + "=" + cm.Namespace, Limit: 1})
		if err != nil {
			return nil, fmt.Errorf("look for meshes: %w", explain(err))
		}
		if len(roles.Items) > 0 {
			out = append(out, cm.Namespace)
		}
	}
	return out, nil
}

// Write says what is installed, or will be when this run has ended. With the first time the run begins: another one that is
// under way stops before its next step.
func (i *Installer) Write(ctx context.Context, r Record) error {
	if i.Dry {
		return nil
	}
	if i.run == "" {
		i.run = rand.Text()
	} else if err := i.undisturbed(ctx); err != nil {
		return err
	}
	r.Run, r.By = i.run, i.by()
	_, err := i.Client.Put(ctx, Object{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": recordName, "namespace": i.Namespace,
			"labels": map[string]any{LabelMesh: i.Namespace, LabelComponent: "record", labelPartOf: partOf, labelManagedBy: Manager},
		},
		"data": map[string]any{
			"version": r.Version, "profile": r.Profile, "values": r.Values,
			"complete": fmt.Sprint(r.Complete), "at": r.At.UTC().Format(time.RFC3339), "run": r.Run, "by": r.By,
		},
	}, false)
	return err
}

// ErrDisturbed is wrapped when somebody else changes the same mesh at the same time.
var ErrDisturbed = errors.New("somebody else changes this mesh at the same time")

// undisturbed refuses to go on when another run has begun since this one did: of two that delete what the other has just
// applied something would be missing in the end.
func (i *Installer) undisturbed(ctx context.Context) error {
	if i.run == "" || i.Dry {
		return nil
	}
	r, err := i.Client.Record(ctx, i.Namespace)
	switch {
	case err != nil:
		return err
	case r == nil:
		return fmt.Errorf("%w: it was uninstalled meanwhile; run this again to have it", ErrDisturbed)
	case r.Run != i.run:
		return fmt.Errorf("%w: %s, since %s; wait until that is done, then run this again", ErrDisturbed, cmp.Or(r.By, "another ambitctl"), r.At.Format(time.RFC3339))
	}
	return nil
}

// by says who runs this.
func (i *Installer) by() string {
	name := "ambitctl"
	if u, err := user.Current(); err == nil {
		name += " of " + u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += " at " + host
	}
	return name
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
	return &Record{Version: d.Labels["app.kubernetes.io/version"], Profile: HelmProfile, Complete: true, At: d.CreationTimestamp.Time}, nil
}
