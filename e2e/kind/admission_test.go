//go:build kind

package kind

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/ambit-mesh/ambit/api/admission"
)

// admits ends the story where the API server has no ValidatingAdmissionPolicies, and returns the minor version otherwise.
func (c *cluster) admits() int {
	c.Helper()
	version, err := c.client.Discovery().ServerVersion()
	c.must(err)
	minor, err := strconv.Atoi(strings.TrimSuffix(version.Minor, "+"))
	c.must(err)
	if minor < 30 {
		c.Skipf("Kubernetes %s has no ValidatingAdmissionPolicy", version)
	}
	return minor
}

// warned collects what the API server warns of.
type warned struct {
	mu    sync.Mutex
	texts []string
}

func (w *warned) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts = append(w.texts, text)
}

func (w *warned) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := strings.Join(w.texts, "\n")
	w.texts = nil
	return text
}

// asker is the same cluster for somebody who hears its warnings.
func (c *cluster) asker() (*cluster, *warned) {
	c.Helper()
	said := &warned{}
	config := rest.CopyConfig(c.config)
	config.WarningHandler, config.WarningHandlerWithContext = said, nil
	other := *c
	var err error
	other.dynamic, err = dynamic.NewForConfig(config)
	c.must(err)
	return &other, said
}

// wouldTake has the API server judge an object without making it.
func (c *cluster) wouldTake(ns string, o *unstructured.Unstructured) error {
	o = o.DeepCopy()
	if o.SetNamespace(ns); o.GetKind() == "Namespace" {
		o.SetNamespace("")
	}
	r, err := c.of(o)
	if err == nil {
		_, err = r.Create(c.ctx, o, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	}
	return err
}

// TestAdmission makes each mistake that the mesh's policies know of: the API server refuses it, or warns, and says the field and
// the fix. What is good passes without a word. Every policy that is installed is there for one of the mistakes.
func TestAdmission(t *testing.T) {
	const ns = "admission"
	c := open(t)
	c.admits()
	c.namespace(ns)
	c, said := c.asker()
	const policies = "ValidatingAdmissionPolicy"
	silent := map[string]bool{}
	r, err := c.resource(policies+".admissionregistration.k8s.io", "")
	c.must(err)
	list, err := r.List(c.ctx, metav1.ListOptions{})
	c.must(err)
	for _, p := range list.Items {
		if !strings.HasSuffix(p.GetName(), ".ambit.io") {
			continue
		}
		silent[p.GetName()] = true
		found, _, _ := unstructured.NestedSlice(p.Object, "status", "typeChecking", "expressionWarnings")
		for _, w := range found {
			t.Errorf("the API server does not like an expression of %s: %v", p.GetName(), w)
		}
	}
	if len(silent) == 0 {
		t.Fatal("no policy is installed: ambitctl upgrade --set base.validationPolicies=true")
	}
	rules := map[string]admission.Rule{}
	for _, r := range admission.Rules() {
		rules[r.Resource.Kind+" "+r.Name] = r
	}
	file := func(name string) string {
		data, err := os.ReadFile(filepath.Join(root, "api/admission/testdata", name))
		c.must(err)
		return string(data)
	}
	c.must(c.each(ns, file("bad.yaml"), func(o *unstructured.Unstructured) error {
		name := o.GetKind() + " " + o.GetName()
		rule, ok := rules[name]
		if !ok {
			return fmt.Errorf("there is no such rule")
		}
		delete(rules, name)
		// Policies of a mesh that has just been installed act after a moment.
		c.eventually(name+" is told", func() error {
			said.take()
			err := c.wouldTake(ns, o)
			text := said.take()
			switch {
			case rule.Warn && err != nil:
				return fmt.Errorf("it should be warned of only: %w", err)
			case !rule.Warn && !apierrors.IsInvalid(err):
				return fmt.Errorf("the answer is not Invalid: %w", err)
			case err != nil:
				text = err.Error()
			}
			if !strings.Contains(text, rule.Field) || !strings.Contains(text, rule.Message()) {
				return fmt.Errorf("%q is not said, but %q", rule.Message(), text)
			}
			for p := range silent {
				if strings.Contains(text, "'"+p+"'") {
					delete(silent, p)
				}
			}
			return nil
		})
		return nil
	}))
	for name := range rules {
		t.Errorf("nobody made the mistake %s", name)
	}
	if len(silent) > 0 {
		t.Errorf("nothing was said by %v", slices.Sorted(maps.Keys(silent)))
	}
	c.must(c.each(ns, file("good.yaml"), func(o *unstructured.Unstructured) error {
		said.take()
		err := c.wouldTake(ns, o)
		if text := said.take(); err == nil && strings.Contains(text, policies) {
			err = fmt.Errorf("it is good, and warned of: %s", text)
		}
		if err != nil {
			t.Errorf("%s %s: %v", o.GetKind(), o.GetName(), err)
		}
		return nil
	}))
	// The namespace of Kubernetes' own parts is left alone.
	c.must(c.each(ns, file("bad.yaml"), func(o *unstructured.Unstructured) error {
		if o.GetKind() == "Namespace" {
			return nil
		}
		said.take()
		err := c.wouldTake("kube-system", o)
		if text := said.take() + fmt.Sprint(err); strings.Contains(text, policies) {
			t.Errorf("%s %s in kube-system: %s", o.GetKind(), o.GetName(), text)
		}
		return nil
	}))
}
