package compare

import (
	"fmt"
	"strings"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// The culprits of a three-way difference.
const (
	// PolicyBug: the packets follow the policies, and the policies do not say what the person meant.
	PolicyBug = "policy bug"
	// CNIBug: the packets do not follow the policies.
	CNIBug = "CNI bug or unconverged"
	// EngineQuestion: the packets do what the person meant, and the engine derives something else.
	EngineQuestion = "engine question"
)

// Judge holds what was observed against what was promised. Replay is left empty, for a judgement does not know its file; see
// [Replay].
func Judge(p plan.Planned, promise plan.Promise, o probes.Observation) Judgement {
	j := Judgement{Attempt: p, Promise: promise, Facts: o}
	if promise.Backends != nil {
		p.Responders = promise.Backends
		if o.Control.BaselineFault == "" && o.Control.Instead == "" {
			o.Control.BaselineFault = "it reached other backends: labels have changed them since"
		}
	}
	j.Observed = Observe(o, p)
	j.judge()
	return j
}

// judge fills Result, Class, Culprit and Reason.
func (j *Judgement) judge() {
	promised, observed := j.Promise.Verdict(), j.Observed.Verdict
	switch {
	case j.Promise.Skip != "":
		j.Result, j.Reason = Skipped, j.Promise.Skip
	case promised == reach.Unknown:
		j.Result, j.Reason = Inconclusive, "nothing was promised: neither a person nor the engine gave a verdict"
	case observed == reach.Unknown:
		j.Result, j.Reason = Inconclusive, j.Observed.Detail
	case j.Observed.Evidence == NoListener:
		j.Result, j.Reason = Inconclusive, "the fixture is at fault, so the promise cannot be held against it: "+j.Observed.Detail
	case promised == reach.Allow && j.Observed.Evidence == OneWay:
		j.Result, j.Reason = Inconclusive, "data crossed but no reply came back: this is no deny, and no working connection either: "+j.Observed.Detail
	case promised != observed:
		j.fail(promised)
	case j.Promise.Derived.Verdict == observed:
		j.Result, j.Reason = Pass, j.Observed.Detail
	case j.Promise.Derived.Verdict == reach.Unknown && j.Attempt.Protocol == probes.ICMP: // only the person has said anything
		j.Result, j.Reason = Pass, j.Observed.Detail
	case j.Promise.Derived.Verdict == reach.Unknown:
		j.Result = Inconclusive
		j.Reason = fmt.Sprintf("%s was promised and seen, but the policies do not say the same for every backend, and one cannot speak for all", observed)
	default:
		j.Result, j.Culprit = Inconclusive, EngineQuestion
		j.Reason = fmt.Sprintf("%s was promised by %s and seen, but the engine derives %s from the policies: %s",
			observed, j.Promise.IntendedBy, j.Promise.Derived.Verdict, j.decidersWords())
	}
}

// fail fills the rest for a promise that did not hold.
func (j *Judgement) fail(promised reach.Verdict) {
	j.Result, j.Class = Fail, Hole
	if promised == reach.Allow {
		j.Class = Break
	}
	derived, observed := j.Promise.Derived.Verdict, j.Observed.Verdict
	switch derived {
	case observed:
		j.Culprit = PolicyBug
		j.Reason = fmt.Sprintf("%s promises %s, but the policies %s it: %s", j.Promise.IntendedBy, promised, derived, j.decidersWords())
	case reach.Unknown:
		if j.Attempt.Protocol == probes.ICMP {
			j.Reason = fmt.Sprintf("%s promises %s, but %s was seen; the API leaves ICMP to the CNI (semantics note %s)",
				j.Promise.IntendedBy, promised, observed, reach.NoteICMP)
			return
		}
		j.Reason = fmt.Sprintf("%s promises %s, but %s was seen; the policies do not say the same for every backend",
			j.Promise.IntendedBy, promised, observed)
	default:
		j.Culprit = CNIBug
		j.Reason = fmt.Sprintf("the policies %s it, but %s was seen: %s", derived, observed, j.decidersWords())
	}
}

// Decider is one direction's part in the derived verdict.
type Decider struct {
	// Direction is "ingress" or "egress".
	Direction string
	// Verdict is this direction's.
	Verdict reach.Verdict
	// Refs point at the rules that decided: the one that allowed; for a deny the nearest one, or where no rule exists the
	// policies that isolate. Empty when nothing isolates the pod.
	Refs []reach.Ref
	// Pod is the end that the direction's policies select: the destination for ingress, the source for egress.
	Pod string

	nearest bool // Refs hold the rule that came nearest to allowing
}

// Deciders are the directions that made the derived verdict, ingress first: both for an allow, since either could have denied, and
// those that deny for a deny. None when the engine gave no verdict. A host outside the cluster and
// the API server have no policies to decide by.
func (j *Judgement) Deciders() []Decider {
	d := j.Promise.Derived
	sides := []struct {
		direction, pod string
		side           reach.Side
	}{
		{"ingress", j.destinationWords(), d.Ingress},
		{"egress", j.Attempt.Source, d.Egress},
	}
	var out []Decider
	for _, s := range sides {
		if s.direction == "ingress" && (j.Attempt.Kind == plan.OutsideIP || j.Attempt.Kind == plan.APIServerIP) || s.direction == "egress" && j.Attempt.FromOutside() {
			continue
		}
		if s.side.Verdict == reach.Unknown || s.side.Verdict != d.Verdict {
			continue
		}
		decider := Decider{Direction: s.direction, Verdict: s.side.Verdict, Pod: s.pod}
		switch {
		case s.side.Allowing != nil:
			decider.Refs = []reach.Ref{*s.side.Allowing}
		case s.side.Denying != nil:
			decider.Refs = []reach.Ref{*s.side.Denying}
		case s.side.Verdict == reach.Deny && s.side.Nearest != nil:
			decider.Refs, decider.nearest = []reach.Ref{*s.side.Nearest}, true
		case s.side.Verdict == reach.Deny:
			decider.Refs = s.side.Isolating
		}
		out = append(out, decider)
	}
	return out
}

// Current is the attempt with the responders that it had in its step.
func (j *Judgement) Current() plan.Planned {
	a := j.Attempt
	if j.Promise.Backends != nil {
		a.Responders = j.Promise.Backends
	}
	return a
}

// destinationWords names the pods that ingress policies select for this attempt.
func (j *Judgement) destinationWords() string {
	if j.Attempt.Kind == plan.Lookup {
		return "the resolver"
	}
	return strings.Join(j.Current().Responders, ", ")
}

func (j *Judgement) decidersWords() string {
	var words []string
	for _, d := range j.Deciders() {
		words = append(words, d.String())
	}
	if len(words) == 0 {
		return "no rule is known"
	}
	return strings.Join(words, "; ")
}

// String is the decider as a sentence: "ingress allowed by x/web spec.ingress[0].from (web.yaml:12): …".
func (d Decider) String() string {
	if len(d.Refs) == 0 {
		return fmt.Sprintf("no policy isolates %s for %s", d.Pod, d.Direction)
	}
	var refs []string
	for _, r := range d.Refs {
		refs = append(refs, RefWords(r))
	}
	return fmt.Sprintf("%s %s %s", d.Direction, d.Verb(), strings.Join(refs, " and "))
}

// Verb says what the places in Refs did: "allowed by", "denied by", or for a deny that some rule came near to preventing,
// "denied; the nearest rule is".
func (d Decider) Verb() string {
	switch {
	case d.Verdict == reach.Allow:
		return "allowed by"
	case d.nearest:
		return "denied; the nearest rule is"
	default:
		return "denied by"
	}
}

// RefWords is a place in a policy with its reason: "x/web spec.ingress[0].from (web.yaml:12): from is missing".
func RefWords(r reach.Ref) string {
	words := r.Policy
	if r.Field != "" {
		words += " " + r.Field
	}
	if place := RefPlace(r); place != "" {
		words += " (" + place + ")"
	}
	if r.Reason != "" {
		words += ": " + r.Reason
	}
	return words
}

// RefPlace is "file:line", the file alone when the line is unknown, empty when the file is.
func RefPlace(r reach.Ref) string {
	if r.File == "" || r.Line == 0 {
		return r.File
	}
	return fmt.Sprintf("%s:%d", r.File, r.Line)
}
