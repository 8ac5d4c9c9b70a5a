package report

import (
	"fmt"
	"strings"

	"github.com/gapproof/gapproof/runner/hubble"
)

// Hubble is what Cilium's Hubble says to a run's observed verdicts. It corroborates: no result and no exit code rests on it.
type Hubble struct {
	// Agree, Silent and Contradicts add up to the run's judgements.
	Agree       int            `json:"agree"`
	Silent      int            `json:"silent"`
	Contradicts int            `json:"contradicts"`
	Reading     hubble.Reading `json:"reading"`
}

// Corroborate puts what Hubble says to every judgement into the report. Flows are those of a judgement by the indexes of its scenario, step
// and place, with why there can be none. Where nothing was read the judgements' own entries are left out: all are silent for one reason.
func (r *Report) Corroborate(reading hubble.Reading, flows func(scenario, step, judgement int) (list []hubble.Flow, why string)) {
	h := &Hubble{Reading: reading}
	r.Hubble = h
	for i := range r.Scenarios {
		for k := range r.Scenarios[i].Steps {
			step := &r.Scenarios[i].Steps[k]
			step.Hubble = nil
			if reading.Absent != "" {
				h.Silent += len(step.Judgements)
				continue
			}
			for n, j := range step.Judgements {
				list, why := flows(i, k, n)
				c := hubble.Corroborate(j.Attempt.ID, j.Observed.Verdict, list, why, reading)
				step.Hubble = append(step.Hubble, c)
				switch c.Word {
				case hubble.Agree:
					h.Agree++
				case hubble.Contradicts:
					h.Contradicts++
				default:
					h.Silent++
				}
			}
		}
	}
}

// counts is "812 agree · 40 silent · 0 contradict", and where nothing was read or something was lost, why.
func (h *Hubble) counts() []string {
	if h.Reading.Absent != "" {
		return []string{fmt.Sprintf("%d silent: %s", h.Silent, h.Reading.Absent)}
	}
	parts := []string{fmt.Sprintf("%d agree", h.Agree), fmt.Sprintf("%d silent", h.Silent), fmt.Sprintf("%d contradict", h.Contradicts)}
	if n := h.Reading.Lost(); n > 0 {
		parts = append(parts, fmt.Sprintf("%d events lost by Hubble", n))
	}
	if fault := h.Reading.Fault(); fault != "" {
		parts = append(parts, fault)
	}
	return parts
}

// line is all of it in one.
func (h *Hubble) line(separator string) string {
	return strings.Join(h.counts(), separator)
}

// contradictsMeaning says what the list is not.
const contradictsMeaning = "Hubble saw otherwise; no verdict rests on it"

// contradictions are lines of what Hubble contradicts, worst scenario first.
func (r *Report) contradictions() []string {
	var lines []string
	for _, s := range r.bySeverity() {
		lines = append(lines, s.contradictions()...)
	}
	return lines
}

// contradictions are those of one scenario.
func (s *Scenario) contradictions() []string {
	var lines []string
	for _, step := range s.Steps {
		for _, c := range step.Hubble {
			if c.Word == hubble.Contradicts {
				lines = append(lines, fmt.Sprintf("%s (%s, step %s): %s", c.AttemptID, s.Name, step.Name, c.Reason))
			}
		}
	}
	return lines
}

// contradictions lists what Hubble contradicts.
func (p *page) contradictions(r *Report) {
	lines := r.contradictions()
	if len(lines) == 0 {
		return
	}
	p.blank()
	p.line(p.styled(doubt, fmt.Sprintf(" CONTRADICTS %d ", len(lines))) + "  " + p.styled(faint, contradictsMeaning))
	for _, l := range lines {
		p.wrapped(p.clean(strings.ReplaceAll(l, " → ", p.sym.arrow)), plain)
	}
}

// hubble writes the counts below the header.
func (p *page) hubble(h *Hubble) {
	if h == nil {
		return
	}
	spans := p.plainSpans(h.counts()...)
	spans[0].text, spans[0].width = "hubble  "+spans[0].text, spans[0].width+len("hubble  ")
	p.flow("", p.sym.separator, spans...)
}
