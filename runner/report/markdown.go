package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/gapproof/gapproof/runner/compare"
)

// RenderMarkdown writes r as a comment for a pull request: the result, the scenarios, and the findings with their causes. Of the
// options Detail counts. The error is that of writing.
func RenderMarkdown(w io.Writer, r *Report, o Options) error {
	o.Colour = Plain
	p := newPage(o)
	s := r.Summary()
	p.line(fmt.Sprintf("## gapproof: %s", strings.ToUpper(s.Result.String())))
	p.line("")
	p.line(markdownText(p.clean(strings.Join(append(tallyWords(s.Tally), scenarioWords(s.Scenarios), p.took(r.Took)), p.sym.separator))))
	p.line("")
	p.line("| result | scenario | title | attempts | time | enforced |")
	p.line("|---|---|---|---:|---:|---:|")
	for _, sc := range r.bySeverity() {
		attempts := 0
		for _, step := range sc.Steps {
			attempts += len(step.Judgements)
		}
		p.line(fmt.Sprintf("| %s | `%s` | %s | %d | %s | %s |", strings.ToUpper(sc.Result().String()), p.clean(sc.Name),
			markdownText(p.clean(sc.Title)), attempts, p.took(sc.Took), p.took(sc.enforced())))
		if sc.Fault != "" {
			p.line(fmt.Sprintf("| | | %s | | | |", markdownText(p.clean("not carried out to its end: "+sc.Fault))))
		}
		if sc.Skipped != "" {
			p.line(fmt.Sprintf("| | | %s | | | |", markdownText(p.clean("skipped: "+sc.Skipped))))
		}
	}
	for _, sec := range sections() {
		list := r.findings(sec.want)
		if len(list) == 0 {
			continue
		}
		p.line("")
		p.line(fmt.Sprintf("### %s: %s", sec.title, sec.meaning))
		for _, f := range list {
			p.markdownFinding(f)
		}
	}
	p.markdownSeal(r.Seal)
	if lines := r.contradictions(); len(lines) > 0 {
		p.line("")
		p.line("### CONTRADICTS: " + contradictsMeaning)
		p.line("")
		for _, line := range lines {
			p.line("- " + markdownText(p.clean(line)))
		}
	}
	if len(r.Stale) > 0 {
		p.line("")
		p.line("### STALE: differences of the baseline that did not show: take them out")
		p.line("")
		for _, d := range r.Stale {
			p.line("- " + markdownText(p.clean(d.where()+": "+d.Words())))
		}
	}
	for _, sc := range r.bySeverity() {
		lines := sc.leftOut()
		if len(lines) == 0 {
			continue
		}
		p.line("")
		p.line(fmt.Sprintf("### Left out of `%s`: what its manifests say and the run did not try", p.clean(sc.Name)))
		p.line("")
		for _, line := range lines {
			p.line("- " + markdownText(p.clean(line)))
		}
	}
	p.line("")
	v := r.Versions
	p.line(markdownText(p.clean(fmt.Sprintf("gapproof %s, run %s, Kubernetes %s, %s, kernel %s, evidence: %s",
		v.Gapproof, r.Run, v.Kubernetes, v.CNI, v.Kernel, r.Level))))
	if r.Hubble != nil {
		p.line("")
		p.line("hubble: " + markdownText(p.clean(r.Hubble.line(p.sym.separator))))
	}
	if _, err := w.Write(p.Bytes()); err != nil {
		return fmt.Errorf("writing a Markdown report: %w", err)
	}
	return nil
}

func (p *page) markdownFinding(f finding) {
	j := f.judgements[0]
	p.line("")
	title := "`" + p.attempt(j) + "`"
	if n := len(f.judgements) - 1; n > 0 {
		title += fmt.Sprintf(" and %d more", n)
	}
	p.line(fmt.Sprintf("- **%s** in `%s`, step `%s`", title, p.clean(f.scenario.Name), p.clean(f.step.Name)))
	if j.Result != compare.Skipped {
		p.line("  - promised: " + markdownText(p.clean(p.promised(j))))
	}
	if j.Result == compare.Fail || j.Culprit != "" {
		p.line("  - observed: " + markdownText(p.clean(fmt.Sprintf("%s, %s: %s", j.Observed.Verdict, evidenceWords(j.Observed.Evidence), j.Observed.Detail))))
	}
	if j.Known != "" {
		p.line("  - known: " + markdownText(p.clean(j.Known)))
	}
	p.line("  - because: " + markdownText(p.clean(j.Reason)))
	if j.Replay != "" {
		p.line("  - replay: `` " + p.clean(j.Replay) + " ``")
	}
}

// markdownText is s with what Markdown would read as markup escaped.
func markdownText(s string) string {
	return strings.NewReplacer(`\`, `\\`, "|", `\|`, "*", `\*`, "_", `\_`, "`", "\\`", "<", "&lt;", "[", `\[`).Replace(s)
}
