{{/* Parts of network policies. */}}
{{- define "aetherium.dns" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
{{- end }}
{{- define "aetherium.peer" -}}
podSelector:
  matchLabels:
    {{- include "aetherium.selector" . | nindent 4 }}
{{- end }}
{{- define "aetherium.toStores" -}}
{{- if .Values.postgresql.bundled }}
- to:
    - {{- include "aetherium.peer" (dict "root" . "component" "postgresql") | nindent 6 }}
  ports: [{ port: 5432 }]
{{- end }}
{{- if and .Values.redis.enabled .Values.redis.bundled }}
- to:
    - {{- include "aetherium.peer" (dict "root" . "component" "redis") | nindent 6 }}
  ports: [{ port: 6379 }]
{{- end }}
{{- if or (not .Values.postgresql.bundled) (and .Values.redis.enabled (not .Values.redis.bundled)) .Values.otlpEndpoint }}
- to:
    {{- range .Values.networkPolicy.servicesCidrs }}
    - ipBlock: { cidr: {{ . }} }
    {{- end }}
{{- end }}
{{- end }}
{{- define "aetherium.fromMonitoring" -}}
- from:
    {{- with .root.Values.networkPolicy.monitoringFrom }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    - podSelector: {}
    {{- end }}
  ports: [{ port: {{ .port }} }]
{{- end }}
