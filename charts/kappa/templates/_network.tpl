{{/* Names, and the API server: its address is not known here, so any, on its usual ports. */}}
{{- define "kappa.egressToCluster" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 443}
    - {port: 6443}
{{- end -}}

{{/* Pods of functions, and those of warm pools, which become theirs. */}}
{{- define "kappa.functionPodLabels" -}}
matchLabels:
  app.kubernetes.io/managed-by: kappa
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [function, pool]}
{{- end -}}

{{- define "kappa.functionPods" -}}
- namespaceSelector: {}
  podSelector: {{- include "kappa.functionPodLabels" . | nindent 4 }}
{{- end -}}
