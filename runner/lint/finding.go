package lint

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/gapproof/gapproof/runner/manifest"
)

// Severity is how sure it is that a finding is a mistake. The zero value is unknown and never in a finding.
type Severity uint8

// The severities.
const (
	Unknown Severity = iota
	// Note is worth knowing and often meant.
	Note
	// Warning is likely a mistake, or a gap that needs a decision.
	Warning
	// Error is not what anybody means: what is written has no effect, or another one than it seems to have.
	Error
)

var severityNames = [...]string{Unknown: "unknown", Note: "note", Warning: "warning", Error: "error"}

// String is "note", "warning" or "error": also the levels of SARIF.
func (s Severity) String() string {
	if int(s) >= len(severityNames) {
		return fmt.Sprintf("invalid(%d)", uint8(s))
	}
	return severityNames[s]
}

// MarshalText writes the name. A number that no name stands for is an error.
func (s Severity) MarshalText() ([]byte, error) {
	if int(s) >= len(severityNames) {
		return nil, fmt.Errorf("writing a severity: %d has no name", uint8(s))
	}
	return []byte(severityNames[s]), nil
}

// UnmarshalText reads a name that MarshalText wrote; anything else is an error.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severityNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("reading a severity: %q is not one of note, warning, error", b)
	}
	*s = Severity(i)
	return nil
}

// Finding is one place where a rule does not hold.
type Finding struct {
	Rule     string   `json:"rule"`
	Severity Severity `json:"severity"`
	manifest.Place
	// Subject is "policy namespace/name" or "namespace name".
	Subject string `json:"subject"`
	// Field is the path inside the policy, such as "spec.ingress[0].from[1]"; empty for a namespace.
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	// Hint says what to write instead; may be empty.
	Hint string `json:"hint,omitempty"`
}

// Worst is the highest severity among the findings; Unknown when there are none.
func Worst(findings []Finding) Severity {
	worst := Unknown
	for i := range findings {
		worst = max(worst, findings[i].Severity)
	}
	return worst
}

func order(findings []Finding) {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Message, b.Message),
		)
	})
}
