package render

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	helmengine "helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"

	"github.com/ambit-mesh/ambit/install/charts"
)

// cases are values that reach every branch of the charts.
var cases = map[string][]string{
	"defaults": nil,
	"images": {
		"global.hub=registry.example/mesh", "global.tag=1.31", "control.tag=2026", "cni.image=elsewhere.example/agent@sha256:1",
		"global.imagePullSecrets=[one, two]", "global.imagePullPolicy=Always", "ztunnel.hub=other.example",
	},
	"scaling": {
		"control.autoscaleEnabled=true", "control.autoscaleMax=9", "control.rollingMaxSurge=1", "control.podDisruptionBudget.minAvailable=50%",
		"gateway.enabled=true", "gateway.autoscaling.enabled=true", "gateway.podDisruptionBudget.enabled=true", "gateway.service.type=NodePort",
		"gateway.service.annotations={a.example/b: c}",
	},
	"narrow":  {"control.gatewayNamespaces=[edge, mesh]"},
	"secrets": {"control.gatewayNamespaces=[edge]", "control.secretNamespaces=[certs, edge]"},
	"single":  {"control.replicaCount=1"},
	"waypoints": {
		"control.waypoints.autoscaling.minReplicas=2", "control.waypoints.autoscaling.maxReplicas=6", "control.waypoints.podDisruptionBudget.enabled=false",
		"control.revisions=[blue, stable]", "control.serviceEntryVisibility=namespace",
	},
	"ebpf": {"cni.redirection=ebpf", "cni.chained=false", "cni.excludeNamespaces=[kube-system, other]", "cni.ambient.enablementSelectors=[{podSelector: {matchLabels: {mesh: \"yes\"}}}]"},
	"policies": {
		"global.networkPolicy.enabled=true", "control.networkPolicies=true", "control.dryRunPolicies=true", "control.taint.enabled=true", "base.validationPolicies=false",
		"base.aggregateRoles=false", "base.excludedCRDs=[envoyfilters.networking.istio.io]", "base.dashboards.enabled=true", "base.monitors.enabled=true",
	},
	"openshift":           {"global.platform=openshift", "base.enableIstioConfigCRDs=false"},
	"openshift as others": {"global.platform=openshift", "cni.chained=true", "cni.cniConfDir=/etc/kubernetes/cni/net.d"},
	"alone":               {"cni.chained=false", "cni.cniConfFileName=zz.conf"},
	"gke":                 {"global.platform=gke", "cni.resourceQuotas.pods=200"},
	"placement": {
		"control.nodeSelector={disk: fast}", "control.tolerations=[{operator: Exists}]", "control.affinity={nodeAffinity: {}}", "ztunnel.nodeSelector={a: b}",
		"control.topologySpreadConstraints=[{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]",
		"control.podAnnotations={x: y}", "control.podLabels={x: y}", "control.serviceAnnotations={x: y}", "cni.podLabels={x: y}", "ztunnel.podAnnotations={x: y}",
	},
	"extras": {
		"control.gatewayOverlays=any",
		"control.env={PILOT_AUTO_ALLOW_WAYPOINT_POLICY: \"true\"}", "control.extraArgs=[--jwks-private=false]", "control.servingNames=[mesh.example]",
		"ztunnel.env={A: 1}", "ztunnel.crlConfigMap=revoked", "control.crlConfigMap=revoked", "control.rootNamespace=istio-system", "cni.env={B: true}", "control.gatewayClasses={istio-waypoint: {podDisruptionBudget: {spec: {minAvailable: 1}}}}",
		"global.network=west", "global.xdsAddress=https://control.example:15012", "global.caAddress=https://ca.example:443", "global.logAsJson=true",
		"ztunnel.terminationGracePeriodSeconds=1000000", "global.istioNamespace=elsewhere", "control.trustedZtunnelNamespace=kube-system",
	},
	"waypoint": {"gateway.enabled=true", "gateway.name=waypoint", "gateway.gatewayClassName=istio-waypoint", "gateway.waypointFor=all", "gateway.labels={a: b}"},
}

// TestHelm: Helm renders the same objects from the charts as we do, and finds nothing wrong with the values.
func TestHelm(t *testing.T) {
	try := func(name, profile string, sets ...string) {
		t.Run(name, func(t *testing.T) {
			v := values(t, profile, sets...)
			// Definitions are large, and few values change them.
			if !strings.Contains(strings.Join(sets, " "), "base.") {
				v.Disable(charts.Base)
			}
			ours, err := Render(v, Options{Namespace: "mesh-system", Version: "v1.2.3"})
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range ours {
				theirs := helm(t, c.Name, v.Chart(c.Name), "mesh-system", "v1.2.3")
				if diff := cmp.Diff(theirs, c.Objects); diff != "" {
					t.Errorf("%s (-helm +ours)\n%s", c.Name, diff)
				}
			}
		})
	}
	for name, sets := range cases {
		try(name, DefaultProfile, sets...)
	}
	for _, profile := range Profiles() {
		try("profile "+profile, profile, "base.enableIstioConfigCRDs=false")
	}
}

// TestHelmOld does it for the oldest API server.
func TestHelmOld(t *testing.T) {
	v := values(t, "")
	ours, err := Render(v, Options{Namespace: "mesh-system", Version: "v1.2.3", KubeMinor: 29})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range ours {
		theirs := helmFor(t, c.Name, v.Chart(c.Name), "mesh-system", "v1.2.3", "v1.29.0")
		if diff := cmp.Diff(theirs, c.Objects); diff != "" {
			t.Errorf("%s (-helm +ours)\n%s", c.Name, diff)
		}
	}
}

// TestHelmStrict: a key that means nothing is refused by Helm as well.
func TestHelmStrict(t *testing.T) {
	for _, name := range charts.Names() {
		_, err := helmTemplate(name, map[string]any{"noSuchValue": 1}, "x", "v1", "")
		if err == nil || !strings.Contains(err.Error(), "noSuchValue") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func values(t *testing.T, profile string, sets ...string) *Values {
	t.Helper()
	var sources []Source
	for _, s := range sets {
		sources = append(sources, Source{Set: s})
	}
	v, err := NewValues(profile, sources...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func helm(t *testing.T, name string, values map[string]any, namespace, version string) []Object {
	t.Helper()
	return helmFor(t, name, values, namespace, version, "v1.36.0")
}

func helmFor(t *testing.T, name string, values map[string]any, namespace, version, kube string) []Object {
	t.Helper()
	rendered, err := helmTemplate(name, values, namespace, version, kube)
	if err != nil {
		t.Fatal(err)
	}
	var out []Object
	for _, path := range slices.Sorted(func(yield func(string) bool) {
		for p := range rendered {
			if !yield(p) {
				return
			}
		}
	}) {
		if strings.HasPrefix(filepath.Base(path), "_") {
			continue
		}
		// Helm splits documents at their borders, too.
		for doc := range strings.SplitSeq("\n"+rendered[path], "\n---") {
			var o Object
			if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if len(o) > 0 {
				out = append(out, o)
			}
		}
	}
	Sort(out)
	return out
}

// helmTemplate is "helm template" without the command line.
func helmTemplate(name string, values map[string]any, namespace, version, kube string) (map[string]string, error) {
	chart, err := loader.LoadDir(filepath.Join("..", "charts", name))
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	chart.Metadata.AppVersion = version
	caps := common.DefaultCapabilities.Copy()
	if kube != "" {
		k, err := common.ParseKubeVersion(kube)
		if err != nil {
			return nil, err
		}
		caps.KubeVersion = *k
	}
	all, err := util.ToRenderValues(chart, values, common.ReleaseOptions{Name: name, Namespace: namespace, Revision: 1, IsInstall: true}, caps)
	if err != nil {
		return nil, err
	}
	return helmengine.Render(chart, all)
}

// TestChartFiles: what is generated in the charts is up to date, as far as it can be seen from here.
func TestChartFiles(t *testing.T) {
	shared, err := os.ReadFile("../charts/shared/_ambit.tpl")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range charts.Names() {
		got, err := charts.Files.ReadFile(name + "/templates/_ambit.tpl")
		if err != nil {
			t.Fatal(err)
		}
		own, err := os.ReadFile("../charts/shared/values/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		all, err := charts.Files.ReadFile(name + "/values.yaml")
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(shared) || !strings.Contains(string(all), string(own)) {
			t.Errorf("chart %s is not what is in install/charts/shared: run make generate", name)
		}
	}
}
