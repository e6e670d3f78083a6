{{- /* Where the platform keeps things of the CNI. */ -}}
{{- define "cni.bin" -}}
{{- $p := .Values.global.platform -}}
{{ .Values.cniBinDir | default (get (dict "gke" "/home/kubernetes/bin" "k3d" "/bin" "k3s" "/var/lib/rancher/k3s/data/cni" "microk8s" "/var/snap/microk8s/current/opt/cni/bin" "openshift" "/var/lib/cni/bin") $p) | default "/opt/cni/bin" }}
{{- end -}}

{{- define "cni.conf" -}}
{{- $p := .Values.global.platform -}}
{{ .Values.cniConfDir | default (get (dict "k3d" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "k3s" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "microk8s" "/var/snap/microk8s/current/args/cni-network" "openshift" "/etc/cni/multus/net.d") $p) | default "/etc/cni/net.d" }}
{{- end -}}

{{- define "cni.netns" -}}
{{ .Values.cniNetnsDir | default (get (dict "minikube" "/var/run/docker/netns") .Values.global.platform) | default "/var/run/netns" }}
{{- end -}}

{{- define "cni.chained" -}}
{{- if eq (.Values.chained | quote) (quote "auto") }}{{ ne .Values.global.platform "openshift" }}{{ else }}{{ .Values.chained }}{{ end -}}
{{- end -}}

{{- define "cni.name" -}}
{{ .Values.cniConfFileName | default (ternary "istio-cni.conf" "" (and (eq .Values.global.platform "openshift") (eq (include "cni.chained" .) "false"))) }}
{{- end -}}
