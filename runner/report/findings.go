package report

import (
	"fmt"
	"strings"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
)

// finding is every judgement of one step that did not pass for one and the same cause.
type finding struct {
	scenario   *Scenario
	step       *Step
	judgements []compare.Judgement
}

// findings are what did not pass, gathered by cause, in the order of the report.
func (r *Report) findings(want func(compare.Judgement) bool) []finding {
	var list []finding
	for _, s := range r.bySeverity() {
		for i := range s.Steps {
			step := &s.Steps[i]
			index := map[string]int{}
			for _, j := range step.Judgements {
				if !want(j) {
					continue
				}
				key := cause(j)
				n, known := index[key]
				if !known {
					n = len(list)
					index[key] = n
					list = append(list, finding{scenario: s, step: step})
				}
				list[n].judgements = append(list[n].judgements, j)
			}
		}
	}
	return list
}

// cause is what judgements must share to be shown as one: the promise's origin, the evidence, and the rules or controls to blame.
func cause(j compare.Judgement) string {
	parts := []string{
		j.Result.String(), j.Class.String(), j.Culprit, j.Promise.IntendedBy, j.Promise.Derived.Verdict.String(),
		j.Observed.Evidence.String(), j.Known,
	}
	if j.Result == compare.Inconclusive {
		parts = append(parts, j.Facts.Control.SourceFault, j.Facts.Control.DestinationFault, j.Facts.Outcome.Kind.String(), j.Observed.Drop.Reason)
	}
	if j.Result == compare.Skipped {
		parts = append(parts, j.Reason)
	}
	if j.Result == compare.Fail || j.Culprit != "" {
		for _, d := range j.Deciders() {
			parts = append(parts, d.Direction)
			for _, ref := range d.Refs {
				parts = append(parts, ref.Policy, ref.Field)
			}
		}
	}
	return strings.Join(parts, "\x00")
}

// section is one kind of finding with its heading.
type section struct {
	title, meaning string
	style          style
	want           func(compare.Judgement) bool
}

func sections() []section {
	failed := func(c compare.Class) func(compare.Judgement) bool {
		return func(j compare.Judgement) bool { return j.Result == compare.Fail && j.Class == c && j.Known == "" }
	}
	return []section{
		{"HOLES", "promised deny, observed allow", hole, failed(compare.Hole)},
		{"BREAKS", "promised allow, observed deny", broken, failed(compare.Break)},
		{"INCONCLUSIVE", "could not be told, so nothing is claimed", doubt, func(j compare.Judgement) bool {
			return j.Result == compare.Inconclusive || j.Result == compare.ResultUnknown
		}},
		{"KNOWN", "what this CNI is known to do otherwise, not counted as failures", doubt, func(j compare.Judgement) bool {
			return j.Result == compare.Fail && j.Known != ""
		}},
		{"SKIPPED", "cannot be judged", faint, func(j compare.Judgement) bool { return j.Result == compare.Skipped }},
	}
}

// findingIndent leaves room for a finding's number; keyWidth is for the longest key, with a blank after it.
const (
	findingIndent = "    "
	keyWidth      = len("promised  ")
	// attemptsShown is how many further attempts of one cause are listed unless everything is asked for: a line or two.
	attemptsShown = 4
)

// findings writes every section that has any.
func (p *page) findings(r *Report) {
	for _, s := range sections() {
		list := r.findings(s.want)
		if len(list) == 0 {
			continue
		}
		attempts := 0
		for _, f := range list {
			attempts += len(f.judgements)
		}
		p.blank()
		p.line(p.styled(s.style, fmt.Sprintf(" %s %d ", s.title, attempts)) + "  " + p.styled(faint, s.meaning))
		for i, f := range list {
			if s.title != "SKIPPED" {
				p.blank()
			}
			p.finding(i+1, f)
		}
	}
}

// finding writes one cause with its first attempt in full.
func (p *page) finding(number int, f finding) {
	j := f.judgements[0]
	title := p.attempt(j)
	where := p.clean(f.scenario.Name + p.sym.separator + "step " + f.step.Name)
	more := ""
	if n := len(f.judgements) - 1; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	head := padLeft(fmt.Sprint(number), len(findingIndent)-1) + " " + p.styled(strong, title) + more
	if len(findingIndent)+columns(title+more+"  "+where) <= p.width {
		p.line(head + "  " + p.styled(faint, where))
	} else {
		p.line(head)
		p.entry("in", where)
	}
	if j.Result == compare.Skipped {
		p.entry("because", j.Reason)
		return
	}
	p.entry("promised", p.promised(j))
	if j.Known != "" {
		p.entry("known", j.Known)
	}
	switch {
	case j.Result == compare.Fail:
		p.entry("observed", fmt.Sprintf("%s, %s: %s", j.Observed.Verdict, evidenceWords(j.Observed.Evidence), j.Observed.Detail))
		if j.Culprit != "" {
			p.entry("culprit", culpritWords(j.Culprit))
		}
	case j.Culprit != "":
		p.entry("observed", fmt.Sprintf("%s, %s: %s", j.Observed.Verdict, evidenceWords(j.Observed.Evidence), j.Observed.Detail))
		p.entry("culprit", culpritWords(j.Culprit))
	default:
		p.entry("because", j.Reason)
	}
	if j.Result == compare.Fail || j.Culprit != "" {
		p.deciders(j)
	}
	if j.Replay != "" {
		// Never wrapped: it is there to be copied.
		p.line(findingIndent + p.styled(faint, padRight("replay", keyWidth)) + p.clean(j.Replay))
	}
	p.also(f.judgements[1:])
}

// attempt is "x/a → y/b TCP/80"; a lookup has no port to show.
func (p *page) attempt(j compare.Judgement) string {
	words := j.Attempt.Source + p.sym.arrow + j.Attempt.Destination
	if j.Attempt.Kind != plan.Lookup {
		words += " " + j.Attempt.Notation()
	}
	return p.clean(words)
}

// promised is the promise and who made it.
func (p *page) promised(j compare.Judgement) string {
	words := j.Promise.Verdict().String()
	if j.Promise.IntendedBy != "" {
		return words + ", by " + j.Promise.IntendedBy
	}
	return words + ", by the policies"
}

func evidenceWords(e compare.Evidence) string {
	switch e {
	case compare.OneWay:
		return "one way"
	case compare.NoListener:
		return "no listener"
	case compare.WrongResponder:
		return "wrong responder"
	default:
		return e.String()
	}
}

// culpritWords says what a culprit means.
func culpritWords(c string) string {
	switch c {
	case compare.PolicyBug:
		return c + ": the packets follow the policies, which do not say what was meant"
	case compare.CNIBug:
		return c + ": the packets do not follow the policies"
	case compare.EngineQuestion:
		return c + ": the packets do what was meant, and our engine derives something else"
	default:
		return c
	}
}

// deciders writes what each direction's policies did.
func (p *page) deciders(j compare.Judgement) {
	for _, d := range j.Deciders() {
		if len(d.Refs) == 0 {
			p.entry(d.Direction, fmt.Sprintf("no policy isolates %s for %s", d.Pod, d.Direction))
			continue
		}
		for i, ref := range d.Refs {
			words := ref.Policy
			if ref.Field != "" {
				words += " " + ref.Field
			}
			if place := compare.RefPlace(ref); place != "" {
				words += " (" + place + ")"
			}
			key := ""
			if i == 0 {
				key, words = d.Direction, d.Verb()+" "+words
			}
			p.entry(key, words)
			if ref.Reason != "" {
				p.entry("", ref.Reason)
			}
		}
	}
}

// also lists the other attempts of a cause.
func (p *page) also(rest []compare.Judgement) {
	if len(rest) == 0 {
		return
	}
	shown := rest
	if p.options.Detail != Everything && len(rest) > attemptsShown {
		shown = rest[:attemptsShown]
	}
	// Each attempt is one word to the wrapping, so that no line breaks inside it.
	var words []string
	for i, j := range shown {
		word := p.attempt(j)
		if i < len(shown)-1 {
			word += ","
		}
		words = append(words, word)
	}
	if n := len(rest) - len(shown); n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	p.words("also", words)
}

// entry writes one key and its sentence.
func (p *page) entry(key, sentence string) { p.words(key, strings.Fields(p.clean(sentence))) }

// words writes one key and words that are clean already, wrapped beneath each other.
func (p *page) words(key string, words []string) {
	for _, l := range wrap(words, p.width-len(findingIndent)-keyWidth) {
		p.line(findingIndent + p.styled(faint, padRight(key, keyWidth)) + l)
		key = ""
	}
}
