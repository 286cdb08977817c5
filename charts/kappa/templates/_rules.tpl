{{/* The operator's rights in the namespaces of Functions. */}}
{{- define "kappa.operatorRules" -}}
- apiGroups: [kappa.run]
  resources: [functions]
  verbs: [get, list, watch]
- apiGroups: [kappa.run]
  resources: [functions/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  # delete: pools that no Function uses any more
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  # patch: the deletion cost, so that idle pods are deleted first, and the labels of claimed pool pods. delete: claimed pool
  # pods that are not needed, and pods whose container is in the kubelet's back-off
  verbs: [get, list, watch, patch, delete]
- apiGroups: [""]
  resources: [pods/resize]
  # resize claimed pool pods to their Function's memory and cpu
  verbs: [patch]
- apiGroups: [apps]
  resources: [replicasets]
  # find the ReplicaSet that adopts a claimed pool pod
  verbs: [list]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* The operator's rights in its own namespace. */}}
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
  # find the gateways, for their demand streams
  verbs: [get, list, watch]
{{- end -}}

{{/* The gateway's rights in the namespaces of Functions. */}}
{{- define "kappa.gatewayRules" -}}
- apiGroups: [kappa.run]
  resources: [functions]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end -}}

{{/* The gateway's rights in its own namespace. */}}
{{- define "kappa.gatewayOwnRules" -}}
- apiGroups: [""]
  resources: [pods]
  # find the other gateways, with which it shares maxReplicas
  verbs: [list, watch]
{{- end -}}
