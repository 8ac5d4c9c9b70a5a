package explain

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// WriteJSON writes the report.
func WriteJSON(w io.Writer, r *Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// WriteText writes the report for a person: the verdict first, then each direction with its reasons.
func WriteText(w io.Writer, r *Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s → %s %s\n", r.Verdict, r.Source, r.Destination, r.Port)
	for i := range r.Answers {
		a := &r.Answers[i]
		if len(r.Answers) > 1 || a.Destination != r.Destination || a.Port != r.Port {
			fmt.Fprintf(&b, "\n%s: → %s %s, behind %s\n", a.Verdict, a.Destination, a.Port, r.Destination)
		}
		if slices.ContainsFunc(a.Notes, func(n Note) bool { return n.ID == reach.NoteSelfTraffic || n.ID == reach.NoteHairpin }) {
			b.WriteString("  policies are not asked\n")
		} else {
			writeSide(&b, "egress", r.Source, &a.Egress)
			writeSide(&b, "ingress", a.Destination, &a.Ingress)
		}
		for _, n := range a.Notes {
			fmt.Fprintf(&b, "  note %s: %s\n", n.ID, n.Text)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeSide(b *strings.Builder, direction, subject string, s *reach.Side) {
	fmt.Fprintf(b, "  %-7s %-5s ", direction, s.Verdict)
	decided := s.Denying
	if decided == nil && s.Allowing != nil && s.Allowing.Tier != "" {
		decided = s.Allowing
	}
	switch {
	case decided != nil:
		fmt.Fprintf(b, "the %s tier decides\n", decided.Tier)
	case len(s.Isolating) == 0:
		fmt.Fprintf(b, "no policy isolates %s\n", subject)
	default:
		fmt.Fprintf(b, "%s is isolated\n", subject)
	}
	for i := range s.Passing {
		writeRef(b, "passed on by", &s.Passing[i])
	}
	for i := range s.Isolating {
		writeRef(b, "isolated by", &s.Isolating[i])
	}
	switch {
	case s.Allowing != nil:
		writeRef(b, "allowed by", s.Allowing)
	case s.Denying != nil:
		writeRef(b, "denied by", s.Denying)
		if s.Nearest != nil {
			writeRef(b, "nearest rule", s.Nearest)
		}
	case s.Nearest != nil:
		writeRef(b, "nearest rule", s.Nearest)
	case s.Verdict == reach.Deny:
		fmt.Fprintf(b, "    %-13s no %s rule at all\n", "denied:", direction)
	}
}

func writeRef(b *strings.Builder, what string, r *reach.Ref) {
	fmt.Fprintf(b, "    %-13s %s", what, r.Policy)
	if r.Field != "" {
		b.WriteString(" " + r.Field)
	}
	if at := (manifest.Place{File: r.File, Line: r.Line}).String(); at != "" {
		b.WriteString(" (" + at + ")")
	}
	b.WriteString("\n")
	if r.Reason != "" {
		fmt.Fprintf(b, "    %-13s %s\n", "", r.Reason)
	}
}
