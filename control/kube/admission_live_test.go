package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/admission"
	"github.com/ambit-mesh/ambit/api/folder"
)

// warnings collects what the API server warns of.
type warnings struct {
	mu    sync.Mutex
	texts []string
}

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.texts, "\n")
	w.texts = nil
	return text
}

// plural is where an object of a document is.
func plural(u *unstructured.Unstructured) schema.GroupVersionResource {
	gvk := u.GroupVersionKind()
	name := strings.ToLower(gvk.Kind)
	switch {
	case strings.HasSuffix(name, "cy"), strings.HasSuffix(name, "ry"):
		name = strings.TrimSuffix(name, "y") + "ies"
	case strings.HasSuffix(name, "s"):
		name += "es"
	default:
		name += "s"
	}
	return gvk.GroupVersion().WithResource(name)
}

// definitions installs the CustomResourceDefinitions of Istio and of the Gateway API that the API server lacks.
func definitions(t *testing.T, client dynamic.Interface) {
	t.Helper()
	dir := func(module string) string {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	files, err := filepath.Glob(filepath.Join(dir("sigs.k8s.io/gateway-api"), "config", "crd", "standard", "gateway*s.yaml"))
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, file := range append(files, filepath.Join(dir("istio.io/api"), "kubernetes", "customresourcedefinitions.gen.yaml")) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for doc := range folder.Documents(data) {
			u := decodeDoc(t, doc.Data)
			if u == nil || u.GetKind() != "CustomResourceDefinition" {
				continue
			}
			if _, err := crds.Create(t.Context(), u, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatal(err)
			}
		}
	}
}

// decodeDoc is a document as client-go has it, nil for an empty one.
func decodeDoc(t *testing.T, data []byte) *unstructured.Unstructured {
	t.Helper()
	raw, err := yaml.YAMLToJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc) == 0 {
		return nil
	}
	u, err := plain(doc)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// A real API server denies what api/admission says it denies, in its words, and nothing that is good.
func TestLiveAdmission(t *testing.T) {
	c := live(t)
	ns := scratch(t, c)
	config := rest.CopyConfig(c.config)
	said := &warnings{}
	config.WarningHandler, config.WarningHandlerWithContext = said, nil
	config.ContentType, config.AcceptContentTypes = "application/json", "application/json"
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	definitions(t, client)
	for _, o := range admission.Objects() {
		u, err := plain(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Resource(plural(u)).Apply(t.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "test", Force: true}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = client.Resource(plural(u)).Delete(context.Background(), u.GetName(), metav1.DeleteOptions{})
		})
	}
	rules := map[string]admission.Rule{}
	for _, r := range admission.Rules() {
		rules[r.Resource.Kind+" "+r.Name] = r
	}
	try := func(u *unstructured.Unstructured) error {
		said.take()
		var r dynamic.ResourceInterface = client.Resource(plural(u))
		if u.GetNamespace() != "" {
			r = client.Resource(plural(u)).Namespace(ns)
			u.SetNamespace(ns)
		}
		u.SetName(u.GetName() + "-" + ns[len(ns)-6:])
		_, err := r.Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	ours := 0
	for _, doc := range samplesOf(t, "bad.yaml") {
		rule, ok := rules[doc.GetKind()+" "+doc.GetName()]
		if !ok {
			t.Fatalf("%s %s: there is no such rule", doc.GetKind(), doc.GetName())
		}
		var problem string
		deadline := time.Now().Add(20 * time.Second) // policies take effect a moment after they were made
		for {
			err := try(doc.DeepCopy())
			if problem = verdict(rule, err, said.take()); problem == "" {
				if err == nil || strings.Contains(err.Error(), rule.Message()) {
					ours++
				} else {
					t.Logf("%s %s is refused by the definition of its kind already: %v", rule.Resource.Kind, rule.Name, err)
				}
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s %s: %s", rule.Resource.Kind, rule.Name, problem)
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	if ours != len(rules) {
		t.Errorf("%d of %d mistakes are found by the policies; the others are refused before and need no rule", ours, len(rules))
	}
	for _, doc := range samplesOf(t, "good.yaml") {
		if err := try(doc.DeepCopy()); err != nil {
			t.Errorf("%s %s is good: %v", doc.GetKind(), doc.GetName(), err)
		} else if text := said.take(); strings.Contains(text, suffixOfPolicies) {
			t.Errorf("%s %s is good: %s", doc.GetKind(), doc.GetName(), text)
		}
	}
	checked(t, client)
}

const suffixOfPolicies = ".ambit.io"

// verdict says what is wrong with an answer, or nothing.
func verdict(rule admission.Rule, err error, warned string) string {
	switch {
	case rule.Warn && err != nil:
		return fmt.Sprintf("should only warn: %v", err)
	case rule.Warn && !strings.Contains(warned, rule.Message()):
		return fmt.Sprintf("does not warn; all that is said: %q", warned)
	case !rule.Warn && err == nil:
		return "is taken"
	case !rule.Warn && !apierrors.IsInvalid(err):
		return fmt.Sprintf("the reason is not Invalid: %v", err)
	}
	return ""
}

func samplesOf(t *testing.T, file string) []*unstructured.Unstructured {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "api", "admission", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for doc := range folder.Documents(data) {
		if u := decodeDoc(t, doc.Data); u != nil {
			out = append(out, u)
		}
	}
	return out
}

// checked fails if the API server's type checker found something to say about an expression.
func checked(t *testing.T, client dynamic.Interface) {
	t.Helper()
	list, err := client.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingadmissionpolicies"}).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		found, _, _ := unstructured.NestedSlice(p.Object, "status", "typeChecking", "expressionWarnings")
		for _, w := range found {
			t.Errorf("%s: %v", p.GetName(), w)
		}
	}
}
