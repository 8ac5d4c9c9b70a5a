package compare

import (
	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// Evidence is the strongest thing known about one attempt, as in the proof table. The zero value is unknown.
type Evidence uint8

// The kinds of evidence.
const (
	EvidenceUnknown Evidence = iota
	// Delivered: the right listener's identity came back to the source.
	Delivered
	// OneWay: the token arrived at the destination, the reply did not come back.
	OneWay
	// NoListener: refused by the destination's own stack, as the refusal seen leaving it shows (then the network allowed it), or as its
	// failing listener check makes likely (then nothing is known). A fixture fault, never green.
	NoListener
	// Rejected: refused or ICMP-prohibited on the way.
	Rejected
	// Dropped: the kernel dropped every request before it got to anybody, for a reason that policies make; see Observed.Drop.
	Dropped
	// Silent: timed out, no arrival, both agents proven alive, path proven by the baseline.
	Silent
	// WrongResponder: somebody answered, but not a permitted responder.
	WrongResponder
	// Lost: the kernel dropped a request for a reason that is no policy's; see Observed.Drop.
	Lost
	// Unaccounted: the kernel was watched, and some requests were seen neither arriving nor being dropped, or none was seen at all.
	Unaccounted
	// Missing: anything else; what was missing is in the words beside it.
	Missing
)

// Observed is the observed verdict of one attempt and its evidence: an inference from an observation.
type Observed struct {
	Verdict  reach.Verdict `json:"verdict"`
	Evidence Evidence      `json:"evidence"`
	// Detail says in words what was seen or what was missing.
	Detail string `json:"detail"`
	// Drop is where the kernel dropped the request, or for OneWay the reply; zero where it was not seen to.
	Drop Drop `json:"drop,omitzero"`
}

// Agrees tells whether two rounds saw the same of one attempt: the same verdict, and of an allow also whether a reply came back. A reply that
// one round waited for in vain and another got is a change, on a busy host often of the host, and never the last word.
func (o Observed) Agrees(other Observed) bool {
	return o.Verdict == other.Verdict && (o.Evidence == OneWay) == (other.Evidence == OneWay)
}

// Outcome of judging. The zero value is unknown.
type Result uint8

// The results.
const (
	ResultUnknown Result = iota
	Pass
	Fail
	Inconclusive
	Skipped
	// Known is no judgement's result but that of many: nothing failed but what a baseline explains.
	Known
)

// Class tells what kind of failure it is. The zero value is none.
type Class uint8

// The classes; holes outrank breaks.
const (
	ClassNone Class = iota
	// Hole: promised deny, observed allow.
	Hole
	// Break: promised allow, observed deny.
	Break
)

// Judgement is the result for one attempt of one step, with the reason in words.
type Judgement struct {
	Attempt  plan.Planned `json:"attempt"`
	Promise  plan.Promise `json:"promise"`
	Observed Observed     `json:"observed"`
	Result   Result       `json:"result"`
	Class    Class        `json:"class,omitempty"`
	Culprit  string       `json:"culprit,omitempty"` // "policy bug", "CNI bug or unconverged", "engine question"
	Reason   string       `json:"reason"`
	// Known is the reason, with a reference, of a failure that a baseline of known differences explains; such a failure is counted apart.
	Known  string             `json:"known,omitempty"`
	Replay string             `json:"replay,omitempty"` // the command that repeats this attempt; filled for all but pass
	Facts  probes.Observation `json:"observation"`
}
