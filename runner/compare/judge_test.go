package compare_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

var (
	allowing = &reach.Ref{Policy: "y/web", Field: "spec.ingress[0]", Reason: "from is missing: every source matches", File: "web.yaml", Line: 12}
	nearest  = &reach.Ref{Policy: "y/web", Field: "spec.ingress[0].from[0].podSelector", Reason: "podSelector wants app=web, the pod has app=wbe", File: "web.yaml", Line: 12}
	isolates = []reach.Ref{{Policy: "y/web", Field: "spec.podSelector", Reason: "podSelector {} selects every pod of namespace y", File: "web.yaml", Line: 12}}
)

// derived is the engine's decision for a verdict, with the traces it would have.
func derived(v reach.Verdict) reach.Decision {
	switch v {
	case reach.Allow:
		return reach.Decision{
			Verdict: reach.Allow, Egress: reach.Side{Verdict: reach.Allow},
			Ingress: reach.Side{Verdict: reach.Allow, Isolating: isolates, Allowing: allowing},
		}
	case reach.Deny:
		return reach.Decision{
			Verdict: reach.Deny, Egress: reach.Side{Verdict: reach.Allow},
			Ingress: reach.Side{Verdict: reach.Deny, Isolating: isolates, Nearest: nearest},
		}
	default:
		return reach.Decision{}
	}
}

func promise(intended, engine reach.Verdict) plan.Promise {
	p := plan.Promise{Intended: intended, Derived: derived(engine)}
	if intended != reach.Unknown {
		p.IntendedBy = "expect.deny[0]"
	}
	return p
}

var (
	delivered = observation(probes.Replied, responder("y/b"), arrival("y/b"))
	oneWay    = observation(probes.TimedOut, arrival("y/b"))
	silent    = observation(probes.TimedOut)
	untold    = observation(probes.TimedOut, destinationFault)
)

func TestTheThreeWayDifference(t *testing.T) {
	const (
		u = reach.Unknown
		a = reach.Allow
		d = reach.Deny
	)
	tests := []struct {
		name              string
		intended, derived reach.Verdict
		observed          probes.Observation
		result            compare.Result
		class             compare.Class
		culprit           string
		says              string
	}{
		{"all three allow", a, a, delivered, compare.Pass, 0, "", "y/b answered"},
		{"all three deny", d, d, silent, compare.Pass, 0, "", "no arrival"},
		{"without intent the engine's allow is the promise", u, a, delivered, compare.Pass, 0, "", ""},
		{"without intent the engine's deny is the promise", u, d, silent, compare.Pass, 0, "", ""},
		{"a policy admits what a person denied", d, a, delivered, compare.Fail, compare.Hole, compare.PolicyBug,
			"expect.deny[0] promises deny, but the policies allow it: ingress allowed by y/web spec.ingress[0] (web.yaml:12): from is missing: every source matches; no policy isolates x/a for egress"},
		{"a policy denies what a person allowed", a, d, silent, compare.Fail, compare.Break, compare.PolicyBug,
			"but the policies deny it: ingress denied; the nearest rule is y/web spec.ingress[0].from[0].podSelector (web.yaml:12): podSelector wants app=web, the pod has app=wbe"},
		{"the CNI lets through what all deny", d, d, delivered, compare.Fail, compare.Hole, compare.CNIBug, "the policies deny it, but allow was seen"},
		{"the CNI lets through what the policies deny", u, d, delivered, compare.Fail, compare.Hole, compare.CNIBug, "the policies deny it"},
		{"the CNI drops what all allow", a, a, silent, compare.Fail, compare.Break, compare.CNIBug, "the policies allow it, but deny was seen"},
		{"the CNI drops what the policies allow", u, a, silent, compare.Fail, compare.Break, compare.CNIBug, "the policies allow it"},
		{"the engine alone says allow", d, a, silent, compare.Inconclusive, 0, compare.EngineQuestion, "the engine derives allow"},
		{"the engine alone says deny", a, d, delivered, compare.Inconclusive, 0, compare.EngineQuestion, "the engine derives deny"},
		{"a person's deny of backends that differ is broken by one answer", d, u, delivered, compare.Fail, compare.Hole, "", "do not say the same for every backend"},
		{"a person's deny of backends that differ is not proven by one silence", d, u, silent, compare.Inconclusive, 0, "", "one cannot speak for all"},
		{"a person's allow of backends that differ is not proven by one answer", a, u, delivered, compare.Inconclusive, 0, "", "one cannot speak for all"},
		{"nobody promised anything", u, u, delivered, compare.Inconclusive, 0, "", "nothing was promised"},
		{"data that crossed one way is a hole where deny was promised", d, d, oneWay, compare.Fail, compare.Hole, compare.CNIBug, ""},
		{"data that crossed one way is no working connection", a, a, oneWay, compare.Inconclusive, 0, "", "no working connection"},
		{"what could not be told is not what was promised", d, d, untold, compare.Inconclusive, 0, "", "the destination was not proven alive"},
		{"what could not be told is not a break either", a, a, untold, compare.Inconclusive, 0, "", "the destination was not proven alive"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Judge(toPod, promise(tt.intended, tt.derived), tt.observed)
			if got.Result != tt.result || got.Class != tt.class || got.Culprit != tt.culprit || !strings.Contains(got.Reason, tt.says) {
				t.Errorf("want %s %s %q saying %q\ngot  %s %s %q: %s", tt.result, tt.class, tt.culprit, tt.says, got.Result, got.Class, got.Culprit, got.Reason)
			}
		})
	}
}

func TestNoJudgementClaimsMoreThanItsEvidence(t *testing.T) {
	verdicts := []reach.Verdict{reach.Unknown, reach.Allow, reach.Deny}
	everything(func(p plan.Planned, o probes.Observation) {
		for _, intended := range verdicts {
			for _, engine := range verdicts {
				pr := promise(intended, engine)
				got := compare.Judge(p, pr, o)
				fail := func(rule string) {
					t.Helper()
					t.Errorf("%s\nattempt %s, intended %s, derived %s\nobservation %+v\ngot %s %s: %s (%s)", rule, p.ID, intended, engine, o,
						got.Result, got.Class, got.Reason, got.Observed.Evidence)
				}
				observed, promised := got.Observed.Verdict, pr.Verdict()
				if got.Reason == "" {
					fail("every judgement has a reason")
				}
				switch got.Result {
				case compare.Pass:
					if observed == reach.Unknown || observed != promised || observed != engine {
						fail("a pass needs that everybody who has a say says the same, the packets among them")
					}
					if observed == reach.Allow && got.Observed.Evidence != compare.Delivered {
						fail("an allow passes only when an identity came back")
					}
				case compare.Fail:
					if observed == reach.Unknown || promised == reach.Unknown || observed == promised {
						fail("a failure is a promise and packets that contradict it")
					}
					if (got.Class == compare.Hole) != (observed == reach.Allow) || (got.Class == compare.Break) != (observed == reach.Deny) {
						fail("a hole is an observed allow, a break an observed deny")
					}
				case compare.Inconclusive:
					if got.Class != compare.ClassNone {
						fail("what is inconclusive has no class")
					}
				default:
					fail("every judgement without a skip has one of three results")
				}
				if promised == reach.Deny && observed == reach.Allow && got.Class != compare.Hole {
					fail("data that crossed against a promise is always a hole")
				}
				if diff := cmp.Diff(o.Outcome.Kind, got.Facts.Outcome.Kind); diff != "" {
					fail("facts stay what they were")
				}
			}
		}
	})
}

func TestASkippedPromiseIsSkippedWhateverWasSeen(t *testing.T) {
	p := promise(reach.Unknown, reach.Deny)
	p.Skip = "no pod stands behind Service y/web"
	everything(func(a plan.Planned, o probes.Observation) {
		if got := compare.Judge(a, p, o); got.Result != compare.Skipped || got.Reason != p.Skip {
			t.Fatalf("got %s: %s", got.Result, got.Reason)
		}
	})
}

func TestBackendsThatLabelsChangedReplaceTheResponders(t *testing.T) {
	p := promise(reach.Unknown, reach.Allow)
	p.Backends = []string{"y/b"}
	if got := compare.Judge(toService, p, delivered); got.Result != compare.Pass {
		t.Errorf("a backend that is still there: %s: %s", got.Result, got.Reason)
	}
	if got := compare.Judge(toService, p, observation(probes.Replied, responder("y/c"))); got.Observed.Evidence != compare.WrongResponder {
		t.Errorf("a backend that is gone: %s: %s", got.Result, got.Reason)
	}
	got := compare.Judge(toService, p, silent)
	if got.Result != compare.Inconclusive || !strings.Contains(got.Reason, "other backends") {
		t.Errorf("silence on a path the baseline did not take: %s: %s", got.Result, got.Reason)
	}
	if got.Facts.Control.BaselineFault != "" {
		t.Error("the fact was overwritten by the inference")
	}
}

func TestDecidersForADenyAreTheDirectionsThatDeny(t *testing.T) {
	j := compare.Judge(toPod, promise(reach.Unknown, reach.Deny), silent)
	got := j.Deciders()
	if len(got) != 1 || got[0].Direction != "ingress" || got[0].Pod != "y/b" || got[0].Verb() != "denied; the nearest rule is" {
		t.Errorf("got %+v", got)
	}
	without := promise(reach.Unknown, reach.Deny)
	without.Derived.Ingress.Nearest = nil
	j = compare.Judge(toPod, without, silent)
	if got := j.Deciders()[0].String(); got != "ingress denied by y/web spec.podSelector (web.yaml:12): podSelector {} selects every pod of namespace y" {
		t.Errorf("got %s", got)
	}
}

func TestTheExitCodeFollowsTheWorstResult(t *testing.T) {
	j := func(r compare.Result, c compare.Class) compare.Judgement {
		return compare.Judgement{Result: r, Class: c}
	}
	pass, skip, untold := j(compare.Pass, 0), j(compare.Skipped, 0), j(compare.Inconclusive, 0)
	tests := []struct {
		name string
		list []compare.Judgement
		want int
	}{
		{"nothing judged is not green", nil, 3},
		{"everything skipped is not green", []compare.Judgement{skip}, 3},
		{"all passed", []compare.Judgement{pass, pass, skip}, 0},
		{"one could not be told", []compare.Judgement{pass, untold}, 3},
		{"a failure outranks what could not be told", []compare.Judgement{untold, j(compare.Fail, compare.Break), pass}, 1},
		{"a judgement without a result is not green", []compare.Judgement{pass, {}}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := compare.Count(tt.list).ExitCode(); got != tt.want {
				t.Errorf("exit code %d, want %d", got, tt.want)
			}
		})
	}
}

func TestHolesAreSortedBeforeBreaksBeforeTheRest(t *testing.T) {
	list := []compare.Judgement{
		{Result: compare.Pass, Reason: "6"}, {Result: compare.Skipped, Reason: "5"}, {Result: compare.Inconclusive, Reason: "4"},
		{Result: compare.Fail, Class: compare.Break, Reason: "3"}, {Result: compare.Fail, Class: compare.Hole, Reason: "1"},
		{Result: compare.Fail, Class: compare.Hole, Reason: "2"},
	}
	compare.Sort(list)
	var got []string
	for _, j := range list {
		got = append(got, j.Reason)
	}
	if !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
	if diff := cmp.Diff(compare.Tally{Pass: 1, Fail: 3, Inconclusive: 1, Skipped: 1, Holes: 2, Breaks: 1}, compare.Count(list)); diff != "" {
		t.Errorf("tally (-want +got):\n%s", diff)
	}
}

func TestReplayIsQuotedForAShell(t *testing.T) {
	for _, tt := range []struct{ file, id, want string }{
		{"a/b.yaml", "x/a>y/b:TCP/80", "gapproof run a/b.yaml --attempt 'x/a>y/b:TCP/80'"},
		{"it's.yaml", "x", `gapproof run 'it'\''s.yaml' --attempt x`},
		{"", "$(reboot)", `gapproof run '' --attempt '$(reboot)'`},
	} {
		if got := compare.Replay(tt.file, tt.id); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
	if got, want := compare.Replay("a.yaml", "x", "--cluster", "my lab"), "gapproof run a.yaml --attempt x --cluster 'my lab'"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestEnumsReadBackWhatTheyWrite(t *testing.T) {
	for e := compare.EvidenceUnknown; e <= compare.Missing; e++ {
		b, err := e.MarshalText()
		var got compare.Evidence
		if err != nil || got.UnmarshalText(b) != nil || got != e {
			t.Errorf("evidence %s: wrote %q (%v), read back %s", e, b, err, got)
		}
	}
	for r := compare.ResultUnknown; r <= compare.Skipped; r++ {
		b, err := r.MarshalText()
		var got compare.Result
		if err != nil || got.UnmarshalText(b) != nil || got != r {
			t.Errorf("result %s: wrote %q (%v), read back %s", r, b, err, got)
		}
	}
	for c := compare.ClassNone; c <= compare.Break; c++ {
		b, err := c.MarshalText()
		var got compare.Class
		if err != nil || got.UnmarshalText(b) != nil || got != c {
			t.Errorf("class %s: wrote %q (%v), read back %s", c, b, err, got)
		}
	}
	if _, err := compare.Result(77).MarshalText(); err == nil {
		t.Error("a result that is none was written")
	}
	if err := new(compare.Evidence).UnmarshalText([]byte("guess")); err == nil {
		t.Error("evidence that is none was read")
	}
}
