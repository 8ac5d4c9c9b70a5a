package lint

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
)

// WriteText writes one line per finding, as compilers do, with the hint below.
func WriteText(w io.Writer, findings []Finding) error {
	var b strings.Builder
	for i := range findings {
		f := &findings[i]
		where := f.Place.String()
		switch {
		case where == "":
			where = f.Subject
		case f.Column > 0:
			where += fmt.Sprintf(":%d", f.Column)
		}
		fmt.Fprintf(&b, "%s: %s: ", where, f.Severity)
		b.WriteString(f.Subject)
		if f.Field != "" {
			b.WriteString(" " + f.Field)
		}
		fmt.Fprintf(&b, ": %s [%s]\n", f.Message, f.Rule)
		if f.Hint != "" {
			fmt.Fprintf(&b, "  hint: %s\n", f.Hint)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes {"findings": […]}; the list is never null.
func WriteJSON(w io.Writer, findings []Finding) error {
	if findings == nil {
		findings = []Finding{}
	}
	return encode(w, struct {
		Findings []Finding `json:"findings"`
	}{findings})
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// The parts of SARIF 2.1.0 that a list of findings needs:
// https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
		// Information is a URI, as HelpURI of a rule is.
		Information string      `json:"informationUri"`
		Rules       []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string       `json:"id"`
		Short   sarifMessage `json:"shortDescription"`
		Full    sarifMessage `json:"fullDescription"`
		Help    sarifMessage `json:"help"`
		HelpURI string       `json:"helpUri"`
		Default struct {
			Level string `json:"level"`
		} `json:"defaultConfiguration"`
	}
	sarifMessage struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string            `json:"ruleId"`
		RuleIndex    int               `json:"ruleIndex"`
		Level        string            `json:"level"`
		Message      sarifMessage      `json:"message"`
		Locations    []sarifLocation   `json:"locations"`
		Fingerprints map[string]string `json:"partialFingerprints"`
	}
	sarifLocation struct {
		Physical *sarifPhysical `json:"physicalLocation,omitempty"`
		Logical  []sarifLogical `json:"logicalLocations"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn,omitempty"`
		EndColumn   int `json:"endColumn,omitempty"` // of the line it starts in, where no other is given
	}
	sarifLogical struct {
		FullyQualifiedName string `json:"fullyQualifiedName"`
	}
)

const (
	sarifVersion = "2.1.0"
	sarifSchema  = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
	// policyPage is where the API says what policies mean, which is what every rule rests on.
	policyPage = "https://kubernetes.io/docs/concepts/services-networking/network-policies/"
	// fingerprint names what identifies a finding although lines move: rule, subject and field.
	fingerprint = "gapproof/v1"
)

// WriteSARIF writes a SARIF 2.1.0 log with one run. Every rule is described, whether or not it has findings.
func WriteSARIF(w io.Writer, findings []Finding, version string) error {
	run := sarifRun{
		Tool:       sarifTool{sarifDriver{Name: "gapproof", Version: version, Information: policyPage}},
		ColumnKind: "unicodeCodePoints",
		Results:    []sarifResult{},
	}
	index := map[string]int{}
	for i, r := range Rules() {
		index[r.ID] = i
		rule := sarifRule{ID: r.ID, Short: sarifMessage{r.Title}, Full: sarifMessage{r.Why}, Help: sarifMessage{r.Why + " A policy that is meant as it is names the rule in its annotation " + IgnoreAnnotation + "."}, HelpURI: policyPage}
		rule.Default.Level = r.Severity.String()
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
	}
	for i := range findings {
		f := &findings[i]
		message := f.Message
		if f.Hint != "" {
			message += " (hint: " + f.Hint + ")"
		}
		name := f.Subject
		if f.Field != "" {
			name += " " + f.Field
		}
		at := sarifLocation{Logical: []sarifLogical{{name}}}
		if f.File != "" {
			at.Physical = &sarifPhysical{Artifact: sarifArtifact{uri(f.File)}}
			if f.Line > 0 {
				at.Physical.Region = &sarifRegion{f.Line, f.Column, f.End}
			}
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: f.Rule, RuleIndex: index[f.Rule], Level: f.Severity.String(), Message: sarifMessage{message},
			Locations: []sarifLocation{at}, Fingerprints: map[string]string{fingerprint: f.Rule + " " + name},
		})
	}
	return encode(w, sarifLog{Schema: sarifSchema, Version: sarifVersion, Runs: []sarifRun{run}})
}

// uri is a path as a relative reference of RFC 3986.
func uri(file string) string {
	u := url.URL{Path: filepath.ToSlash(file)}
	return u.String()
}
