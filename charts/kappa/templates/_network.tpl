{{/* DNS and the API server, whose address is not known here: any address on its usual ports. */}}
{{- define "kappa.egressToCluster" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 443}
    - {port: 6443}
{{- end -}}

{{/* Function pods and pool pods. */}}
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
