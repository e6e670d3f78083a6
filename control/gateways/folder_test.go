package gateways

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/api/document"
	"github.com/ambit-mesh/ambit/api/folder"
	"github.com/ambit-mesh/ambit/control/status"
)

// place is a folder with a Reconciler at work on it.
type place struct {
	t    *testing.T
	root string
}

func newPlace(t *testing.T, files map[string]string) *place {
	t.Helper()
	p := &place{t, t.TempDir()}
	for name, text := range files {
		p.write(name, text)
	}
	f := NewFolder(p.root, "made", slog.New(slog.DiscardHandler))
	r := New(Config{Applier: f, Status: status.New()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- f.Run(ctx, r) }()
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

func (p *place) write(name, text string) {
	p.t.Helper()
	file := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) read(name string) Object {
	data, err := os.ReadFile(filepath.Join(p.root, name))
	if err != nil {
		return nil
	}
	var o Object
	if err := yaml.Unmarshal(data, &o); err != nil {
		p.t.Fatal(err)
	}
	return o
}

func (p *place) await(what string, ok func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			p.t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

const deployment = "made/deployment_shop_way.yaml"

// TestFolder goes through the files of a waypoint's life.
func TestFolder(t *testing.T) {
	p := newPlace(t, map[string]string{
		"way.yaml": gateway,
		// What ran for a Gateway that went away while nobody looked.
		"made/service_shop_old.yaml": `{apiVersion: v1, kind: Service, metadata: {name: old, namespace: shop, labels: {gateway.istio.io/managed: istio.io-mesh-controller, gateway.networking.k8s.io/gateway-name: old}}}`,
		"made/service_shop_own.yaml": `{apiVersion: v1, kind: Service, metadata: {name: own, namespace: shop}}`,
		"notes.yaml":                 "a: [",
	})
	p.await("the Deployment", func() bool { return p.read(deployment) != nil })
	p.await("the orphan to go", func() bool { return p.read("made/service_shop_old.yaml") == nil })
	p.await("the classes", func() bool {
		return document.Text(p.read("made/gatewayclass_istio-waypoint.yaml"), "status", "conditions") == ""
	})
	if p.read("made/service_shop_own.yaml") == nil {
		t.Error("somebody's Service is gone")
	}
	service := "made/service_shop_way.yaml"
	p.await("the Service", func() bool { return p.read(service) != nil })

	// Others add to what was made: a cluster an address, people replicas and labels.
	p.edit(service, func(o Object) { o["spec"].(map[string]any)["clusterIP"] = "10.96.1.2" })
	p.edit(deployment, func(o Object) {
		o["spec"].(map[string]any)["replicas"] = 4
		o["metadata"].(map[string]any)["labels"].(map[string]any)["team"] = "net"
	})
	p.write("pod.yaml", pod("True"))
	p.await("the addresses", func() bool {
		list := document.Items(p.read("way.yaml"), "status", "addresses")
		return len(list) == 2 && document.Text(list[1], "value") == "10.96.1.2"
	})
	// A label for all comes, and goes again, and what others added stays.
	p.edit("way.yaml", func(o Object) {
		o["spec"].(map[string]any)["infrastructure"] = map[string]any{"labels": map[string]any{"tier": "one"}}
	})
	p.await("the new label", func() bool { return document.Strings(p.read(deployment), "metadata", "labels")["tier"] == "one" })
	p.edit("way.yaml", func(o Object) { delete(o["spec"].(map[string]any), "infrastructure") })
	p.await("the label to go", func() bool { return document.Strings(p.read(deployment), "metadata", "labels")["tier"] == "" })
	if o := p.read(deployment); document.Number(o, "spec", "replicas") != 4 || document.Strings(o, "metadata", "labels")["team"] != "net" {
		t.Errorf("what others added is gone: %v", o["metadata"])
	}

	if err := folder.Remove(p.root, deployment); err != nil {
		t.Fatal(err)
	}
	p.await("the Deployment to come back", func() bool { return p.read(deployment) != nil })
	if err := folder.Remove(p.root, "way.yaml"); err != nil {
		t.Fatal(err)
	}
	p.await("everything to go", func() bool { return p.read(deployment) == nil && p.read(service) == nil })
}

// edit changes a file as a program does that knows of others.
func (p *place) edit(name string, change func(o Object)) {
	p.t.Helper()
	err := folder.Edit(p.root, name, func(o map[string]any) (map[string]any, error) { change(o); return o, nil })
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestFolderSeveralDocuments: a file with more than one document has no place for a status, and loses nothing.
func TestFolderSeveralDocuments(t *testing.T) {
	both := gateway + "\n---\n" + strings.ReplaceAll(strings.ReplaceAll(gateway, "name: way", "name: two"), "u1", "u2") + "\n"
	p := newPlace(t, map[string]string{"both.yaml": both})
	p.await("both Deployments", func() bool { return p.read(deployment) != nil && p.read("made/deployment_shop_two.yaml") != nil })
	if data, err := os.ReadFile(filepath.Join(p.root, "both.yaml")); err != nil || string(data) != both {
		t.Errorf("the file is now %s, %v", data, err)
	}
}
