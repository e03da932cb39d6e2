{{- define "holdfast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "holdfast.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "holdfast.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: holdfast
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "holdfast.serviceAccount" -}}
{{- default (include "holdfast.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "holdfast.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{/* Of pods that run once: no Service, budget or policy of the operator's own pods may take them for one. */}}
{{- define "holdfast.onceLabels" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}-{{ .once }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: holdfast
{{- end -}}

{{/* How all pods run. */}}
{{- define "holdfast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "holdfast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Where it runs. */}}
{{- define "holdfast.scheduling" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
{{- end -}}

{{/*
What the operator may do where archives are: in a ClusterRole, or in a Role of each watched namespace.
`holdfast-operator check` asks for each of these: operator/src/check/rights.rs.
*/}}
{{- define "holdfast.rules" -}}
# The resources themselves.
- apiGroups: [holdfast.dev]
  resources: [repositories, archives, backups, scheduledbackups, restores]
  verbs: [get, list, watch]
# Schedules and the catalogue make Backup objects, and remove those beyond the history limits; patch: the finalizer that
# lets a running backup be ended before its object goes.
- apiGroups: [holdfast.dev]
  resources: [backups]
  verbs: [create, patch, delete]
# The finalizer that keeps a Restore until what was begun has ended.
- apiGroups: [holdfast.dev]
  resources: [restores]
  verbs: [patch]
# Only the operator writes status.
- apiGroups: [holdfast.dev]
  resources: [repositories/status, archives/status, backups/status, scheduledbackups/status, restores/status]
  verbs: [patch]
# The pods that carry the label, to reach their sidecars; delete: a restore in place begins with new pods.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# What a restore in place is to be carried out on.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get]
# What a restore is to be carried out into: it is made where the Restore has a template for it, and never deleted.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
# What restores into it. It goes with its Restore, by its owner reference.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, create]
# Users' credentials and keys are fetched by name. The Secrets rendered for the pods of archives are written, and watched
# by their label: rights know no labels, so list and watch can't be narrower here.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# What happened, told to people.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
