package compare_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

var (
	token  = probes.Token{1}
	answer = netip.MustParseAddr("10.96.0.9")
)

// The four sorts of attempt.
var (
	toPod     = plan.Planned{ID: "x/a>y/b:TCP/80", Source: "x/a", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.TCP, Port: 80, Responders: []string{"y/b"}}
	toSelf    = plan.Planned{ID: "x/a>x/a:TCP/80", Source: "x/a", Destination: "x/a", Kind: plan.PodIP, Protocol: probes.TCP, Port: 80, Responders: []string{"x/a"}}
	toService = plan.Planned{ID: "x/a>service:y/web:TCP/80", Source: "x/a", Destination: "service:y/web", Kind: plan.ClusterIP, Protocol: probes.TCP, Port: 80, Responders: []string{"y/b", "y/c"}}
	toName    = plan.Planned{ID: "x/a>dns:web.y", Source: "x/a", Destination: "dns:web.y", Kind: plan.Lookup, Protocol: probes.DNS, Answers: []netip.Addr{answer}}
)

// proven is a control in which nothing is missing.
var proven = probes.Control{Baseline: probes.Replied}

func observation(kind probes.OutcomeKind, change ...func(*probes.Observation)) probes.Observation {
	o := probes.Observation{
		Attempt: probes.Attempt{Token: token},
		Outcome: probes.Outcome{Kind: kind, Took: 1500 * time.Microsecond},
		Control: proven,
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func arrival(at string) func(*probes.Observation) {
	return func(o *probes.Observation) {
		o.Arrivals = append(o.Arrivals, probes.Arrival{Token: token, Listener: at, Count: 1})
	}
}

func twice(o *probes.Observation)   { o.Arrivals[0].Count = 2 }
func foreign(o *probes.Observation) { o.Arrivals[0].Token = probes.Token{9} }
func sourceFault(o *probes.Observation) {
	o.Control.SourceFault = "agent x/a did not answer after the attempt"
}
func destinationFault(o *probes.Observation) {
	o.Control.DestinationFault = "listener TCP/80 of y/b: no answer"
}
func baselineFault(o *probes.Observation) {
	o.Control.Baseline, o.Control.BaselineFault = probes.TimedOut, "it timed out"
}
func witnessFault(o *probes.Observation) {
	o.Control.WitnessFault = "the witness of n1 was lost"
}
func noBaseline(o *probes.Observation) { o.Control.Baseline = probes.OutcomeUnknown }

func responder(who string) func(*probes.Observation) {
	return func(o *probes.Observation) { o.Outcome.Responder = who }
}
func errno(e string) func(*probes.Observation) {
	return func(o *probes.Observation) { o.Outcome.Errno = e }
}
func addresses(list ...string) func(*probes.Observation) {
	return func(o *probes.Observation) {
		for _, a := range list {
			o.Outcome.Addresses = append(o.Outcome.Addresses, netip.MustParseAddr(a))
		}
	}
}

func TestTheProofTable(t *testing.T) {
	tests := []struct {
		name     string
		attempt  plan.Planned
		observed probes.Observation
		evidence compare.Evidence
		verdict  reach.Verdict
		says     string
	}{
		// Allow: data crossed.
		{"the right identity came back", toPod, observation(probes.Replied, responder("y/b"), arrival("y/b")),
			compare.Delivered, reach.Allow, "y/b answered after 1.5ms"},
		{"the identity came back although no control held", toPod, observation(probes.Replied, responder("y/b"), sourceFault, destinationFault, noBaseline),
			compare.Delivered, reach.Allow, "y/b answered"},
		{"any backend may answer for a Service", toService, observation(probes.Replied, responder("y/c")),
			compare.Delivered, reach.Allow, "y/c answered"},
		{"the name resolved to the Service's address", toName, observation(probes.Replied, addresses("10.96.0.9", "fd00::9")),
			compare.Delivered, reach.Allow, "resolved to 10.96.0.9"},
		{"a datagram that arrived twice is delivered and said to be double", toPod, observation(probes.Replied, responder("y/b"), arrival("y/b"), twice),
			compare.Delivered, reach.Allow, "arrived 2 times"},
		{"the token arrived and the reply was lost", toPod, observation(probes.TimedOut, arrival("y/b")),
			compare.OneWay, reach.Allow, "the token arrived at y/b, no reply came back (timed out"},
		{"the token arrived before a reset", toPod, observation(probes.Reset, arrival("y/b"), errno("ECONNRESET")),
			compare.OneWay, reach.Allow, "ECONNRESET"},
		{"the token arrived although the source's agent died", toPod, observation(probes.OutcomeUnknown, arrival("y/b"), sourceFault),
			compare.OneWay, reach.Allow, "the token arrived"},
		{"the token arrived although somebody else answered", toPod, observation(probes.Replied, responder("y/c"), arrival("y/b")),
			compare.OneWay, reach.Allow, "y/c answered instead of y/b"},

		// Somebody else.
		{"another pod answered", toPod, observation(probes.Replied, responder("y/c")),
			compare.WrongResponder, reach.Unknown, "y/c answered instead of y/b"},
		{"a reply without an identity", toPod, observation(probes.Replied),
			compare.WrongResponder, reach.Unknown, "without an identity"},
		{"the token arrived at another pod", toPod, observation(probes.TimedOut, arrival("z/z")),
			compare.WrongResponder, reach.Unknown, "arrived at z/z instead of y/b"},
		{"the name did not exist", toName, observation(probes.Replied),
			compare.WrongResponder, reach.Unknown, "answered without an address"},
		{"the name resolved to another address", toName, observation(probes.Replied, addresses("10.96.0.1")),
			compare.WrongResponder, reach.Unknown, "instead of 10.96.0.9"},
		{"the name resolved to another address as well", toName, observation(probes.Replied, addresses("10.96.0.9", "10.96.0.1")),
			compare.WrongResponder, reach.Unknown, "instead of 10.96.0.9"},

		// The instrument's own faults.
		{"no outcome came back", toPod, observation(probes.OutcomeUnknown), compare.Missing, reach.Unknown, "no outcome came back"},
		{"the agent had no socket", toPod, observation(probes.Error, errno("EMFILE")), compare.Missing, reach.Unknown, "could not be made: error after 1.5ms (EMFILE)"},
		{"silence from a source that died", toPod, observation(probes.TimedOut, sourceFault), compare.Missing, reach.Unknown, "agent x/a did not answer"},
		{"silence from a destination that died", toPod, observation(probes.TimedOut, destinationFault), compare.Missing, reach.Unknown, "the destination was not proven alive"},
		{"a prohibition while the destination was not proven alive", toPod, observation(probes.Unreachable, errno("EHOSTUNREACH"), destinationFault), compare.Missing, reach.Unknown, "not proven alive"},
		{"silence on a path that was never open", toPod, observation(probes.TimedOut, baselineFault), compare.Missing, reach.Unknown, "the baseline did not prove the path: it timed out"},
		{"silence without a baseline", toPod, observation(probes.TimedOut, noBaseline), compare.Missing, reach.Unknown, "there was none"},
		{"a baseline that was only connected proves nothing", toPod, observation(probes.TimedOut, func(o *probes.Observation) { o.Control.Baseline = probes.Connected }), compare.Missing, reach.Unknown, "its outcome was connected"},

		{"silence without the witness that the run requires", toPod, observation(probes.TimedOut, witnessFault), compare.Missing, reach.Unknown, "requires a witness and this attempt had none: the witness of n1 was lost"},
		{"a refusal without the witness that the run requires", toPod, observation(probes.Refused, witnessFault), compare.Missing, reach.Unknown, "requires a witness"},
		{"the identity came back without the witness that the run requires", toPod, observation(probes.Replied, responder("y/b"), witnessFault), compare.Delivered, reach.Allow, "y/b answered"},

		// Refused.
		{"refused while the listener was healthy", toPod, observation(probes.Refused, errno("ECONNREFUSED")), compare.Rejected, reach.Deny, "refused after 1.5ms on the way"},
		{"refused while the listener was not", toPod, observation(probes.Refused, destinationFault), compare.NoListener, reach.Unknown, "listener TCP/80 of y/b"},
		{"refused on a path that was never open", toPod, observation(probes.Refused, baselineFault), compare.Missing, reach.Unknown, "the baseline did not prove"},
		{"refused by the pod's own stack", toSelf, observation(probes.Refused), compare.Missing, reach.Unknown, "inside the pod's own network stack"},
		{"refused at a ClusterIP, as without endpoints", toService, observation(probes.Refused), compare.Missing, reach.Unknown, "without ready endpoints"},
		{"a lookup refused, as by a resolver that is gone", toName, observation(probes.Refused), compare.Missing, reach.Unknown, "resolver that is not running"},

		// Unreachable.
		{"prohibited by ICMP on the way", toPod, observation(probes.Unreachable, errno("EHOSTUNREACH")), compare.Rejected, reach.Deny, "rejected on the way after 1.5ms (EHOSTUNREACH)"},
		{"no network, by ICMP", toPod, observation(probes.Unreachable, errno("ENETUNREACH")), compare.Rejected, reach.Deny, "ENETUNREACH"},
		{"not permitted on the source's node", toPod, observation(probes.Unreachable, errno("EPERM")), compare.Rejected, reach.Deny, "EPERM"},
		{"no access on the source's node", toService, observation(probes.Unreachable, errno("EACCES")), compare.Rejected, reach.Deny, "EACCES"},
		{"unreachable without a known error", toPod, observation(probes.Unreachable), compare.Missing, reach.Unknown, "not known to come from a policy"},
		{"a resolver that cannot be reached may be gone", toName, observation(probes.Unreachable, errno("EHOSTUNREACH")), compare.Missing, reach.Unknown, "not known to come from a policy"},
		{"a lookup that was not permitted to leave", toName, observation(probes.Unreachable, errno("EPERM")), compare.Rejected, reach.Deny, "EPERM"},

		// A handshake and nothing more.
		{"connected to nobody known", toPod, observation(probes.Connected), compare.Missing, reach.Unknown, "who accepted it is not known"},
		{"reset after the handshake", toPod, observation(probes.Reset), compare.Missing, reach.Unknown, "reset before the token arrived"},

		// Silence.
		{"silence with every control", toPod, observation(probes.TimedOut), compare.Silent, reach.Deny, "both agents were alive"},
		{"silence of a Service with every control", toService, observation(probes.TimedOut), compare.Silent, reach.Deny, "both agents were alive"},
		{"silence of the resolver that answered before", toName, observation(probes.TimedOut), compare.Silent, reach.Deny, "answered before the policies"},
		{"another attempt's token is no arrival of this one", toPod, observation(probes.TimedOut, arrival("y/b"), foreign), compare.Silent, reach.Deny, "no arrival"},

		{"a kind of outcome that nobody defined", toPod, observation(probes.OutcomeKind(99)), compare.Missing, reach.Unknown, "nothing can be inferred"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Observe(tt.observed, tt.attempt)
			if got.Evidence != tt.evidence || got.Verdict != tt.verdict || !strings.Contains(got.Detail, tt.says) {
				t.Errorf("want %s %s saying %q\ngot  %s %s: %s", tt.evidence, tt.verdict, tt.says, got.Evidence, got.Verdict, got.Detail)
			}
		})
	}
}

// everything calls f with every combination of what can be observed.
func everything(f func(plan.Planned, probes.Observation)) {
	arrivals := [][]func(*probes.Observation){nil, {arrival("right")}, {arrival("z/z")}, {arrival("right"), arrival("z/z")}, {arrival("right"), foreign}}
	controls := [][]func(*probes.Observation){
		nil, {sourceFault}, {destinationFault}, {sourceFault, destinationFault},
		{baselineFault}, {noBaseline}, {destinationFault, noBaseline}, {witnessFault},
	}
	replies := []string{"right", "z/z", ""}
	errnos := []string{"", "ECONNREFUSED", "EHOSTUNREACH", "EPERM", "EMFILE"}
	for _, attempt := range []plan.Planned{toPod, toSelf, toService, toName} {
		for kind := probes.OutcomeUnknown; kind <= probes.Error; kind++ {
			for _, a := range arrivals {
				for _, c := range controls {
					for _, reply := range replies {
						for _, e := range errnos {
							o := observation(kind, slices.Concat(a, c, []func(*probes.Observation){errno(e)})...)
							fill(&o, attempt, reply)
							f(attempt, o)
						}
					}
				}
			}
		}
	}
}

// fill puts the attempt's own responder or address where "right" stands.
func fill(o *probes.Observation, p plan.Planned, reply string) {
	for i := range o.Arrivals {
		if o.Arrivals[i].Listener == "right" && len(p.Responders) > 0 {
			o.Arrivals[i].Listener = p.Responders[0]
		}
	}
	if o.Outcome.Kind != probes.Replied {
		return
	}
	switch {
	case p.Kind == plan.Lookup && reply == "right":
		o.Outcome.Addresses = []netip.Addr{p.Answers[0]}
	case p.Kind == plan.Lookup && reply != "":
		o.Outcome.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	case reply == "right":
		o.Outcome.Responder = p.Responders[0]
	default:
		o.Outcome.Responder = reply
	}
}

func TestNothingIsInferredWithoutItsProof(t *testing.T) {
	n := 0
	everything(func(p plan.Planned, o probes.Observation) {
		n++
		got := compare.Observe(o, p)
		fail := func(rule string) {
			t.Helper()
			t.Errorf("%s\nattempt %s\nobservation %+v\ngot %+v", rule, p.ID, o, got)
		}
		arrived := slices.ContainsFunc(o.Arrivals, func(a probes.Arrival) bool {
			return a.Token == o.Attempt.Token && slices.Contains(p.Responders, a.Listener)
		})
		stray := slices.ContainsFunc(o.Arrivals, func(a probes.Arrival) bool {
			return a.Token == o.Attempt.Token && !slices.Contains(p.Responders, a.Listener)
		})
		answered := slices.Contains(p.Responders, o.Outcome.Responder) || slices.Contains(o.Outcome.Addresses, answer)
		c := o.Control

		if got.Detail == "" {
			fail("every inference has words")
		}
		switch got.Verdict {
		case reach.Deny:
			if c.SourceFault != "" || c.DestinationFault != "" || c.BaselineFault != "" || c.WitnessFault != "" || c.Baseline != probes.Replied {
				fail("a deny needs every control")
			}
			if arrived || stray || o.Outcome.Kind == probes.Replied {
				fail("a deny needs that nothing arrived and nobody answered")
			}
			if !slices.Contains([]probes.OutcomeKind{probes.TimedOut, probes.Refused, probes.Unreachable}, o.Outcome.Kind) {
				fail("a deny is silence or a rejection, never an error")
			}
			if got.Evidence != compare.Silent && got.Evidence != compare.Rejected {
				fail("a deny has the evidence of one")
			}
		case reach.Allow:
			if !arrived && !answered {
				fail("an allow needs that data crossed")
			}
			if (got.Evidence == compare.Delivered) != answered {
				fail("delivered means that the right one answered")
			}
		default:
			if arrived || answered {
				fail("data that crossed is never unknown")
			}
		}
		if got.Evidence == compare.EvidenceUnknown {
			fail("every observation has evidence, if only that something is missing")
		}
	})
	if n < 4*8*5*8*3*5 {
		t.Fatalf("only %d combinations were tried", n)
	}
}

func TestAnEmptyObservationProvesNothing(t *testing.T) {
	for _, p := range []plan.Planned{toPod, toSelf, toService, toName} {
		if got := compare.Observe(probes.Observation{}, p); got.Verdict != reach.Unknown || got.Evidence != compare.Missing {
			t.Errorf("%s: %+v", p.ID, got)
		}
	}
}
