package apply

import (
	"errors"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"
)

func TestHelmRecord(t *testing.T) {
	for release, want := range map[string]string{"ambit-control": "v1.2.3", "": ""} {
		d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: mesh, Name: control, Labels: map[string]string{"app.kubernetes.io/version": "v1.2.3"}}}
		if release != "" {
			d.Annotations = map[string]string{annotationRelease: release}
		}
		c := &Client{Core: kubefake.NewClientset(d)}
		r, err := c.HelmRecord(t.Context(), mesh)
		if err != nil || (r != nil) != (want != "") || r != nil && (r.Version != want || !r.Complete) {
			t.Errorf("%q: %+v, %v", release, r, err)
		}
		if r, err := c.HelmRecord(t.Context(), "elsewhere"); r != nil || err != nil {
			t.Errorf("nothing is installed there: %v, %v", r, err)
		}
	}
}

func recordOf(namespace string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: recordName, Labels: map[string]string{LabelComponent: "record"}}, Data: data}
}

// TestMeshes: whoever may write ConfigMaps in a namespace of his cannot make a mesh there, nor keep others from installing one.
func TestMeshes(t *testing.T) {
	c := &Client{Core: kubefake.NewClientset(recordOf(mesh, nil), recordOf("tenant", nil),
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "ambitd-" + mesh, Labels: map[string]string{LabelMesh: mesh}}})}
	if got, err := c.Meshes(t.Context()); err != nil || !slices.Equal(got, []string{mesh}) {
		t.Errorf("%v, %v", got, err)
	}
}

// TestDisturbed: of two that change a mesh at once the one that began first stops before it applies or deletes anything more.
func TestDisturbed(t *testing.T) {
	for want, c := range map[string]*Client{
		"ambitctl of eve at laptop, since 2026": {Core: kubefake.NewClientset(recordOf(mesh, map[string]string{"run": "two", "by": "ambitctl of eve at laptop", "at": "2026-11-21T20:00:00Z"}))},
		"it was uninstalled meanwhile":          {Core: kubefake.NewClientset()},
	} {
		i := &Installer{Client: c, Namespace: mesh, run: "one"}
		for what, err := range map[string]error{
			"apply": i.Apply(t.Context(), Step{Component: "base"}), "prune": i.Prune(t.Context(), nil), "write": i.Write(t.Context(), Record{}),
		} {
			if !errors.Is(err, ErrDisturbed) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", what, err, want)
			}
		}
	}
	i := &Installer{Client: &Client{Core: kubefake.NewClientset(recordOf(mesh, map[string]string{"run": "one"}))}, Namespace: mesh, run: "one"}
	if err := i.undisturbed(t.Context()); err != nil {
		t.Errorf("alone: %v", err)
	}
}
