{{/* What the operator may do where Functions live. */}}
{{- define "kappa.operatorRules" -}}
- apiGroups: [kappa.run]
  resources: [functions]
  verbs: [get, list, watch]
- apiGroups: [kappa.run]
  resources: [functions/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  # patch: the deletion cost, so that idle pods go first; delete: pods whose runtime the kubelet starts only after a while
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* What the operator may do in its own namespace. */}}
{{- define "kappa.operatorOwnRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "kappa.fullname" . }}-operator]
  verbs: [get, update]
- apiGroups: [""]
  resources: [pods]
  # the gateways, for their demand streams
  verbs: [get, list, watch]
{{- end -}}

{{/* What the gateway may do where Functions live. */}}
{{- define "kappa.gatewayRules" -}}
- apiGroups: [kappa.run]
  resources: [functions]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end -}}
