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
		behind := a.Destination != r.Destination || a.Port != r.Port
		if len(r.Answers) > 1 || behind {
			fmt.Fprintf(&b, "\n%s", a.Verdict)
			if r.differs(a) {
				fmt.Fprintf(&b, " over %s", strings.Join(a.Families, ", "))
			}
			fmt.Fprintf(&b, ": → %s %s", a.Destination, a.Port)
			if behind {
				fmt.Fprintf(&b, ", behind %s", r.Destination)
			}
			b.WriteString("\n")
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
		if len(a.Families) > 1 {
			fmt.Fprintf(&b, "  %s decide the same\n", strings.Join(a.Families, " and "))
		}
		for _, assumed := range a.Assumed {
			fmt.Fprintf(&b, "  warning: %s\n", assumed.Text)
		}
		if a.Unreachable != "" {
			fmt.Fprintf(&b, "  warning: %s\n", a.Unreachable)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// differs tells whether the answer's destination has another one, of another family.
func (r *Report) differs(a *Answer) bool {
	return slices.ContainsFunc(r.Answers, func(o Answer) bool {
		return o.Destination == a.Destination && o.Port == a.Port && !slices.Equal(o.Families, a.Families)
	})
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
