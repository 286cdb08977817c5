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
  # delete: warm pools that no Function uses any more
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  # patch: the deletion cost, so that idle pods go first, and labels, for pods that came from a warm pool; delete: those of
  # them that have no place, and pods whose runtime the kubelet starts only after a while
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/resize]
  # a pod from a warm pool gets its Function's own memory and cpu
  verbs: [patch]
- apiGroups: [apps]
  resources: [replicasets]
  # which one a pod from a warm pool is to be adopted by
  verbs: [list]
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

{{/* What the gateway may do in its own namespace. */}}
{{- define "kappa.gatewayOwnRules" -}}
- apiGroups: [""]
  resources: [pods]
  # the other gateways, with whom it shares what may be claimed of warm pools
  verbs: [list, watch]
{{- end -}}
