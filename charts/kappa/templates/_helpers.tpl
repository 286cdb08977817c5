{{/* The prefix of every name: the release's name, followed by the chart's unless it contains it. */}}
{{- define "kappa.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The image of a part: (dict "root" $ "name" "gateway"). */}}
{{- define "kappa.image" -}}
{{- printf "%s/%s:%s" (trimSuffix "/" .root.Values.image.registry) .name (.root.Values.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{/* The labels that select a part's pods: (dict "root" $ "component" "gateway"). They must never change. The operator finds gateways by name and component, so the name does not depend on the release. */}}
{{- define "kappa.selectorLabels" -}}
app.kubernetes.io/name: kappa
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "kappa.labels" -}}
{{ include "kappa.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kappa
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{- define "kappa.serviceAccountName" -}}
{{- $part := .part | default (index .root.Values .component) -}}
{{- $part.serviceAccount.name | default (printf "%s-%s" (include "kappa.fullname" .root) .component) -}}
{{- end -}}

{{/* The part of a pod spec that all parts share: (dict "root" $ "component" "gateway"); "part" names the values if they are not under the component's name. */}}
{{- define "kappa.podSettings" -}}
{{- $part := .part | default (index .root.Values .component) -}}
serviceAccountName: {{ include "kappa.serviceAccountName" . }}
{{- if eq .component "nats" }}
automountServiceAccountToken: false
{{- end }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  {{- if eq .component "nats" }}
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $part.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $part.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if $part.topologySpreadConstraints }}
  {{- toYaml $part.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "kappa.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "kappa.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* An environment variable; its value is always text. */}}
{{- define "kappa.env" -}}
- name: {{ .name }}
  value: {{ .value | toString | quote }}
{{- end -}}
