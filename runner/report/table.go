package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/compare"
)

// RenderTable writes r for people: what was tested, a line and where needed a matrix per scenario, every finding with its cause and
// the command that repeats it, and the result. The error is that of writing.
func RenderTable(w io.Writer, r *Report, o Options) error {
	p := newPage(o)
	p.header(r)
	p.legend(r)
	p.scenarios(r)
	p.findings(r)
	p.stale(r)
	p.gaps(r)
	p.contradictions(r)
	p.notes(r)
	p.seal(r.Seal)
	p.result(r)
	if _, err := w.Write(p.Bytes()); err != nil {
		return fmt.Errorf("writing a report: %w", err)
	}
	return nil
}

// startedLayout is RFC 3339 with a blank: sorted as text it is sorted in time, and it reads.
const startedLayout = "2006-01-02 15:04:05Z"

// header says what was tested, with what, and how strong the evidence is.
func (p *page) header(r *Report) {
	v := r.Versions
	var begun, lasted, nodes, images string
	if !r.Started.IsZero() {
		begun = r.Started.UTC().Format(startedLayout)
	}
	if r.Took > 0 {
		lasted = p.took(r.Took)
	}
	if len(v.Nodes) > 0 {
		nodes = count(len(v.Nodes), "node")
	}
	if len(v.Images) > 0 {
		images = count(len(v.Images), "image") + " by digest"
	}
	tool := p.span(strong, p.clean(strings.TrimSpace("gapproof "+v.Gapproof)))
	p.flow("", p.sym.separator, append([]span{tool}, p.plainSpans(named("run", r.Run), begun, lasted)...)...)
	p.flow("", p.sym.separator, p.plainSpans(
		named("Kubernetes", v.Kubernetes), v.CNI, named("kernel", v.Kernel), nodes, images, named("evidence:", r.Level))...)
	p.hubble(r.Hubble)
}

// named is a value after its name, nothing when there is no value.
func named(name, value string) string {
	if value == "" {
		return ""
	}
	return name + " " + value
}

// The widths of the columns of numbers: as wide as their headings.
const (
	attemptsHead = "ATTEMPTS"
	tookHead     = "   TIME"
	enforcedHead = "ENFORCED"
	// longestName is how much of the width a scenario's name may take: a third, so that a title fits beside it.
	longestName = 3
	// leastTitle is the width below which a title says nothing and is left out.
	leastTitle = 12
)

// scenarios writes a line per scenario, worst first, with the matrices that are to be shown below it.
func (p *page) scenarios(r *Report) {
	list := r.bySeverity()
	if len(list) == 0 {
		p.blank()
		p.line("no scenario was run")
		return
	}
	resultWidth, nameWidth := len("RESULT"), len("SCENARIO")
	for _, s := range list {
		resultWidth = max(resultWidth, len(s.Result().String()))
		nameWidth = max(nameWidth, columns(p.fit(p.clean(s.Name), p.width/longestName)))
	}
	const gap = "  "
	titleWidth := p.width - resultWidth - nameWidth - len(attemptsHead) - len(tookHead) - len(enforcedHead) - 5*len(gap)
	row := func(result, name, title, attempts, took, enforced string) string {
		cells := []string{result, padRight(name, nameWidth)}
		if titleWidth >= leastTitle {
			cells = append(cells, padRight(title, titleWidth))
		}
		return strings.Join(append(cells, padLeft(attempts, len(attemptsHead)), padLeft(took, len(tookHead)), padLeft(enforced, len(enforcedHead))), gap)
	}
	p.blank()
	p.line(p.styled(faint, row(padRight("RESULT", resultWidth), "SCENARIO", "TITLE", attemptsHead, tookHead, enforcedHead)))
	alike := 0 // scenarios above that were skipped for the same reason
	for i, s := range list {
		result := s.Result()
		word := p.styled(resultStyle(result), strings.ToUpper(result.String())) + strings.Repeat(" ", resultWidth-len(result.String()))
		attempts := 0
		for _, step := range s.Steps {
			attempts += len(step.Judgements)
		}
		p.line(row(word, p.fit(p.clean(s.Name), nameWidth), p.fit(p.clean(s.Title), titleWidth),
			fmt.Sprint(attempts), p.took(s.Took), p.took(s.enforced())))
		if s.Fault != "" {
			p.wrapped(p.clean("not carried out to its end: "+s.Fault), doubt)
		}
		if s.Skipped != "" {
			alike++
			if i+1 == len(list) || list[i+1].Skipped != s.Skipped {
				p.wrapped(p.clean(count(alike, "scenario")+" skipped: "+s.Skipped), faint)
				alike = 0
			}
		}
		for _, line := range s.leftOut() {
			p.wrapped(p.clean("left out: "+line), faint)
		}
		p.steps(s)
	}
}

func resultStyle(r compare.Result) style {
	switch r {
	case compare.Pass:
		return good
	case compare.Fail:
		return hole
	case compare.Skipped:
		return faint
	default:
		return doubt
	}
}

// enforced is the longest time to enforce of the scenario's steps.
func (s *Scenario) enforced() time.Duration {
	var longest time.Duration
	for _, step := range s.Steps {
		longest = max(longest, step.Enforced)
	}
	return longest
}

// showsMatrix tells whether a step's matrix is shown: always where something did not pass, and everywhere on demand.
func (p *page) showsMatrix(s Step) bool {
	if len(s.Judgements) == 0 {
		return false
	}
	return p.options.Detail == Everything ||
		slices.ContainsFunc(s.Judgements, func(j compare.Judgement) bool { return j.Result != compare.Pass && j.Result != compare.Skipped })
}

// steps writes the matrices of a scenario, each under its step's name.
func (p *page) steps(s *Scenario) {
	shown := false
	for _, step := range s.Steps {
		if !p.showsMatrix(step) {
			continue
		}
		shown = true
		parts := []string{"step " + step.Name}
		parts = append(parts, tallyWords(compare.Count(step.Judgements))...)
		if step.Enforced > 0 {
			parts = append(parts, "enforced in "+p.took(step.Enforced))
		}
		if step.Decided > 0 {
			parts = append(parts, "denies decided in "+p.took(step.Decided)+" (median)")
		}
		if step.Rounds > 0 {
			parts = append(parts, count(step.Rounds, "round"))
		}
		p.blank()
		p.flow(matrixIndent, p.sym.separator, p.plainSpans(parts...)...)
		p.matrix(newMatrix(step.Judgements))
	}
	if shown {
		p.blank()
	}
}

// tallyWords are the counts that are not zero, worst first.
func tallyWords(t compare.Tally) []string {
	var words []string
	for _, part := range []struct {
		n   int
		one string
	}{
		{t.Holes, "hole"}, {t.Breaks, "break"}, {t.Inconclusive, "inconclusive"}, {t.Known, "known"}, {t.Skipped, "skipped"},
	} {
		if part.n > 0 {
			words = append(words, count(part.n, part.one))
		}
	}
	return append(words, fmt.Sprintf("%d as promised", t.Pass))
}

// stale lists the known differences that did not show.
func (p *page) stale(r *Report) {
	if len(r.Stale) == 0 {
		return
	}
	p.blank()
	p.line(p.styled(doubt, fmt.Sprintf(" STALE %d ", len(r.Stale))) + "  " + p.styled(faint, "differences of the baseline that did not show: take them out"))
	for _, d := range r.Stale {
		p.wrapped(p.clean(d.where()+": "+d.Words()), plain)
	}
}

// gaps lists the attempts whose verdict still changed after their step counted as converged.
func (p *page) gaps(r *Report) {
	var lines []string
	for _, s := range r.bySeverity() {
		for _, step := range s.Steps {
			for _, g := range step.Gaps {
				lines = append(lines, fmt.Sprintf("%s (%s, step %s) right after %s: %s", g.AttemptID, s.Name, step.Name, p.took(g.After), g.Detail))
			}
		}
	}
	if len(lines) == 0 {
		return
	}
	p.blank()
	p.line(p.styled(doubt, fmt.Sprintf(" GAPS %d ", len(lines))) + "  " + p.styled(faint, "changed after the beacons had flipped"))
	for _, l := range lines {
		p.wrapped(p.clean(l), plain)
	}
}

// notes counts the semantics notes that had a part in a promise.
func (p *page) notes(r *Report) {
	counts := r.noteCounts()
	if len(counts) == 0 {
		return
	}
	var items []string
	for _, note := range slices.Sorted(maps.Keys(counts)) {
		items = append(items, fmt.Sprintf("%s (%s)", note, count(counts[note], "attempt")))
	}
	p.blank()
	for _, l := range wrap(strings.Fields(p.clean("semantics notes that applied: "+strings.Join(items, ", "))), p.width) {
		p.line(p.styled(faint, l))
	}
}

func (r *Report) noteCounts() map[string]int {
	counts := map[string]int{}
	for _, s := range r.Scenarios {
		for _, step := range s.Steps {
			for _, j := range step.Judgements {
				for _, note := range j.Promise.Derived.Notes {
					counts[note]++
				}
			}
		}
	}
	return counts
}

// result writes the last two lines: the whole in numbers, and how the command ends.
func (p *page) result(r *Report) {
	s := r.Summary()
	p.blank()
	word := p.span(resultStyle(s.Result), " "+strings.ToUpper(s.Result.String())+" ")
	parts := p.plainSpans(append(tallyWords(s.Tally), scenarioWords(s.Scenarios), p.took(r.Took))...)
	parts[0].text, parts[0].width = word.text+" "+parts[0].text, word.width+1+parts[0].width
	p.flow("", p.sym.separator, parts...)
	p.line(p.styled(faint, fmt.Sprintf("exit code %d: %s", s.ExitCode, r.exitWords())))
}

// scenarioWords is "12 scenarios: 1 fail, 11 pass".
func scenarioWords(t ScenarioTally) string {
	var words []string
	for _, part := range []struct {
		n    int
		name string
	}{
		{t.Fail, "fail"}, {t.Inconclusive, "inconclusive"}, {t.Known, "known"}, {t.Skipped, "skipped"}, {t.Pass, "pass"},
	} {
		if part.n > 0 {
			words = append(words, fmt.Sprintf("%d %s", part.n, part.name))
		}
	}
	total := count(t.Fail+t.Inconclusive+t.Known+t.Skipped+t.Pass, "scenario")
	if len(words) == 0 {
		return total
	}
	return total + ": " + strings.Join(words, ", ")
}
