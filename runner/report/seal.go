package report

import (
	"fmt"
	"strings"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/seal"
)

// Seal is what the proof of the lab's seal came to that was taken after the last scenario.
type Seal struct {
	Verdict seal.Verdict `json:"verdict"`
	// Leaks are why the network leaked, Doubts why its seal is not proven, in words.
	Leaks  []string `json:"leaks,omitempty"`
	Doubts []string `json:"doubts,omitempty"`
	// Sources are how many nodes and pods sent canaries; Canaries is how many packets they sent, and Counted how many the gate counted.
	Sources  int    `json:"sources"`
	Canaries uint64 `json:"canaries"`
	Counted  uint64 `json:"counted"`
	// Names is how many names the sources asked for, Images how many images on nodes were held against the lock.
	Names  int `json:"names"`
	Images int `json:"images"`
	// Tried is what was dropped since the run began and is no canary.
	Tried []seal.Tried `json:"tried,omitempty"`
}

// NewSeal is what a report says of a proof.
func NewSeal(p seal.Proof) *Seal {
	s := &Seal{
		Verdict: p.Verdict, Leaks: p.Leaks, Doubts: p.Doubts, Tried: p.Tried(),
		Sources: len(p.Facts.Sources), Names: len(p.Facts.Names), Images: p.Facts.Images,
	}
	for _, c := range p.Facts.Canaries {
		s.Canaries += c.Sent
		s.Counted += c.Counted
	}
	return s
}

// result is what the seal adds to a run's: a leak is a promise that did not hold, and what is not proven could not be told.
func (s *Seal) result() compare.Result {
	switch s.Verdict {
	case seal.Sealed:
		return compare.Pass
	case seal.Leaked:
		return compare.Fail
	default:
		return compare.Inconclusive
	}
}

// meaning says in words what the verdict rests on.
func (s *Seal) meaning() string {
	switch s.Verdict {
	case seal.Sealed:
		return "nothing left the lab's network"
	case seal.Leaked:
		return "something left the lab's network, or came in"
	default:
		return "that nothing left the lab's network is not proven"
	}
}

// sent says what was put to the proof; empty where nothing was.
func (s *Seal) sent() string {
	if s.Sources == 0 {
		return ""
	}
	return fmt.Sprintf("%d canaries of %d nodes and pods, %d counted; %d names asked; %d images held against the lock",
		s.Canaries, s.Sources, s.Counted, s.Names, s.Images)
}

// why are the leaks and the doubts, the worse first.
func (s *Seal) why() []string {
	var lines []string
	for _, l := range s.Leaks {
		lines = append(lines, "leak: "+l)
	}
	for _, d := range s.Doubts {
		lines = append(lines, "doubt: "+d)
	}
	return lines
}

// triedShown is how much of what was tried is shown to people where not everything is asked for; the machine formats have all of it.
const triedShown = 10

// tried are lines of what was dropped and is no canary, with what is left out when all is false.
func (s *Seal) tried(d Detail) []string {
	var lines []string
	for i, t := range s.Tried {
		if i == triedShown && d != Everything {
			return append(lines, fmt.Sprintf("and %d more: --show all", len(s.Tried)-i))
		}
		lines = append(lines, t.String())
	}
	return lines
}

const triedHead = "tried to leave since the run began, and was dropped"

// seal writes what the proof of the seal came to.
func (p *page) seal(s *Seal) {
	if s == nil {
		return
	}
	p.blank()
	p.line(p.styled(resultStyle(s.result()), " "+string(s.Verdict)+" ") + "  " + p.styled(faint, s.meaning()))
	for _, line := range s.why() {
		p.wrapped(p.clean(line), plain)
	}
	if sent := s.sent(); sent != "" {
		p.wrapped(sent, faint)
	}
	if len(s.Tried) > 0 {
		p.wrapped(triedHead+":", plain)
	}
	for _, line := range s.tried(p.options.Detail) {
		p.wrapped(p.clean("- "+strings.ReplaceAll(line, " → ", p.sym.arrow)), plain)
	}
}

// markdownSeal writes the same as Markdown.
func (p *page) markdownSeal(s *Seal) {
	if s == nil {
		return
	}
	p.line("")
	p.line(fmt.Sprintf("### %s: %s", s.Verdict, s.meaning()))
	p.line("")
	for _, line := range s.why() {
		p.line("- " + markdownText(p.clean(line)))
	}
	if sent := s.sent(); sent != "" {
		p.line("- " + sent)
	}
	if len(s.Tried) > 0 {
		p.line("- " + triedHead + ":")
	}
	for _, line := range s.tried(p.options.Detail) {
		p.line("  - " + markdownText(p.clean(line)))
	}
}

// junitSeal is the seal as a suite of one case: a leak is a failure, what is not proven an error.
func junitSeal(r *Report) junitSuite {
	s := r.Seal
	c := junitCase{Name: "nothing leaves the lab's network", Class: "seal", Time: seconds(0)}
	p := newPage(Options{})
	why := p.clean(strings.Join(s.why(), "; "))
	switch s.result() {
	case compare.Pass:
	case compare.Fail:
		c.Failure = &junitProblem{Message: string(s.Verdict) + ": " + why, Type: string(s.Verdict), Text: why}
	default:
		c.Error = &junitProblem{Message: string(s.Verdict) + ": " + why, Type: string(s.Verdict), Text: why}
	}
	if sent := s.sent(); sent != "" {
		p.line(sent)
	}
	if len(s.Tried) > 0 {
		p.line(triedHead + ":")
	}
	for _, line := range s.tried(Everything) {
		p.line("  " + p.clean(line))
	}
	c.SystemOut = p.String()
	suite := junitSuite{Name: "seal", Time: seconds(0), Timestamp: r.junitTime(), Properties: []junitProperty{{"run", r.Run}}}
	suite.add(c)
	return suite
}
