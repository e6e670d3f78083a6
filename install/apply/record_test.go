package apply

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
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
