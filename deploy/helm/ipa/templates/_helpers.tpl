{{/* The name of everything of this release. */}}
{{- define "ipa.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "ipa.selector" -}}
app.kubernetes.io/name: ipa
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ipa.metadata" -}}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "ipa.selector" . | nindent 2 }}
{{- end -}}

{{/* The image: of a registry that is named, by its digest if there is one. */}}
{{- define "ipa.image" -}}
{{- $image := .Values.image -}}
{{- if not (regexMatch "^(localhost|[^/]*[.:][^/]*)/." $image.repository) -}}
{{- fail (printf "image.repository is %q, which names no registry: push the image of `make images` to yours, and name it, as in registry.example/ipa-serving/service" $image.repository) -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces of pipelines, as words. */}}
{{- define "ipa.namespaces" -}}
{{- join " " (default (list .Release.Namespace) .Values.namespaces) -}}
{{- end -}}

{{/* A Role, and its binding to our account. Takes root, namespace, role and rules (text). */}}
{{- define "ipa.role" -}}
{{- $name := printf "%s-%s" (include "ipa.name" .root) .role -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "ipa.selector" .root | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ .namespace }}
  labels:
    {{- include "ipa.selector" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "ipa.name" .root }}
    namespace: {{ .root.Release.Namespace }}
{{ end -}}
