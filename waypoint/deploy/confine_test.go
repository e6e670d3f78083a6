package deploy

import (
	"errors"
	"strings"
	"testing"
)

// TestConfined: an overlay of the Gateway's owner says how much of a gateway runs and where. What runs, as whom, and with
// what of the node's and the namespace's things is not his to say, however it is written.
func TestConfined(t *testing.T) {
	render := func(key, text string) error {
		_, err := Render(waypoint(), []Overlay{{Source: "ConfigMap shop/mine", Confined: true, Documents: map[string]Object{key: object(t, text)}}}, Config{})
		return err
	}
	pod := func(text string) string { return `{"spec": {"template": {"spec": {` + text + `}}}}` }
	proxy := func(text string) string { return pod(`"containers": [{"name": "istio-proxy", ` + text + `}]`) }
	annotated := func(name string) string {
		return `{"spec": {"template": {"metadata": {"annotations": {"` + name + `": "x"}}}}}`
	}
	for _, c := range [][2]string{
		{keyDeployment, annotated("example.com/networks")},
		{keyDeployment, `{"metadata": {"labels": {"team": "x"}, "annotations": {"a.b/c": "d"}}, "spec": {"replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": 2}}}}`},
		{keyDeployment, `{"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"selector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "waypoint"}}}}`},
		{keyDeployment, pod(`"nodeSelector": {"pool": "edge"}, "tolerations": [{"key": "edge"}], "affinity": {"podAntiAffinity": {}}, "priorityClassName": "high", "terminationGracePeriodSeconds": 90`)},
		{keyDeployment, pod(`"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1}], "imagePullSecrets": [{"name": "mine"}]`)},
		{keyDeployment, proxy(`"resources": {"limits": {"cpu": null, "memory": "2Gi"}}, "env": [{"name": "AMBIT_LOG_LEVEL", "value": "debug"}], "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}`)},
		{keyDeployment, proxy(`"readinessProbe": {"periodSeconds": 3, "failureThreshold": 9}, "ports": [{"containerPort": 15090, "name": "http-envoy-prom"}]`)},
		{keyService, `{"metadata": {"annotations": {"lb": "internal"}}, "spec": {"type": "NodePort", "ports": [{"port": 15021, "$patch": "delete"}], "externalTrafficPolicy": "Local"}}`},
		{keyServiceAccount, `{"metadata": {"annotations": {"role": "x"}}, "imagePullSecrets": [{"name": "mine"}]}`},
		{keyAutoscaler, `{"spec": {"minReplicas": 2, "maxReplicas": 9, "behavior": {"scaleUp": {}}}}`},
		{keyBudget, `{"spec": {"minAvailable": null, "maxUnavailable": 1}}`},
	} {
		if err := render(c[0], c[1]); err != nil {
			t.Errorf("%s: %v", c[1], err)
		}
	}
	for _, c := range [][3]string{
		{keyDeployment, pod(`"hostNetwork": true`), "spec.template.spec.hostNetwork"},
		{keyDeployment, pod(`"hostPID": true`), "hostPID"},
		{keyDeployment, pod(`"nodeName": "control-plane"`), "nodeName"},
		{keyDeployment, pod(`"serviceAccountName": "admin"`), "serviceAccountName"},
		{keyDeployment, pod(`"automountServiceAccountToken": true`), "automountServiceAccountToken"},
		{keyDeployment, pod(`"securityContext": null`), "securityContext.seccompProfile"},
		{keyDeployment, pod(`"volumes": [{"name": "root", "hostPath": {"path": "/"}}]`), "volumes.root"},
		{keyDeployment, pod(`"volumes": [{"name": "istio-data", "emptyDir": null, "secret": {"secretName": "db"}}]`), "volumes.istio-data"},
		{keyDeployment, pod(`"volumes": [{"name": "istio-token", "projected": {"sources": [{"secret": {"name": "db"}}]}}]`), "volumes.istio-token.projected.sources"},
		{keyDeployment, pod(`"containers": [{"name": "mine", "image": "shell"}]`), "containers.mine"},
		{keyDeployment, pod(`"containers": [{"name": "mine"}]`), "containers.mine"},
		{keyDeployment, pod(`"initContainers": [{"name": "first", "image": "shell"}]`), "initContainers.first"},
		{keyDeployment, pod(`"containers": [{"$patch": "replace"}, {"name": "istio-proxy", "image": "shell"}]`), "istio-proxy"},
		{keyDeployment, pod(`"containers": [{"name": "istio-proxy", "$patch": "replace", "image": "shell"}]`), "istio-proxy"},
		{keyDeployment, `{"spec": {"template": {"$patch": "replace", "spec": {"hostNetwork": true}}}}`, "spec.template.spec"},
		{keyDeployment, `{"$patch": "replace", "kind": "Deployment", "apiVersion": "apps/v1"}`, "metadata"},
		{keyDeployment, proxy(`"image": "shell"`), "image"},
		{keyDeployment, proxy(`"command": ["sh"]`), "command"},
		{keyDeployment, proxy(`"args": ["--tools-address=:1"]`), "args"},
		{keyDeployment, proxy(`"securityContext": {"privileged": true}`), "securityContext.privileged"},
		{keyDeployment, proxy(`"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}`), "securityContext.capabilities.add"},
		{keyDeployment, proxy(`"volumeMounts": [{"mountPath": "/x", "name": "istio-token"}]`), "volumeMounts"},
		{keyDeployment, proxy(`"ports": [{"containerPort": 80, "hostPort": 80}]`), "ports"},
		{keyDeployment, proxy(`"lifecycle": {"postStart": {"exec": {"command": ["sh"]}}}`), "lifecycle.postStart"},
		{keyDeployment, proxy(`"readinessProbe": {"exec": {"command": ["sh"]}}`), "readinessProbe.exec"},
		{keyDeployment, proxy(`"readinessProbe": {"httpGet": {"host": "169.254.169.254"}}`), "readinessProbe.httpGet.host"},
		{keyDeployment, proxy(`"env": [{"name": "CA_ADDR", "value": "evil:1"}]`), "env.CA_ADDR.value"},
		{keyDeployment, proxy(`"env": [{"name": "AMBIT_LOG_LEVEL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}]`), "env.AMBIT_LOG_LEVEL.valueFrom"},
		{keyDeployment, proxy(`"env": [{"$patch": "replace"}, {"name": "GOGC", "valueFrom": {}}, {"name": "GOGC", "value": "1"}]`), "env"},
		{keyDeployment, proxy(`"envFrom": [{"secretRef": {"name": "db"}}]`), "envFrom"},
		{keyDeployment, pod(`"priorityClassName": "system-node-critical"`), "priorityClassName system-node-critical"},
		{keyDeployment, annotated("k8s.v1.cni.cncf.io/networks"), "annotations.k8s.v1.cni.cncf.io/networks"},
		{keyDeployment, annotated("container.apparmor.security.beta.kubernetes.io/istio-proxy"), "annotations.container.apparmor"},
		{keyDeployment, annotated("container.seccomp.security.alpha.kubernetes.io/istio-proxy"), "annotations.container.seccomp"},
		{keyDeployment, annotated("io.kubernetes.cri-o.userns-mode"), "annotations.io.kubernetes.cri-o"},
		{keyService, `{"spec": {"selector": {"app": "db"}}}`, "spec.selector.app"},
		{keyService, `{"spec": {"externalIPs": ["10.0.0.1"]}}`, "spec.externalIPs"},
		{keyService, `{"metadata": {"ownerReferences": null}}`, "metadata.ownerReferences"},
		{keyServiceAccount, `{"secrets": [{"name": "x"}]}`, "secrets"},
		{keyAutoscaler, `{"spec": {"scaleTargetRef": {"name": "db"}}}`, "spec.scaleTargetRef.name"},
		{keyBudget, `{"spec": {"selector": {"matchLabels": {"app": "db"}}}}`, "spec.selector.matchLabels"},
	} {
		err := render(c[0], c[1])
		if !errors.Is(err, ErrConfined) || !strings.Contains(err.Error(), c[2]) || !strings.Contains(err.Error(), "ConfigMap shop/mine: "+c[0]) {
			t.Errorf("%s\nis answered %v, want %s", c[1], err, c[2])
		}
	}
}

// TestReservedAnnotations: what an overlay of the Gateway's owner may not say, his Gateway may not say either; one of the mesh's own
// namespace may, and then his may leave it as it is.
func TestReservedAnnotations(t *testing.T) {
	g := waypoint()
	g.InfrastructureAnnotations = map[string]string{"k8s.v1.cni.cncf.io/networks": "kube-system/host"}
	if _, err := Render(g, nil, Config{}); !errors.Is(err, ErrConfined) || !strings.Contains(err.Error(), "spec.infrastructure.annotations: k8s.v1.cni.cncf.io/networks") {
		t.Errorf("%v", err)
	}
	all := object(t, `{"spec": {"template": {"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "a"}}, "spec": {"priorityClassName": "system-cluster-critical"}}}}`)
	mine := object(t, `{"spec": {"replicas": 2, "template": {"metadata": {"annotations": {"a.b/c": "d"}}}}}`)
	if _, err := Render(waypoint(), []Overlay{
		{Source: "ConfigMap ambit-system/all", Documents: map[string]Object{keyDeployment: all}},
		{Source: "ConfigMap shop/mine", Confined: true, Documents: map[string]Object{keyDeployment: mine}},
	}, Config{}); err != nil {
		t.Error(err)
	}
}
