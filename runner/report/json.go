package report

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// The apiVersion and kind of a JSON report.
const (
	APIVersion = "gapproof.dev/v1alpha1"
	Kind       = "Report"
)

//go:embed schema.json
var schema []byte

// Schema is the JSON schema (draft 2020-12) of what [RenderJSON] writes.
func Schema() []byte { return slices.Clone(schema) }

// document is a report as JSON: its members beside those that say what it is.
type document struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Summary    Summary `json:"summary"`
	*Report
}

// RenderJSON writes r as one indented JSON object that holds everything the run knows; durations are nanoseconds. The options are not
// used. The error is that of writing.
func RenderJSON(w io.Writer, r *Report, _ Options) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // attempt IDs hold ">", and nobody serves this as HTML
	e.SetIndent("", "  ")
	if err := e.Encode(document{APIVersion: APIVersion, Kind: Kind, Summary: r.Summary(), Report: r}); err != nil {
		return fmt.Errorf("writing a JSON report: %w", err)
	}
	return nil
}

// ReadJSON reads what RenderJSON wrote, so that it can be rendered again in another format. Unknown members are an error, and so is
// another apiVersion or kind.
func ReadJSON(r io.Reader) (*Report, error) {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	doc := document{Report: &Report{}}
	if err := d.Decode(&doc); err != nil {
		return nil, fmt.Errorf("reading a JSON report: %w", err)
	}
	if doc.APIVersion != APIVersion || doc.Kind != Kind {
		return nil, fmt.Errorf("reading a JSON report: it is %s %s, want %s %s", doc.APIVersion, doc.Kind, APIVersion, Kind)
	}
	return doc.Report, nil
}
