{{/* The queue of asynchronous invocations: the gateway's variables, and the checks of values that exclude each other. */}}

{{/* A quantity such as 10Gi as bytes, times .percent / 100; empty for a notation that is not a whole number and a unit. */}}
{{- define "kappa.bytes" -}}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- $quantity := toString .quantity -}}
{{- if regexMatch "^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$" $quantity -}}
{{- $number := int64 (regexFind "^[0-9]+" $quantity) -}}
{{- $unit := int64 (get $units (regexFind "[A-Za-z]*$" $quantity)) -}}
{{- div (mul $number $unit .percent) 100 -}}
{{- end -}}
{{- end -}}

{{- define "kappa.natsName" -}}
{{- printf "%s-nats" (include "kappa.fullname" .) -}}
{{- end -}}

{{/* The Secret with user and password of the chart's own NATS. */}}
{{- define "kappa.natsSecret" -}}
{{- .Values.queue.nats.existingSecret | default (include "kappa.natsName" .) -}}
{{- end -}}

{{- define "kappa.signingSecret" -}}
{{- .Values.signingKey.existingSecret | default (printf "%s-signing" (include "kappa.fullname" .)) -}}
{{- end -}}

{{/* The environment of the chart's own NATS. Values are quoted as in NATS' configuration, which parses them. */}}
{{- define "kappa.natsEnv" -}}
{{- $name := include "kappa.natsName" . -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: SERVER_NAME
  value: "'$(POD_NAME)'"
- name: USER_TEXT
  valueFrom: {secretKeyRef: {name: {{ include "kappa.natsSecret" . }}, key: user}}
- name: PASSWORD_TEXT
  valueFrom: {secretKeyRef: {name: {{ include "kappa.natsSecret" . }}, key: password}}
- name: KAPPA_USER
  value: "'$(USER_TEXT)'"
- name: KAPPA_PASSWORD
  value: "'$(PASSWORD_TEXT)'"
{{- range $index := until (int .Values.queue.nats.replicas) }}
{{- if gt (int $.Values.queue.nats.replicas) 1 }}
- name: ROUTE_{{ $index }}
  value: "'nats://$(USER_TEXT):$(PASSWORD_TEXT)@{{ $name }}-{{ $index }}.{{ $name }}-peers:6222'"
{{- end }}
{{- end }}
{{- range $index, $user := .Values.queue.nats.users }}
- name: USER_{{ $index }}_TEXT
  valueFrom: {secretKeyRef: {name: {{ $user.existingSecret }}, key: user}}
- name: PASSWORD_{{ $index }}_TEXT
  valueFrom: {secretKeyRef: {name: {{ $user.existingSecret }}, key: password}}
- name: USER_{{ $index }}
  value: "'$(USER_{{ $index }}_TEXT)'"
- name: PASSWORD_{{ $index }}
  value: "'$(PASSWORD_{{ $index }}_TEXT)'"
{{- end }}
{{- with .Values.queue.nats.resources.limits }}
{{- with include "kappa.bytes" (dict "quantity" (.memory | default "") "percent" 80) }}
# Makes Go collect garbage before the kernel kills the process.
- name: GOMEMLIMIT
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The gateway's variables for the queue; empty if there is none. */}}
{{- define "kappa.queueEnv" -}}
{{- $queue := .Values.queue -}}
{{- if $queue.nats.enabled }}
{{- include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_URL" "value" (printf "nats://%s.%s.svc:4222" (include "kappa.natsName" .) .Release.Namespace)) }}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_REPLICAS" "value" ($queue.replicas | default $queue.nats.replicas)) }}
{{ include "kappa.queueSecret" (dict "name" "KAPPA_GATEWAY_QUEUE_USER" "secret" (include "kappa.natsSecret" .) "key" "user") }}
{{ include "kappa.queueSecret" (dict "name" "KAPPA_GATEWAY_QUEUE_PASSWORD" "secret" (include "kappa.natsSecret" .) "key" "password") }}
{{- else if $queue.url }}
{{- include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_URL" "value" $queue.url) }}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_REPLICAS" "value" ($queue.replicas | default 1)) }}
{{- with $queue.auth.existingSecret }}
{{- if eq $queue.auth.method "password" }}
{{ include "kappa.queueSecret" (dict "name" "KAPPA_GATEWAY_QUEUE_USER" "secret" . "key" "user") }}
{{ include "kappa.queueSecret" (dict "name" "KAPPA_GATEWAY_QUEUE_PASSWORD" "secret" . "key" "password") }}
{{- else if eq $queue.auth.method "token" }}
{{ include "kappa.queueSecret" (dict "name" "KAPPA_GATEWAY_QUEUE_TOKEN" "secret" . "key" "token") }}
{{- else }}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_CREDENTIALS_FILE" "value" "/etc/kappa/queue-auth/nats.creds") }}
{{- end }}
{{- end }}
{{- if $queue.tls.existingSecret }}
{{- if $queue.tls.ca }}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_TLS_CA" "value" "/etc/kappa/queue-tls/ca.crt") }}
{{- end }}
{{- if $queue.tls.clientCertificate }}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_TLS_CERT" "value" "/etc/kappa/queue-tls/tls.crt") }}
{{ include "kappa.env" (dict "name" "KAPPA_GATEWAY_QUEUE_TLS_KEY" "value" "/etc/kappa/queue-tls/tls.key") }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kappa.queueSecret" -}}
- name: {{ .name }}
  valueFrom: {secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}}
{{- end -}}

{{/* The ports of queue.url, as JSON. */}}
{{- define "kappa.queuePorts" -}}
{{- $ports := list -}}
{{- range $server := splitList "," .Values.queue.url -}}
{{- $ports = append $ports (int (regexFind "[0-9]*$" $server | default "4222")) -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* The Secrets that the gateway reads as files: a list of name, secret, path. */}}
{{- define "kappa.queueFiles" -}}
{{- if and .Values.queue.auth.existingSecret (eq .Values.queue.auth.method "credentials") }}
- {name: queue-auth, secret: {{ .Values.queue.auth.existingSecret }}}
{{- end }}
{{- if and .Values.queue.tls.existingSecret (or .Values.queue.tls.ca .Values.queue.tls.clientCertificate) }}
- {name: queue-tls, secret: {{ .Values.queue.tls.existingSecret }}}
{{- end }}
{{- end -}}

{{/* Refuses values that exclude each other, and says what to do instead. */}}
{{- define "kappa.checkQueue" -}}
{{- $queue := .Values.queue -}}
{{- $nats := $queue.nats -}}
{{- if and $queue.url $nats.enabled -}}
{{- fail "queue.url names an existing NATS, but queue.nats.enabled installs another one: set queue.nats.enabled=false, or leave queue.url empty" -}}
{{- end -}}
{{- if and (or $queue.auth.existingSecret $queue.tls.existingSecret) (not $queue.url) -}}
{{- fail "queue.auth and queue.tls are for an existing NATS: set queue.url and queue.nats.enabled=false. The user of the chart's own NATS is in queue.nats.existingSecret" -}}
{{- end -}}
{{- if and $queue.replicas (not $nats.enabled) (not $queue.url) -}}
{{- fail "queue.replicas is set, but there is no queue: set queue.url, or queue.nats.enabled=true" -}}
{{- end -}}
{{- if and $nats.enabled (gt (int ($queue.replicas | default 1)) (int $nats.replicas)) -}}
{{- fail (printf "queue.replicas=%v: %v servers cannot keep so many copies; set queue.nats.replicas=3, or leave queue.replicas empty" $queue.replicas $nats.replicas) -}}
{{- end -}}
{{- if and $nats.enabled (gt (int64 (.Values.gateway.config.eventMaxBytes | default 0)) 6291456) -}}
{{- fail (printf "gateway.config.eventMaxBytes=%v: the chart's NATS takes messages up to 8 MiB, headers and the records of failed events included; set at most 6291456, or use a NATS of your own by queue.url" (int64 .Values.gateway.config.eventMaxBytes)) -}}
{{- end -}}
{{- if $nats.enabled -}}
{{- include "kappa.checkVolumes" . -}}
{{- end -}}
{{- end -}}

{{/* Checks against the volumes of this or an earlier installation, which hold events. */}}
{{- define "kappa.checkVolumes" -}}
{{- $nats := .Values.queue.nats -}}
{{- $name := include "kappa.natsName" . -}}
{{- $help := "See docs/operating-nats.md, A larger volume" -}}
{{- with lookup "apps/v1" "StatefulSet" .Release.Namespace $name -}}
{{- $claim := (first .spec.volumeClaimTemplates).spec -}}
{{- if ne $claim.resources.requests.storage $nats.storage.size -}}
{{- fail (printf "queue.nats.storage.size=%s: the installed queue has %s, and Kubernetes does not change the claims of a StatefulSet. %s" $nats.storage.size $claim.resources.requests.storage $help) -}}
{{- end -}}
{{- if ne ($claim.storageClassName | default "") $nats.storage.storageClassName -}}
{{- fail (printf "queue.nats.storage.storageClassName=%s: the installed queue has %q, and Kubernetes does not change the claims of a StatefulSet. %s" $nats.storage.storageClassName ($claim.storageClassName | default "") $help) -}}
{{- end -}}
{{- end -}}
{{- with lookup "v1" "PersistentVolumeClaim" .Release.Namespace (printf "data-%s-0" $name) -}}
{{- $servers := get (.metadata.labels | default dict) "kappa.run/servers" -}}
{{- if and $servers (ne $servers (toString $nats.replicas)) -}}
{{- fail (printf "queue.nats.replicas=%v: the volume data-%s-0 holds the events of %s, and NATS does not keep them when one server becomes several, or the reverse. See docs/operating-nats.md, From one server to three" $nats.replicas $name (ternary "one server" (printf "%s servers" $servers) (eq $servers "1"))) -}}
{{- end -}}
{{- if ne .spec.resources.requests.storage $nats.storage.size -}}
{{- fail (printf "queue.nats.storage.size=%s: the volume claim data-%s-0 asks for %s: change the claim first, or delete it with the events in it. %s" $nats.storage.size $name .spec.resources.requests.storage $help) -}}
{{- end -}}
{{- end -}}
{{- end -}}
