package cluster

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing/fstest"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// meshNamespaces are those of the mesh's tests. Gateway API conformance/utils/suite MeshNamespace, MeshConsumerNamespace
func meshNamespaces() []string {
	return []string{"gateway-conformance-mesh", "gateway-conformance-mesh-consumer"}
}

// waypoint is how an operator has a namespace's services handled by a waypoint. It is no part of the manifests: the suite
// gives every Gateway in them the class under test.
func waypoint(namespace string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"metadata": map[string]any{"name": "waypoint", "namespace": namespace, "labels": map[string]any{"istio.io/waypoint-for": "service"}},
		"spec": map[string]any{
			"gatewayClassName": "istio-waypoint",
			"listeners":        []any{map[string]any{"name": "mesh", "port": int64(15008), "protocol": "HBONE"}},
		},
	}}
}

// labels enrol a namespace.
const labels = `    istio.io/dataplane-mode: ambient
    istio.io/use-waypoint: waypoint
`

var (
	image     = regexp.MustCompile(`registry\.k8s\.io/gateway-api/(echo-basic|echo-advanced):\S+`)
	nameImage = regexp.MustCompile(`registry\.k8s\.io/coredns/coredns:\S+`)
	namespace = regexp.MustCompile(`(?m)^kind: Namespace\nmetadata:\n  name: (\S+)\n  labels:\n`)
)

// meshManifests is the file that the mesh's tests share.
const meshManifests = "mesh/manifests.yaml"

// Manifests are the suite's own, with images of hub and tag for those of its registry, dns for that of its name server
// (empty for the suite's), and with the namespaces of the mesh enrolled.
func Manifests(from fs.FS, hub, tag, dns string) (fs.FS, error) {
	out := fstest.MapFS{}
	enrolled := map[string]bool{}
	err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".yaml") {
			return err
		}
		data, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		text := image.ReplaceAllString(string(data), hub+"/$1:"+tag)
		if dns != "" {
			text = nameImage.ReplaceAllLiteralString(text, dns)
		}
		if name == meshManifests {
			text = namespace.ReplaceAllStringFunc(text, func(s string) string {
				enrolled[namespace.FindStringSubmatch(s)[1]] = true
				return s + labels
			})
		}
		out[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, ns := range meshNamespaces() {
		if !enrolled[ns] {
			return nil, fmt.Errorf("%s has no Namespace %s to enrol: the module has changed, and this package must follow", meshManifests, ns)
		}
	}
	return out, nil
}
