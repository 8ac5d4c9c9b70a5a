package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/bundle"
)

// building prints one line per build step: what begins and how long it took last time, then how long it took now.
func (a *app) building(p bundle.Progress) {
	if p.State == bundle.StateBegun {
		expect := ""
		if p.LastTook > 0 {
			expect = fmt.Sprintf(" (last time %.0f s", p.LastTook.Seconds())
			if p.Remaining > 0 {
				expect += fmt.Sprintf(", all that is left %s", p.Remaining.Round(time.Second))
			}
			expect += ")"
		}
		fmt.Fprintf(a.err, "  … [%d/%d] %s%s\n", p.N, p.Of, p.Step, expect)
		return
	}
	a.done(p.Step, p.Took)
}

// step prints the progress of a cluster's life: what begins or is told, then how long it took.
func (a *app) step(step, detail string, took time.Duration) {
	what := step
	if detail != "" {
		what += ": " + detail
	}
	if took == 0 {
		if detail != "" {
			fmt.Fprintf(a.err, "  … %s\n", what)
		}
		return
	}
	a.done(what, took)
}

// waitingFor prints what a wait is for, whenever that changes: the first of several conditions, and how many more there are.
func (a *app) waitingFor(detail string) {
	first, rest, several := strings.Cut(detail, "; ")
	if several {
		first = fmt.Sprintf("%s (and %d more)", first, 1+strings.Count(rest, "; "))
	}
	fmt.Fprintf(a.err, "  … %s\n", first)
}
