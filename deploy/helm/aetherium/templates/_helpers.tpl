{{/* Names. The selector's labels never change: a Deployment's selector cannot be changed. */}}
{{- define "aetherium.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "aetherium.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "aetherium.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "aetherium.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Takes (dict "root" $ "component" "gateway"). */}}
{{- define "aetherium.selector" -}}
app.kubernetes.io/name: {{ include "aetherium.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "aetherium.labels" -}}
{{ include "aetherium.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Takes (dict "root" $ "which" "gateway"). */}}
{{- define "aetherium.image" -}}
{{- $image := index .root.Values.image .which }}
{{- $name := printf "%s/%s" .root.Values.image.registry $image.repository }}
{{- if $image.digest }}
{{- printf "%s@%s" $name $image.digest }}
{{- else }}
{{- printf "%s:%s" $name (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/* Secrets, made by this chart or by somebody else. */}}
{{- define "aetherium.secret.keys" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "aetherium.fullname" .)) }}
{{- end }}
{{- define "aetherium.secret.database" -}}
{{- if .Values.postgresql.bundled }}{{ include "aetherium.fullname" . }}-postgresql
{{- else }}{{ required "name the secret with the database's url in postgresql.existingSecret, or set postgresql.bundled" .Values.postgresql.existingSecret }}
{{- end }}
{{- end }}
{{- define "aetherium.secret.redis" -}}
{{- if .Values.redis.bundled }}{{ include "aetherium.fullname" . }}-redis
{{- else }}{{ required "name the secret with Redis' url in redis.existingSecret, or set redis.bundled, or redis.enabled=false" .Values.redis.existingSecret }}
{{- end }}
{{- end }}

{{/* The value that a secret has already, else a new one: (dict "root" $ "secret" name "key" key), with "new"
where it is not 40 letters and digits. */}}
{{- define "aetherium.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret }}
{{- with dig "data" .key "" ($found | default dict) }}
{{- . | b64dec }}
{{- else }}
{{- .new | default (randAlphaNum 40) }}
{{- end }}
{{- end }}

{{/* Whose files the gateway, the job and the test own. */}}
{{- define "aetherium.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}
{{- define "aetherium.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "aetherium.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What each program of the fleet is told. */}}
{{- define "aetherium.env.database" -}}
- name: AETHERIUM_DATABASE
  valueFrom: { secretKeyRef: { name: {{ include "aetherium.secret.database" . }}, key: url } }
- name: AETHERIUM_LOG
  value: {{ .Values.log.level | quote }}
- name: AETHERIUM_LOG_FORMAT
  value: {{ .Values.log.format }}
{{- end }}
{{- define "aetherium.env.role" -}}
{{ include "aetherium.env.database" . }}
- name: AETHERIUM_DATA_DIR
  value: /var/lib/aetherium
{{- if .Values.redis.enabled }}
- name: AETHERIUM_REDIS
  valueFrom: { secretKeyRef: { name: {{ include "aetherium.secret.redis" . }}, key: url } }
{{- end }}
- name: AETHERIUM_FLEET_KEY_FILE
  value: /etc/aetherium/keys/fleet-key
- name: AETHERIUM_SECRETS_KEYS_FILE
  value: /etc/aetherium/keys/secrets-keys
{{- with .Values.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* Waits for the database of a first install, which comes up beside what needs it. */}}
{{- define "aetherium.waitForDatabase" -}}
name: wait-for-database
image: {{ include "aetherium.image" (dict "root" .root "which" .which) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [migrate, --wait, {{ .root.Values.migrations.waitSeconds }}s]
env:
  {{- include "aetherium.env.database" .root | nindent 2 }}
securityContext:
  {{- include "aetherium.containerSecurity" .root | nindent 2 }}
resources:
  {{- toYaml .root.Values.migrations.resources | nindent 2 }}
{{- end }}

{{- define "aetherium.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "aetherium.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
