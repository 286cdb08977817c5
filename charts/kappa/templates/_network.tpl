{{/* Names, and the API server: its address is not known here, so any, on its usual ports. */}}
{{- define "kappa.egressToCluster" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 443}
    - {port: 6443}
{{- end -}}

{{- define "kappa.functionPods" -}}
- namespaceSelector: {}
  podSelector:
    matchLabels:
      app.kubernetes.io/component: function
      app.kubernetes.io/managed-by: kappa
{{- end -}}
