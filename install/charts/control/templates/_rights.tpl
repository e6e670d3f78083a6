{{- /* What runs for Gateways, and the mesh's root certificate and revocation lists, which their pods mount. */ -}}
{{- define "control.gatewayRights" -}}
- apiGroups: [""]
  resources: [serviceaccounts, services]
  verbs: [create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [create, patch, delete]
{{- end -}}

{{- define "control.rootRights" -}}
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-root-cert]
  verbs: [patch]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [istio-ca-crl]
  verbs: [patch, delete]
{{- end -}}

{{- /* Secrets that Gateways name for TLS. */ -}}
{{- define "control.secretRights" -}}
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
{{- end -}}

{{- /* A Role in one namespace for the control plane's account: root, name, namespace, rights. */ -}}
{{- define "control.role" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "ambit.labels" (dict "root" .root "name" "ambitd") | nindent 4 }}
rules:
  {{- include .rights .root | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "ambit.labels" (dict "root" .root "name" "ambitd") | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: ambitd
    namespace: {{ .root.Release.Namespace }}
{{ end -}}
