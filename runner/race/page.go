package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/reach"
)

// page writes the report. The first fault of writing stays and ends it.
type page struct {
	to    io.Writer
	fault error
}

const (
	// ourGoal is what gapproof may take for the 20 steps, everything made and removed; cyclonus took 580 s when it was set.
	ourGoal = 45 * time.Second
	// titleWidth holds most titles; the scenarios' files have them whole.
	titleWidth = 56
	textWidth  = 110
)

func (p *page) printf(format string, args ...any) {
	if p.fault == nil {
		_, p.fault = fmt.Fprintf(p.to, format, args...)
	}
}

// err is the exit code, unless writing failed.
func (p *page) err(code int) (int, error) {
	if p.fault != nil {
		return 0, fmt.Errorf("writing the report: %w", p.fault)
	}
	return code, nil
}

func (p *page) head(l *lab, all []Case, o options) {
	steps, attempts := 0, 0
	for _, c := range all {
		for _, s := range c.Steps {
			steps++
			attempts += attemptsOf(s)
		}
	}
	kernel := ""
	if len(l.nodes) > 0 {
		kernel = l.nodes[0].Kernel
	}
	p.printf("gapproof against cyclonus %s, its cases tagged %s: %d cases, %d steps, %d attempts\n", cyclonusVersion(), raceTag, len(all), steps, attempts)
	p.printf("on cluster %s: Kubernetes %s, %s, %d nodes, kernel %s\n\n", o.cluster, l.cluster.Version, l.cni, len(l.nodes), kernel)
}

func (p *page) configs(our, their *Result, o options) {
	if our != nil {
		p.printf("gapproof: %s\n", our.Config)
	}
	if their != nil {
		p.printf("%s: %s\n", their.Contestant, their.Config)
	}
	if o.reuse != "" {
		p.printf("CYCLONUS WAS NOT RUN NOW: its times and verdicts are those that an earlier race left in %s.\n", o.reuse)
	}
}

// steps prints a line per step.
func (p *page) steps(all []Case, our, their *Result, c *Comparison) {
	p.printf("\n%-*s", titleWidth+8, "step")
	if our != nil {
		p.printf("  %9s %9s %6s", "gapproof", "enforced", "made")
	}
	if their != nil {
		p.printf("  %9s %6s", "cyclonus", "made")
	}
	if c != nil {
		p.printf("  %6s", "differ")
	}
	p.printf("\n")
	at := 0
	for _, tc := range all {
		for n := range tc.Steps {
			title := tc.Title
			if len(title) > titleWidth {
				title = title[:titleWidth-1] + "…"
			}
			p.printf("%3d %s%s", at+1, pad(title, titleWidth), fmt.Sprintf(" %d/%d", n+1, len(tc.Steps)))
			if our != nil {
				s := our.Steps[at]
				p.printf("  %7.1f s %6d ms %6d", s.Took.Seconds(), s.Enforced.Milliseconds(), s.Rounds*len(s.Answers))
			}
			if their != nil {
				s := their.Steps[at]
				p.printf("  %7.1f s %6d", s.Took.Seconds(), s.Rounds*len(s.Answers))
			}
			if c != nil {
				p.printf("  %6d", c.PerStep[at])
			}
			p.printf("\n")
			at++
		}
	}
}

// pad fills to width in characters; fmt counts bytes.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-len([]rune(s))))
}

// walls prints the times of the whole.
func (p *page) walls(our, their *Result, o options) {
	p.printf("\n")
	for _, r := range []*Result{our, their} {
		if r == nil {
			continue
		}
		p.printf("%s: %.1f s from start to end, its %d steps %.1f s", r.Contestant, r.Wall.Seconds(), len(r.Steps), r.stepping().Seconds())
		if r == their && o.reuse != "" {
			p.printf(" (an earlier race)")
		}
		p.printf("\n")
		for _, part := range r.Parts {
			p.printf("    %-70s %7.1f s\n", part.What, part.Took.Seconds())
		}
	}
	if our == nil {
		return
	}
	verb := "met"
	if our.Wall > ourGoal {
		verb = "MISSED"
	}
	p.printf("goal of %s for gapproof's whole run: %s\n", ourGoal, verb)
	if their != nil {
		p.printf("cyclonus took %.1f times as long\n", their.Wall.Seconds()/our.Wall.Seconds())
	}
	p.printf("of gapproof's own %d verdicts %d are not what its engine promises, %d it could not tell\n", count(our, made), count(our, broken), count(our, undecided))
}

// count is how many answers are of a kind.
func count(r *Result, is func(Answer) bool) int {
	n := 0
	for _, s := range r.Steps {
		for _, a := range s.Answers {
			if is(a) {
				n++
			}
		}
	}
	return n
}

func made(Answer) bool        { return true }
func undecided(a Answer) bool { return a.Verdict == reach.Unknown }
func broken(a Answer) bool    { return !undecided(a) && a.Verdict != a.Promised }

// differences prints every verdict that differs, those that nothing explains first.
func (p *page) differences(c *Comparison) {
	if c == nil {
		return
	}
	unexplained := len(c.unexplained())
	p.printf("\n%d verdicts compared, %d equal, %d differ: %d explained, %d not\n", c.Compared, c.Compared-len(c.Differences),
		len(c.Differences), len(c.Differences)-unexplained, unexplained)
	heading := "" // of the lines before
	for _, l := range lines(c.Differences) {
		name, why := "unexplained", "look at this first: one of the two is wrong, or a difference is not known yet"
		if l.Known != nil {
			name, why = l.Known.Name, l.Known.Why
		}
		if name != heading {
			heading = name
			p.printf("\n%s\n%s", name, wrap(why, textWidth))
		}
		p.printf("  step %2d  %-9s %-31s gapproof %-7s cyclonus %-7s", l.Step, l.ID, strings.Join(l.ports, " "), l.Ours.Verdict, l.Theirs.Verdict)
		if l.Known == nil {
			p.printf(" (promised: gapproof's engine %s, cyclonus' %s) %s; %s", l.Ours.Promised, l.Theirs.Promised, l.Ours.Detail, l.Theirs.Detail)
		}
		p.printf("\n")
	}
}

// wrap breaks text into lines of at most width characters, each indented.
func wrap(text string, width int) string {
	var b strings.Builder
	length := 0
	for _, word := range strings.Fields(text) {
		if length+len(word)+1 > width {
			b.WriteString("\n")
			length = 0
		}
		if length == 0 {
			b.WriteString("  ")
			length = 1
		} else {
			b.WriteString(" ")
		}
		b.WriteString(word)
		length += len(word) + 1
	}
	b.WriteString("\n")
	return b.String()
}
