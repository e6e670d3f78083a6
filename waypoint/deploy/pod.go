package deploy

import (
	"maps"
	"strconv"

	"github.com/ambit-mesh/ambit/api/mesh"
)

// Container is the name of the container with the proxy.
const Container = "istio-proxy"

func (r renderer) deployment() Object {
	m := r.meta()
	// How many there are is nobody's word here: whoever scales it would be set back.
	spec := Object{
		"selector": Object{"matchLabels": anyMap(r.g.Selector())},
		// A new pod first, then an old one goes: a waypoint that is missing is an outage of everything behind it.
		"strategy": Object{"type": "RollingUpdate", "rollingUpdate": Object{"maxSurge": "25%", "maxUnavailable": int64(0)}},
		"template": Object{"metadata": r.podMeta(), "spec": r.podSpec()},
	}
	return Object{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": m, "spec": spec}
}

func (r renderer) podMeta() Object {
	m := r.meta()
	labels := maps.Clone(m["labels"].(map[string]any))
	labels["sidecar.istio.io/inject"] = "false"
	// It speaks HBONE itself: nothing of its own is to be captured.
	labels[mesh.LabelDataplaneMode] = mesh.DataplaneModeNone
	labels[mesh.LabelCanonicalName] = r.g.ServiceName()
	labels[mesh.LabelCanonicalRevision] = "latest"
	if r.c.Network != "" {
		labels[mesh.LabelNetwork] = r.c.Network
	}
	annotations := anyMap(r.g.InfrastructureAnnotations)
	annotations[mesh.LabelRevision] = r.c.Revision
	annotations["prometheus.io/path"] = "/stats/prometheus"
	annotations["prometheus.io/port"] = strconv.Itoa(mesh.PortMetrics)
	annotations["prometheus.io/scrape"] = "true"
	return Object{"labels": labels, "annotations": annotations}
}

func (r renderer) podSpec() Object {
	spec := Object{
		"serviceAccountName": r.g.ServiceAccount(),
		// It never speaks to the API server; the token for the mesh is a volume of its own.
		"automountServiceAccountToken":  false,
		"terminationGracePeriodSeconds": int64(graceSeconds),
		"containers":                    []any{r.container()},
		"volumes":                       r.volumes(),
	}
	security := Object{"seccompProfile": Object{"type": "RuntimeDefault"}}
	if !r.class.waypoint {
		// Listeners of an ingress gateway are mostly on 80 and 443, and the proxy is nobody special.
		security["sysctls"] = []any{Object{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}}
	}
	spec["securityContext"] = security
	// As far as there is room. Where a pod says nothing, schedulers spread over nodes and zones, and much less evenly.
	var spread []any
	for _, key := range []string{"kubernetes.io/hostname", "topology.kubernetes.io/zone"} {
		spread = append(spread, Object{
			"maxSkew": int64(1), "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
			"labelSelector": Object{"matchLabels": anyMap(r.g.Selector())},
		})
	}
	spec["topologySpreadConstraints"] = spread
	var secrets []any
	for _, name := range r.c.PullSecrets {
		secrets = append(secrets, Object{"name": name})
	}
	if secrets != nil {
		// Not on the account: one that the Gateway names is not ours to change, and pods that wait for their image would go on waiting.
		spec["imagePullSecrets"] = secrets
	}
	return spec
}

func (r renderer) container() Object {
	c := Object{
		"name": Container, "image": r.c.Image, "command": []any{"ambit-waypoint"},
		"imagePullPolicy": r.c.PullPolicy,
		// What it said last before it gave up is in the pod's status then, and from there in the Gateway's.
		"terminationMessagePolicy": "FallbackToLogsOnError",
		"ports": []any{
			Object{"name": "metrics", "containerPort": int64(mesh.PortMetrics), "protocol": "TCP"},
			Object{"name": "status-port", "containerPort": int64(mesh.PortReadiness), "protocol": "TCP"},
			Object{"name": "http-envoy-prom", "containerPort": int64(portEnvoyMetrics), "protocol": "TCP"},
		},
		"env":            r.env(),
		"resources":      Object{"requests": anyMap(r.c.Requests), "limits": anyMap(r.c.Limits)},
		"startupProbe":   probe(1, 30),
		"readinessProbe": probe(15, 4),
		"securityContext": Object{
			"allowPrivilegeEscalation": false, "privileged": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
			"runAsUser": int64(uid), "runAsGroup": int64(uid), "capabilities": Object{"drop": []any{"ALL"}},
		},
		"workingDir": dirProxy,
		"volumeMounts": []any{
			Object{"name": "istio-envoy", "mountPath": dirProxy},
			Object{"name": "istio-data", "mountPath": dirData},
			Object{"name": "istio-podinfo", "mountPath": dirPodInfo},
			Object{"name": "istio-token", "mountPath": dirToken},
			Object{"name": "istiod-ca-cert", "mountPath": dirRoots},
			Object{"name": "istio-ca-crl", "mountPath": dirLists},
		},
	}
	return c
}

const (
	portEnvoyMetrics = 15090

	dirProxy   = "/etc/istio/proxy"
	dirPodInfo = "/etc/istio/pod"
	dirData    = "/var/lib/istio/data"
	dirToken   = "/var/run/secrets/tokens"
	dirRoots   = "/var/run/secrets/istio"
	dirLists   = "/var/run/secrets/crl"
	// tokenSeconds is how long a token lives; whoever hands them out renews them before that.
	tokenSeconds = 43200
)

func probe(period, failures int) Object {
	return Object{
		"httpGet":       Object{"path": "/healthz/ready", "port": int64(mesh.PortReadiness), "scheme": "HTTP"},
		"periodSeconds": int64(period), "failureThreshold": int64(failures), "successThreshold": int64(1), "timeoutSeconds": int64(1),
	}
}

// env tells the program who it is, in the names of Istio's agent where that has one.
func (r renderer) env() []any {
	var list []any
	value := func(name, v string) { list = append(list, Object{"name": name, "value": v}) }
	field := func(name, path string) {
		list = append(list, Object{"name": name, "valueFrom": Object{"fieldRef": Object{"fieldPath": path}}})
	}
	limit := func(name, resource string) {
		if r.c.Limits[resource] != "" {
			list = append(list, Object{"name": name, "valueFrom": Object{"resourceFieldRef": Object{"resource": "limits." + resource}}})
		}
	}
	field("POD_NAME", "metadata.name")
	field("POD_NAMESPACE", "metadata.namespace")
	field("INSTANCE_IP", "status.podIP")
	field("HOST_IP", "status.hostIP")
	field("SERVICE_ACCOUNT", "spec.serviceAccountName")
	field("ISTIO_META_SERVICE_ACCOUNT", "spec.serviceAccountName")
	field("ISTIO_META_NODE_NAME", "spec.nodeName")
	limit("ISTIO_CPU_LIMIT", "cpu")
	limit("GOMEMLIMIT", "memory")
	value("XDS_ADDRESS", r.c.XDSAddress)
	value("CA_ADDR", r.c.CAAddress)
	value("CRL_PATH", dirLists+"/ca-crl.pem")
	value("TRUST_DOMAIN", r.c.TrustDomain)
	value("CLUSTER_DOMAIN", r.c.ClusterDomain)
	value("ISTIO_META_CLUSTER_ID", r.c.ClusterID)
	if r.c.Network != "" {
		value("ISTIO_META_NETWORK", r.c.Network)
	}
	value("ISTIO_META_WORKLOAD_NAME", r.g.ServiceName())
	value("ISTIO_META_OWNER", "kubernetes://apis/apps/v1/namespaces/"+r.g.Namespace+"/deployments/"+r.g.ServiceName())
	value("ISTIO_META_MESH_ID", r.c.MeshID)
	value("GATEWAY_NAME", r.g.Name)
	value("GATEWAY_CLASS", r.class.Name)
	// Nothing else may be written to.
	value("TMPDIR", dirProxy)
	value("TERMINATION_DRAIN_DURATION_SECONDS", strconv.Itoa(drainSeconds))
	if r.c.LogLevel != "" {
		value("AMBIT_LOG_LEVEL", r.c.LogLevel)
	}
	if r.c.LogJSON {
		value("LOG_FORMAT", "json")
	}
	return list
}

func (r renderer) volumes() []any {
	labels := func(path, field string) Object {
		return Object{"path": path, "fieldRef": Object{"fieldPath": field}}
	}
	return []any{
		Object{"name": "istio-envoy", "emptyDir": Object{"medium": "Memory"}},
		Object{"name": "istio-data", "emptyDir": Object{}},
		Object{"name": "istio-podinfo", "downwardAPI": Object{"items": []any{
			labels("labels", "metadata.labels"), labels("annotations", "metadata.annotations"),
		}}},
		Object{"name": "istio-token", "projected": Object{"sources": []any{
			Object{"serviceAccountToken": Object{"audience": mesh.TokenAudience, "expirationSeconds": int64(tokenSeconds), "path": "istio-token"}},
		}}},
		Object{"name": "istiod-ca-cert", "configMap": Object{"name": "istio-ca-root-cert"}},
		// It is there only while somebody is revoked, and read when it comes.
		Object{"name": "istio-ca-crl", "configMap": Object{"name": "istio-ca-crl", "optional": true}},
	}
}
