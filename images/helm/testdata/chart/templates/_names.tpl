{{- define "small.name" }}{{ .Release.Name }}-settings{{ end }}
