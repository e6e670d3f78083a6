{{- /* The same file in every chart: edit install/charts/shared/_ambit.tpl and run make generate. */ -}}

{{- /* The mesh's own namespace. */ -}}
{{- define "ambit.namespace" -}}
{{ .Values.global.istioNamespace | default .Release.Namespace }}
{{- end -}}

{{- /* The tag of this chart's image. */ -}}
{{- define "ambit.tag" -}}
{{ .Values.tag | default .Values.global.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* An image: a name below the hub, or a whole reference. Takes root and image. */ -}}
{{- define "ambit.image" -}}
{{- if contains "/" .image -}}
{{ .image }}
{{- else -}}
{{ .root.Values.hub | default .root.Values.global.hub }}/{{ .image }}:{{ include "ambit.tag" .root }}
{{- end -}}
{{- end -}}

{{- /* Labels of every object. Takes root and name. */ -}}
{{- define "ambit.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: ambit
app.kubernetes.io/version: {{ include "ambit.tag" .root | trunc 63 | quote }}
{{- end -}}

{{- /* What a pod needs to pull images. */ -}}
{{- define "ambit.pull" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where the control plane is reached. */ -}}
{{- define "ambit.control" -}}
{{ .Values.xdsAddress | default .Values.global.xdsAddress | default (printf "https://ambitd.%s.svc:15012" (include "ambit.namespace" .)) }}
{{- end -}}

{{- /* Extra environment of a container, from a map; null is left out. */ -}}
{{- define "ambit.env" -}}
{{- range $name, $value := .Values.env }}
{{- if ne $value nil }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Where pods of this chart may run. */ -}}
{{- define "ambit.placement" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
