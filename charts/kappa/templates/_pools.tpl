{{/* Warm pools: whether there are any, and the key with which gateways sign specialize requests. */}}

{{/* Not empty if some size is above 0. */}}
{{- define "kappa.pools" -}}
{{- $sizes := list .Values.pools.size -}}
{{- $sizes = concat $sizes (values .Values.pools.runtimes) -}}
{{- range $namespace := values .Values.pools.namespaces -}}
{{- $sizes = concat $sizes (values ($namespace | default dict)) -}}
{{- end -}}
{{- range $size := $sizes -}}
{{- if gt (int $size) 0 -}}on{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kappa.poolSecret" -}}
{{- .Values.pools.existingSecret | default (printf "%s-pools" (include "kappa.fullname" .)) -}}
{{- end -}}

{{/* The key as in a Secret, that is, base64 of base64: an existing key, or a new one, which stays the same within a render.
Empty if existingSecret cannot be read (helm template). */}}
{{- define "kappa.poolPrivateKey" -}}
{{- if not (hasKey .Values.pools "foundKey") -}}
{{- $found := (lookup "v1" "Secret" .Release.Namespace (include "kappa.poolSecret" .)).data | default dict -}}
{{- $new := ternary "" (randBytes 32 | b64enc) (not (empty .Values.pools.existingSecret)) -}}
{{- $_ := set .Values.pools "foundKey" (index $found "private-key" | default $new) -}}
{{- end -}}
{{- .Values.pools.foundKey -}}
{{- end -}}

{{/* A hash of the key for the annotations of pods that read it, so that a new key replaces them. */}}
{{- define "kappa.poolKeyAnnotation" -}}
{{- if include "kappa.pools" . -}}
{{- with include "kappa.poolPrivateKey" . -}}
kappa.run/pool-key-hash: {{ sha256sum . | trunc 16 | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "kappa.poolKey" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ include "kappa.poolSecret" .root }}, key: private-key}}
{{- end -}}

{{- define "kappa.gatewayPoolEnv" -}}
- name: KAPPA_GATEWAY_ADDRESS
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
- name: KAPPA_GATEWAY_POOL_PEERS_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_POOL_PEERS_SELECTOR" "value" (printf "app.kubernetes.io/name=kappa,app.kubernetes.io/instance=%s,app.kubernetes.io/component=gateway" .Release.Name)) }}
{{ include "kappa.poolKey" (dict "root" . "name" "KAPPA_GATEWAY_POOL_PRIVATE_KEY") }}
{{- end -}}

{{- define "kappa.operatorPoolEnv" -}}
{{- $pools := .Values.pools -}}
{{ include "kappa.env" (dict "name" "KAPPA_OPERATOR_POOL_SIZE" "value" $pools.size) }}
{{ include "kappa.env" (dict "name" "KAPPA_OPERATOR_POOL_RUNTIMES" "value" (toJson $pools.runtimes)) }}
{{ include "kappa.env" (dict "name" "KAPPA_OPERATOR_POOL_NAMESPACES" "value" (toJson $pools.namespaces)) }}
{{ include "kappa.env" (dict "name" "KAPPA_OPERATOR_POOL_MAX_SIZE" "value" $pools.maxSize) }}
{{ include "kappa.env" (dict "name" "KAPPA_OPERATOR_POOL_MEMORY_LIMIT" "value" $pools.memoryLimit) }}
{{- if not (kindIs "invalid" $pools.preload) }}
{{ include "kappa.env" (dict "name" "KAPPA_OPERATOR_POOL_PRELOAD" "value" (toJson $pools.preload)) }}
{{- end }}
{{ include "kappa.poolKey" (dict "root" . "name" "KAPPA_OPERATOR_POOL_PRIVATE_KEY") }}
{{- end -}}
