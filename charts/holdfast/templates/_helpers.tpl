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

{{/* What the operator may do where archives are: in a ClusterRole, or in a Role of each watched namespace. */}}
{{- define "holdfast.rules" -}}
# The resources themselves.
- apiGroups: [holdfast.dev]
  resources: [repositories, archives, backups, scheduledbackups]
  verbs: [get, list, watch]
# Finalizers: a running backup is ended before its object goes.
- apiGroups: [holdfast.dev]
  resources: [archives, backups]
  verbs: [patch, update]
# Schedules and the catalogue make Backup objects, and remove those beyond the history limits.
- apiGroups: [holdfast.dev]
  resources: [backups]
  verbs: [create, delete]
# Only the operator writes status.
- apiGroups: [holdfast.dev]
  resources: [repositories/status, archives/status, backups/status, scheduledbackups/status]
  verbs: [get, patch, update]
# The pods that carry the label, to reach their sidecars.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
# Users' credentials and keys are fetched by name. The Secrets rendered for the pods of archives are written, and watched
# by their label: rights know no labels, so list and watch can't be narrower here.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, update, delete]
# What happened, told to people.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
