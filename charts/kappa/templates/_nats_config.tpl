{{/* The configuration of the chart's own NATS. Names with $ are environment variables of the pod (kappa.natsEnv). */}}
{{- define "kappa.natsConfig" -}}
{{- $nats := .Values.queue.nats -}}
server_name: $SERVER_NAME
listen: 0.0.0.0:4222
http: 0.0.0.0:8222
max_payload: 8MB

jetstream {
  store_dir: /data
  max_memory_store: 64MB
  # Nine tenths of the volume, as a server whose disk is full turns JetStream off.
  max_file_store: {{ include "kappa.bytes" (dict "quantity" $nats.storage.size "percent" 90) }}
  # always: a message is on the disk before it is acknowledged. By default the server syncs every two minutes, and loses
  # the messages since the last sync if its machine fails.
  sync_interval: {{ $nats.syncInterval }}
}

authorization {
  users: [
    {user: $KAPPA_USER, password: $KAPPA_PASSWORD}
    {{- range $index, $user := $nats.users }}
    {
      user: $USER_{{ $index }}, password: $PASSWORD_{{ $index }}
      permissions: {
        subscribe: {allow: {{ append ($user.subscribe | default list) "_INBOX.>" | toRawJson }}}
        publish: {allow: {{ $user.publish | default list | toRawJson }}}
        allow_responses: true
      }
    }
    {{- end }}
  ]
}
{{- if gt (int $nats.replicas) 1 }}

cluster {
  name: {{ include "kappa.natsName" . }}
  listen: 0.0.0.0:6222
  authorization {user: $KAPPA_USER, password: $KAPPA_PASSWORD, timeout: 5}
  routes: [{{ range $index := until (int $nats.replicas) }}{{ if $index }}, {{ end }}$ROUTE_{{ $index }}{{ end }}]
}

lame_duck_grace_period: 2s
lame_duck_duration: 30s
{{- end }}
{{- with $nats.extraConfig }}

{{ . }}
{{- end }}
{{- end -}}
