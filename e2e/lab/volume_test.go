package lab

import (
	"crypto/ecdsa"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ambit-mesh/ambit/api/labfile"
	"github.com/ambit-mesh/ambit/ca/token"
	"github.com/ambit-mesh/ambit/e2e/lab/sandbox"
	"github.com/ambit-mesh/ambit/e2e/lab/supervisor"
)

const volumesYAML = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green, size: xl}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {app: reader}, annotations: {note: "two\nlines"}}
spec:
  serviceAccountName: librarian
  securityContext: {runAsUser: 1337, runAsGroup: 1337, sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]}
  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: settings, configMap: {name: settings, items: [{key: colour, path: paint/colour}]}}
  - {name: key, secret: {secretName: key}}
  - {name: self, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: name, fieldRef: {fieldPath: metadata.name}}]}}
  - {name: hosts, hostPath: {path: HOSTFILE}}
  - name: mixed
    projected:
      sources:
      - {serviceAccountToken: {audience: istio-ca, expirationSeconds: 600, path: token}}
      - {configMap: {name: istio-ca-root-cert, items: [{key: root-cert.pem, path: roots}]}}
  containers:
  - name: c
    command: [testapp, serve, "81", hello]
    workingDir: /etc/ambit-lab-test/scratch
    env: [{name: CPUS, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}, {name: MEM, valueFrom: {resourceFieldRef: {resource: limits.memory}}}]
    resources: {limits: {cpu: 1500m, memory: 64Mi}}
    readinessProbe: {tcpSocket: {port: 81}}
    volumeMounts:
    - {name: scratch, mountPath: /etc/ambit-lab-test/scratch}
    - {name: settings, mountPath: /etc/ambit-lab-test/settings, readOnly: true}
    - {name: key, mountPath: /var/lib/ambit-lab-test/key}
    - {name: self, mountPath: /var/run/ambit-lab-test/self}
    - {name: hosts, mountPath: /usr/local/bin/ambit-lab-test-tool}
    - {name: mixed, mountPath: /var/run/ambit-lab-test/secrets}
`

// TestVolumes mounts every kind of volume where the machine has nothing, and looks at them from inside and outside.
func TestVolumes(t *testing.T) {
	l := up(t, "vol", Spec{Nodes: 1})
	tool := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho tool\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	key, data, err := token.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	roots := filepath.Join(l.Dir, supervisor.RootsFile)
	put := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(roots, "first root")
	put(filepath.Join(l.Dir, supervisor.TokenKeyFile), string(data))
	apply(t, l, strings.ReplaceAll(volumesYAML, "HOSTFILE", tool))
	settled(t, l)
	ctx := limit(t, 20*time.Second)
	for command, want := range map[string]string{
		"pwd && touch x && ls": "/etc/ambit-lab-test/scratch\nx\n",
		"cat /etc/ambit-lab-test/settings/paint/colour; ls /etc/ambit-lab-test/settings": "greenpaint\n",
		"touch /etc/ambit-lab-test/settings/x 2>&1 || echo no":                           "no\n",
		"cat /var/lib/ambit-lab-test/key/password":                                       "sesame",
		"cat /var/run/ambit-lab-test/self/labels /var/run/ambit-lab-test/self/name":      `app="reader"reader`,
		"ambit-lab-test-tool":                       "tool\n",
		"cat /var/run/ambit-lab-test/secrets/roots": "first root",
		"echo $CPUS $MEM; test -e /etc/passwd":      "2 67108864\n",
	} {
		got, err := l.Output(ctx, "default", "reader", "sh", "-c", command)
		if err != nil || !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, %v; want %q", command, got, err, want)
		}
	}
	raw, err := l.Output(ctx, "default", "reader", "cat", "/var/run/ambit-lab-test/secrets/token")
	if err != nil {
		t.Fatal(err)
	}
	checkToken(t, key, raw)
	put(roots, "second root")
	eventually(t, ctx, "the new root to be seen", l, func() bool {
		got, err := l.Output(ctx, "default", "reader", "cat", "/var/run/ambit-lab-test/secrets/roots")
		return err == nil && got == "second root"
	})
	for _, path := range []string{"/etc/ambit-lab-test", "/var/lib/ambit-lab-test", "/run/ambit-lab-test", "/usr/local/bin/ambit-lab-test-tool"} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s was made on the machine", path)
		}
	}
}

func checkToken(t *testing.T, key *ecdsa.PrivateKey, raw string) {
	t.Helper()
	v := token.Verifier{Keys: func() (*token.Keys, error) { return token.PublicKeys(key.Public()), nil }}
	c, err := v.Verify(raw, time.Now())
	if err != nil || c.ServiceAccount != "librarian" || c.PodName != "reader" || c.Namespace != "default" || c.Node != "node1" {
		t.Errorf("token says %+v, %v", c, err)
	}
}

// TestVolumesThatCannotBe asks for what is not there; the pod says so and starts when it comes.
func TestVolumesThatCannotBe(t *testing.T) {
	l := up(t, "novol", Spec{Nodes: 1})
	ctx := limit(t, 20*time.Second)
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: waits}, spec: {volumes: [{name: v, configMap: {name: late}}],
containers: [{name: c, command: [testapp, serve, "80", x], volumeMounts: [{name: v, mountPath: /etc/ambit-lab-test}]}]}}`
	apply(t, l, pod)
	eventually(t, ctx, "the pod to say what it misses", l, func() bool {
		pods, err := l.Get(ctx, "pod", "default", "waits")
		return err == nil && len(pods) == 1 && strings.Contains(pods[0].Text("status", "message"), "there is no configmap default/late")
	})
	apply(t, l, "{apiVersion: v1, kind: ConfigMap, metadata: {name: late}, data: {a: b}}")
	settled(t, l)
	for doc, want := range map[string]string{
		`{volumes: [{name: v}, {name: v}], containers: [{name: c, command: [sh]}]}`:                                                "stands twice",
		`{containers: [{name: c, command: [sh], volumeMounts: [{name: v, mountPath: /x}]}]}`:                                       `no volume "v"`,
		`{volumes: [{name: v}], containers: [{name: c, command: [sh], volumeMounts: [{name: v, mountPath: x}]}]}`:                  "not the path of a folder",
		`{volumes: [{name: v}], containers: [{name: c, command: [sh], volumeMounts: [{name: v, mountPath: /x, subPath: ../..}]}]}`: "leads out of the volume",
	} {
		_, err := l.Apply(ctx, []byte("{apiVersion: v1, kind: Pod, metadata: {name: bad}, spec: "+doc+"}"), "default")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", doc, err, want)
		}
	}
}

// TestLoadBalancer reaches a Service from the host that has no pods, by an address that stays.
func TestLoadBalancer(t *testing.T) {
	l := up(t, "lb", Spec{Nodes: 1})
	apply(t, l, strings.Replace(webYAML, "spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}",
		"spec: {type: LoadBalancer, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}", 1))
	settled(t, l)
	ctx := limit(t, 20*time.Second)
	address := func() string {
		svc, err := l.Get(ctx, "svc", "default", "web")
		if err != nil || len(svc) != 1 {
			t.Fatal(svc, err)
		}
		list, _ := svc[0].At("status", "loadBalancer", "ingress").([]any)
		if len(list) == 0 {
			return ""
		}
		ip, _ := list[0].(map[string]any)["ip"].(string)
		return ip
	}
	first := address()
	if first == "" {
		t.Fatal("the Service has no address outside")
	}
	eventually(t, ctx, "the service to answer", l, func() bool {
		code, err := l.ExecHost(ctx, ControlHost, []string{filepath.Join(labfile.Root(), "testapp"), "get", "http://" + first + "/"}, sandbox.Stdio{})
		return err == nil && code == 0
	})
	if err := l.Label(ctx, "Service", "default", "web", map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if again := address(); again != first {
		t.Errorf("the address changed from %s to %s", first, again)
	}
}

const namespaceYAML = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: rule, namespace: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: slow, namespace: shop}
spec:
  selector: {matchLabels: {app: slow}}
  template:
    metadata: {labels: {app: slow}}
    spec:
      terminationGracePeriodSeconds: 20
      containers: [{name: c, command: [sh, -c, "trap 'while ! test -e GATE; do sleep 0.05; done; exit 0' TERM; while :; do sleep 0.05; done"]}]
`

// TestNamespaceEnds deletes a namespace whose pod takes its time: what protects the pod stays until it is gone.
func TestNamespaceEnds(t *testing.T) {
	l := up(t, "nsend", Spec{Nodes: 1})
	gate := filepath.Join(t.TempDir(), "gate")
	apply(t, l, strings.ReplaceAll(namespaceYAML, "GATE", gate))
	settled(t, l)
	ctx := limit(t, 20*time.Second)
	if err := l.DeleteObject(ctx, "namespace", "", "shop", -1); err != nil {
		t.Fatal(err)
	}
	there := func(kind, ns, name string) bool {
		list, err := l.Get(ctx, kind, ns, name)
		if err != nil {
			t.Fatal(err)
		}
		return len(list) > 0
	}
	if !there("configmap", "shop", "rule") || !there("namespace", "", "shop") || !there("pod", "shop", "") {
		t.Error("something went before the pod had ended")
	}
	if _, err := l.Apply(ctx, []byte("{apiVersion: v1, kind: ConfigMap, metadata: {name: more, namespace: shop}}"), "default"); err == nil {
		t.Error("the namespace took something new while it ended")
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the namespace to be gone", l, func() bool {
		return !there("namespace", "", "shop") && !there("configmap", "shop", "rule") && !there("deployment", "shop", "slow")
	})
}
