{{/* What a worker may do to its node, and why. */}}
{{- define "aetherium.workerSecurity" -}}
runAsUser: 0
readOnlyRootFilesystem: true
{{- if eq .Values.worker.devices.mode "privileged" }}
privileged: true
{{- else }}
privileged: false
allowPrivilegeEscalation: false
{{- if or .Values.worker.jailer .Values.worker.network }}
# The jailer calls pivot_root, and networks are mounted under names; the runtime's own profiles let
# neither through. Each Firecracker has a system call filter of its own.
seccompProfile: { type: Unconfined }
appArmorProfile: { type: Unconfined }
{{- else }}
seccompProfile: { type: RuntimeDefault }
{{- end }}
capabilities:
  drop: [ALL]
  add:
    # Files of jails and disks belong to the VMs' own users.
    - CHOWN
    - DAC_OVERRIDE
    - FOWNER
    # Ends VMMs, which run as other users.
    - KILL
    # Tells by /proc/PID/root whose VMM a process is.
    - SYS_PTRACE
    {{- if .Values.worker.jailer }}
    # The jailer: a root directory, /dev/kvm in it, and a user of its own.
    - SYS_CHROOT
    - MKNOD
    - SETUID
    - SETGID
    {{- end }}
    {{- if .Values.worker.network }}
    # A TAP, a link and firewall rules for each VM.
    - NET_ADMIN
    {{- end }}
    {{- if or .Values.worker.jailer .Values.worker.network }}
    # Mount and network namespaces of jails and VMs, and cgroups that limit them.
    - SYS_ADMIN
    {{- end }}
{{- end }}
{{- end }}

{{- define "aetherium.workerResources" -}}
{{- $resources := deepCopy .Values.worker.resources }}
{{- if eq .Values.worker.devices.mode "plugin" }}
{{- $device := dict .Values.worker.devices.resource "1" }}
{{- $requests := merge (dict) ($resources.requests | default dict) $device }}
{{- $limits := merge (dict) ($resources.limits | default dict) $device }}
{{- $resources = dict "requests" $requests "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
