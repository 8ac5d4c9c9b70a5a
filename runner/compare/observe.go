package compare

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// Observe infers the observed verdict of one attempt from the strongest evidence at hand: the proof table. The first row that
// holds decides. Rows that prove an allow come first and need no control; rows that prove a deny come last and need all of them, the
// kernel's own word among them: a CNI also drops the packets of a pod that is going away, which is no policy.
func Observe(o probes.Observation, p plan.Planned) Observed {
	r := read(o, p)
	for _, row := range proofTable() {
		if !row.holds(r) {
			continue
		}
		out := Observed{Verdict: row.verdict, Evidence: row.evidence, Detail: row.detail(r)}
		switch {
		case row.evidence == Lost:
			out.Drop, _ = r.strange(r.Level)
		case row.evidence == Dropped, row.evidence == Rejected && len(r.drops) > 0:
			out.Drop = r.drops[0]
		case row.evidence == OneWay && len(r.replyDrops) > 0:
			out.Drop = r.replyDrops[0]
		}
		return out
	}
	return Observed{Evidence: Missing, Detail: fmt.Sprintf("nothing can be inferred from %s", r.outcome())}
}

// row is one line of the proof table.
type row struct {
	holds    func(reading) bool
	evidence Evidence
	verdict  reach.Verdict
	detail   func(reading) string
}

// proofTable is the table, in order.
func proofTable() []row {
	says := func(format string, args ...any) func(reading) string {
		return func(reading) string { return fmt.Sprintf(format, args...) }
	}
	kind := func(k probes.OutcomeKind) func(reading) bool {
		return func(r reading) bool { return r.Outcome.Kind == k }
	}
	return []row{
		// Data crossed: an allow whatever else is missing.
		{func(r reading) bool { return r.answered }, Delivered, reach.Allow, reading.deliveredWords},
		{func(r reading) bool { return r.arrived() }, OneWay, reach.Allow, reading.oneWayWords},

		// Data crossed to somebody else: proves nothing about the destination that was meant.
		{kind(probes.Replied), WrongResponder, reach.Unknown, reading.wrongAnswerWords},
		{func(r reading) bool { return len(r.elsewhere) > 0 }, WrongResponder, reach.Unknown, reading.elsewhereWords},

		// The kernel saw the request get there, although no token did: the network let it through. An attempt that could not be made is told
		// by the rows below, and so is a handshake that nobody was seen to answer.
		{func(r reading) bool { return r.refuser != "" && r.unanswered() }, NoListener, reach.Allow, reading.refusedWords},
		{func(r reading) bool {
			return r.Arrived > 0 && len(r.reached) > 0 && (r.replied || len(r.replyDrops) > 0) && (r.waited() || r.Outcome.Kind == probes.Connected)
		}, OneWay, reach.Allow, reading.repliedWords},
		{func(r reading) bool { return len(r.strayed) > 0 && len(r.reached) == 0 && r.unanswered() }, WrongResponder, reach.Unknown, func(r reading) string {
			return fmt.Sprintf("the request reached %s instead of %s (%s)", names(r.strayed), strings.Join(r.planned.Responders, " or "), r.outcome())
		}},

		// The instrument itself: a fault of it is never a deny. An attempt that was cut short because its packet was seen to die has no
		// outcome and needs none.
		{func(r reading) bool {
			return r.Outcome.Kind == probes.OutcomeUnknown && !(r.watched() && r.Dropped > 0)
		}, Missing, reach.Unknown,
			says("no outcome came back from the source's agent")},
		{kind(probes.Error), Missing, reach.Unknown, func(r reading) string { return "the attempt could not be made: " + r.outcome() }},
		{func(r reading) bool { return r.Control.SourceFault != "" }, Missing, reach.Unknown, func(r reading) string {
			return fmt.Sprintf("%s, but the source was not proven alive: %s", r.outcome(), r.Control.SourceFault)
		}},
		// The destination's agent may be gone or its listener closed. Without a sighting nobody can tell its own refusal from one made
		// on the way, so the verdict stays open although the likely cause is known.
		{func(r reading) bool { return r.Control.DestinationFault != "" && r.Outcome.Kind == probes.Refused }, NoListener, reach.Unknown, func(r reading) string {
			return "refused, and the destination had no healthy listener to refuse for: " + r.Control.DestinationFault
		}},
		{func(r reading) bool { return r.Control.DestinationFault != "" }, Missing, reach.Unknown, func(r reading) string {
			return fmt.Sprintf("%s, but the destination was not proven alive: %s", r.outcome(), r.Control.DestinationFault)
		}},
		{func(r reading) bool { return !r.baselined() }, Missing, reach.Unknown, reading.baselineWords},
		{func(r reading) bool { return r.Control.WitnessFault != "" }, Missing, reach.Unknown, func(r reading) string {
			return fmt.Sprintf("%s, but the run requires a witness and this attempt had none: %s", r.outcome(), r.Control.WitnessFault)
		}},

		// The path was open, both ends were alive, and nothing arrived.
		{kind(probes.Connected), Missing, reach.Unknown, says("a handshake finished, yet neither the token arrived nor an identity came back: who accepted it is not known")},
		{kind(probes.Reset), Missing, reach.Unknown, says("a handshake finished and was reset before the token arrived: a proxy or a dying listener, not a policy's drop")},

		// What the kernel saw takes a deny away before anything gives one.
		{func(r reading) bool { return r.Arrived > 0 }, Missing, reach.Unknown, reading.reachedWords},
		{func(r reading) bool { _, strange := r.strange(r.Level); return strange }, Lost, reach.Unknown, reading.lostWords},
		{func(r reading) bool { return r.watched() && r.Unaccounted > 0 }, Unaccounted, reach.Unknown, reading.unaccountedWords},
		{func(r reading) bool { return r.watched() && r.Sent == 0 && r.Outcome.Kind != probes.Unreachable }, Unaccounted, reach.Unknown, reading.unaccountedWords},

		{func(r reading) bool { return r.Outcome.Kind == probes.Refused && r.planned.Self() }, Missing, reach.Unknown,
			says("refused inside the pod's own network stack, although its listener answered its own checks")},
		{func(r reading) bool {
			return r.Outcome.Kind == probes.Refused && (r.planned.Kind == plan.ClusterIP || r.planned.Kind == plan.NodePort || r.planned.Kind == plan.APIServerIP)
		}, Missing, reach.Unknown,
			says("refused at a Service's address: a Service without ready endpoints refuses in the same way, so this proves no policy; the attempts to its pods do")},
		{func(r reading) bool { return r.Outcome.Kind == probes.Refused && r.planned.Kind == plan.Lookup }, Missing, reach.Unknown,
			says("the lookup was refused: a resolver that is not running refuses in the same way")},
		{kind(probes.Refused), Rejected, reach.Deny, func(r reading) string {
			return fmt.Sprintf("refused%s on the way: the destination's listener was healthy and saw nothing%s", r.after(), r.rejectedBy())
		}},
		{func(r reading) bool { return r.Outcome.Kind == probes.Unreachable && !r.prohibited() }, Missing, reach.Unknown, func(r reading) string {
			return fmt.Sprintf("%s: this error is not known to come from a policy", r.outcome())
		}},
		{kind(probes.Unreachable), Rejected, reach.Deny, func(r reading) string {
			return fmt.Sprintf("rejected on the way%s (%s)%s", r.after(), r.Outcome.Errno, r.rejectedBy())
		}},
		{func(r reading) bool { return r.waited() && r.died() && r.translated() == notCrossed }, Missing, reach.Unknown, func(r reading) string {
			return r.dropWords() + ", before the Service's address was translated: a Service without ready endpoints ends in the same way"
		}},
		{func(r reading) bool { return r.waited() && r.watched() && r.died() && r.translated() == crossed }, Dropped, reach.Deny, reading.dropWords},
		{kind(probes.TimedOut), Silent, reach.Deny, reading.silentWords},
		{kind(probes.OutcomeUnknown), Missing, reach.Unknown, func(r reading) string {
			return "no outcome came back from the source's agent, and " + r.dropWords() + ", where it is not known to have passed its Service"
		}},
	}
}

// reading is an observation sorted by what the rows ask for.
type reading struct {
	probes.Observation
	seen
	planned plan.Planned
	// answered: the right identity, or the right address of a lookup, came back.
	answered bool
	// here and elsewhere are the arrivals of this attempt's token at permitted and at other listeners.
	here, elsewhere []probes.Arrival
}

func read(o probes.Observation, p plan.Planned) reading {
	r := reading{Observation: o, seen: sortOut(o, p), planned: p}
	for _, a := range o.Arrivals {
		switch {
		case a.Token != o.Attempt.Token:
			// Another attempt's; it says nothing about this one.
		case slices.Contains(p.Responders, a.Listener):
			r.here = append(r.here, a)
		default:
			r.elsewhere = append(r.elsewhere, a)
		}
	}
	if o.Outcome.Kind == probes.Replied {
		switch {
		case p.Kind == plan.Lookup:
			r.answered = rightAnswers(o.Outcome.Addresses, p.Answers)
		case p.Protocol == probes.ICMP: // a kernel answers and gives no identity: its address is all there is
			r.answered = o.Outcome.ReplyFrom == p.Address.Addr()
		default:
			r.answered = slices.Contains(p.Responders, o.Outcome.Responder)
		}
	}
	return r
}

// rightAnswers tells whether all of want are among the addresses and no other of their families is.
func rightAnswers(addresses, want []netip.Addr) bool {
	for _, w := range want {
		if !slices.Contains(addresses, w) || slices.ContainsFunc(addresses, func(a netip.Addr) bool { return a.Is4() == w.Is4() && !slices.Contains(want, a) }) {
			return false
		}
	}
	return len(want) > 0
}

// addressWords are addresses as a sentence has them.
func addressWords(addresses []netip.Addr) string {
	words := make([]string, len(addresses))
	for i, a := range addresses {
		words[i] = a.String()
	}
	return strings.Join(words, " and ")
}

func (r reading) arrived() bool { return len(r.here) > 0 }

// waited tells whether the source waited in vain: to its deadline, or until it was told to wait no longer.
func (r reading) waited() bool {
	return r.Outcome.Kind == probes.TimedOut || r.Outcome.Kind == probes.OutcomeUnknown
}

// unanswered tells whether the source neither finished a handshake nor failed by itself.
func (r reading) unanswered() bool {
	return r.waited() || r.Outcome.Kind == probes.Refused || r.Outcome.Kind == probes.Unreachable
}

// baselined tells whether the same attempt was delivered before any policy was there.
func (r reading) baselined() bool {
	return r.Control.BaselineFault == "" && (r.Control.Baseline == probes.Replied || r.Control.Instead != "")
}

// prohibited tells whether the kernel error is one that a policy on the way makes. EPERM and EACCES are made on the source's
// own node before the packet leaves it. EHOSTUNREACH and ENETUNREACH carry ICMP's "administratively prohibited" codes but also
// "no such host", so they count only where the destination was proven alive, which a resolver is not.
// The mapping is icmp_err_convert in Linux's net/ipv4/icmp.c.
func (r reading) prohibited() bool {
	switch r.Outcome.Errno {
	case "EPERM", "EACCES":
		return true
	case "EHOSTUNREACH", "ENETUNREACH":
		return r.planned.Kind != plan.Lookup
	default:
		return false
	}
}

// outcome is the outcome in words.
func (r reading) outcome() string {
	words := outcomeWords(r.Outcome.Kind) + r.after()
	if r.Outcome.Errno != "" {
		words += " (" + r.Outcome.Errno + ")"
	}
	if r.Outcome.Detail != "" {
		words += ": " + r.Outcome.Detail
	}
	return words
}

func outcomeWords(k probes.OutcomeKind) string {
	switch k {
	case probes.OutcomeUnknown:
		return "no outcome"
	case probes.TimedOut:
		return "timed out"
	default:
		return k.String()
	}
}

// after is " after 1.2s", or nothing when the time is not known.
func (r reading) after() string {
	if r.Outcome.Took <= 0 {
		return ""
	}
	return " after " + roundTime(r.Outcome.Took).String()
}

// roundTime keeps three digits or so: more would be noise in a sentence.
func roundTime(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond)
	default:
		return d.Round(time.Microsecond)
	}
}

func (r reading) deliveredWords() string {
	words := fmt.Sprintf("%s answered%s", r.Outcome.Responder, r.after())
	switch {
	case r.planned.Kind == plan.Lookup:
		words = fmt.Sprintf("resolved to %s%s", addressWords(r.planned.Answers), r.after())
	case r.planned.Kind == plan.APIServerIP:
		words = fmt.Sprintf("%s proved itself by its certificate%s", r.Outcome.Responder, r.after())
	case r.planned.Protocol == probes.ICMP:
		words = fmt.Sprintf("the kernel at %s echoed the token%s", r.Outcome.ReplyFrom, r.after())
	}
	if r.Outcome.Socket != probes.SocketUnknown {
		words += fmt.Sprintf(", over a %s socket", r.Outcome.Socket)
	}
	return words + r.duplicateWords() + r.strayWords()
}

func (r reading) oneWayWords() string {
	words := fmt.Sprintf("the token arrived at %s, no reply came back (%s)", listeners(r.here), r.outcome())
	if r.Outcome.Kind == probes.Replied {
		words = fmt.Sprintf("the token arrived at %s, but %s", listeners(r.here), r.wrongAnswerWords())
	}
	if len(r.replyDrops) > 0 {
		words += "; the kernel dropped the reply: " + dropsWords(r.replyDrops)
	}
	return words + r.duplicateWords() + r.strayWords()
}

// duplicateWords reports a token that arrived more than once; it is never hidden.
func (r reading) duplicateWords() string {
	n := 0
	for _, a := range r.here {
		n += max(a.Count, 1)
	}
	if n < 2 {
		return ""
	}
	return fmt.Sprintf("; the token arrived %d times", n)
}

func (r reading) strayWords() string {
	if len(r.elsewhere) == 0 {
		return ""
	}
	return fmt.Sprintf("; it also arrived at %s, who is no permitted responder", listeners(r.elsewhere))
}

func (r reading) wrongAnswerWords() string {
	switch {
	case r.planned.Kind == plan.Lookup && len(r.Outcome.Addresses) == 0:
		return strings.TrimSuffix("the lookup was answered without an address: "+r.Outcome.Detail, ": ")
	case r.planned.Kind == plan.Lookup:
		return fmt.Sprintf("the lookup was answered with %v instead of %s", r.Outcome.Addresses, addressWords(r.planned.Answers))
	case r.planned.Protocol == probes.ICMP:
		return fmt.Sprintf("the token was echoed by %s instead of %s", r.Outcome.ReplyFrom, r.planned.Address.Addr())
	case r.Outcome.Responder == "":
		return "a reply came back without an identity"
	default:
		return fmt.Sprintf("%s answered instead of %s", r.Outcome.Responder, strings.Join(r.planned.Responders, " or "))
	}
}

func (r reading) elsewhereWords() string {
	return fmt.Sprintf("the token arrived at %s instead of %s (%s)", listeners(r.elsewhere), strings.Join(r.planned.Responders, " or "), r.outcome())
}

func (r reading) baselineWords() string {
	fault := r.Control.BaselineFault
	switch {
	case fault != "":
	case r.Control.Baseline == probes.OutcomeUnknown:
		fault = "there was none"
	default:
		fault = "its outcome was " + r.Control.Baseline.String()
	}
	return fmt.Sprintf("%s, but the baseline did not prove the path: %s", r.outcome(), fault)
}

func (r reading) silentWords() string {
	words := fmt.Sprintf("no reply%s and no arrival; both agents were alive and the path was open before the policies", r.after())
	if r.planned.Kind == plan.Lookup {
		words = fmt.Sprintf("no answer%s; the same lookup was answered before the policies", r.after())
	}
	if r.planned.Kind == plan.APIServerIP {
		words = fmt.Sprintf("no answer%s; the API server proved itself to others then, and to this pod before the policies", r.after())
	}
	if r.planned.Protocol == probes.ICMP {
		words = fmt.Sprintf("no echo%s; both agents were alive and the path was open before the policies; which of request and reply was lost is not "+
			"known, because a kernel that answers echoes records no arrival", r.after())
	}
	if instead := r.Control.Instead; instead != "" {
		words = fmt.Sprintf("no reply%s and no arrival; both agents were alive, and the path was proven by others: %s", r.after(), instead)
	}
	if len(r.drops) > 0 {
		words += "; " + r.dropWords()
	}
	return words
}

// listeners are the identities of arrivals, each once, in order.
func listeners(arrivals []probes.Arrival) string {
	var names []string
	for _, a := range arrivals {
		names = append(names, a.Listener)
	}
	slices.Sort(names)
	return strings.Join(slices.Compact(names), " and ")
}
