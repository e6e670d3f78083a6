package resource

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	o, err := Parse([]byte("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n"), "shop")
	if err != nil || o.Key() != (Key{"Service", "shop", "web"}) {
		t.Fatalf("%v, %v", o, err)
	}
	if ns, err := Parse([]byte("{apiVersion: v1, kind: Namespace, metadata: {name: x, namespace: y}}"), "shop"); err != nil || ns.Namespace() != "" {
		t.Errorf("a Namespace has a namespace: %v %v", ns, err)
	}
	for doc, want := range map[string]string{
		"a: [":                      "not valid YAML",
		"a: 1\na: 2":                "not valid YAML",
		"- a":                       "not an object",
		"{apiVersion: v1}":          "kind is missing",
		"{apiVersion: v1, kind: A}": "metadata is missing",
		"{apiVersion: v1, kind: A, metadata: {name: " + strings.Repeat("a", 300) + "}}": "metadata.name",
		"{apiVersion: v1, kind: A, metadata: {name: ../../x}}":                          "metadata.name",
	} {
		if _, err := Parse([]byte(doc), "shop"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", doc, err, want)
		}
	}
}

// TestInherit applies an object a second time: what users and the lab added in between stays, what the document dropped goes.
func TestInherit(t *testing.T) {
	parse := func(doc string) Object {
		o, err := Parse([]byte(doc), "shop")
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	first := parse("{apiVersion: v1, kind: Service, metadata: {name: w, labels: {a: '1', b: '1'}}}")
	stored := first.Clone()
	stored.SetLabels(map[string]string{"added": "x"}, nil)
	stored.Set("10.96.0.77", "spec", "clusterIP")
	stored.Set("u", "metadata", "uid")
	second := parse("{apiVersion: v1, kind: Service, metadata: {name: w, labels: {a: '2'}}, spec: {ports: [{port: 1}]}}")
	Inherit(second, stored, first)
	labels := second.Labels()
	if len(labels) != 2 || labels["a"] != "2" || labels["added"] != "x" || second.UID() != "u" || second.Text("spec", "clusterIP") != "10.96.0.77" {
		t.Errorf("inherited %v", second)
	}
}

func TestParsePodSpec(t *testing.T) {
	for doc, want := range map[string]string{
		"{spec: {containers: [{name: a}]}}":                                "",
		"{spec: {}}":                                                       "spec.containers is empty",
		"{spec: {containers: [{name: a}, {name: a}]}}":                     `two are called "a"`,
		"{spec: {containers: [{name: 'a b'}]}}":                            "is not a container name",
		"{spec: {containers: [{name: a, command: ls}]}}":                   "containers",
		"{spec: {restartPolicy: Sometimes, containers: [{name: a}]}}":      "restartPolicy",
		"{spec: {containers: [{name: a, ports: [{containerPort: web}]}]}}": "containerPort",
	} {
		o, err := Parse([]byte("{apiVersion: v1, kind: Pod, metadata: {name: p}, "+doc[1:]), "shop")
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParsePodSpec(o, "spec")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", doc, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: a}]}}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		o, err := Parse(data, "shop")
		if err != nil {
			return
		}
		_, _ = ParsePodSpec(o, "spec")
		_ = o.List()
		_, _ = o.Clone().Marshal()
	})
}
