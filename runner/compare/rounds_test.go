package compare_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

func TestTheLastTwoRoundsMustAgreeAlsoOnTheReply(t *testing.T) {
	attempts := []plan.Planned{{ID: "x/a>y/b:TCP/80", Source: "x/a", Destination: "y/b", Protocol: probes.TCP, Responders: []string{"y/b"}}}
	for _, tt := range []struct {
		name     string
		promised reach.Verdict
		rounds   []probes.Observation
		result   compare.Result
		class    compare.Class
		says     string
		gap      string // is in the detail of the only gap; empty for none
	}{
		{"a reply each time", reach.Allow, []probes.Observation{delivered, delivered}, compare.Pass, 0, "answered", ""},
		{"a reply that came late once", reach.Allow, []probes.Observation{oneWay, delivered, delivered}, compare.Pass, 0, "answered", "no reply came back"},
		{"a reply that never came", reach.Allow, []probes.Observation{delivered, oneWay, oneWay}, compare.Inconclusive, 0, "no reply came back", "answered"},
		{"a reply only the last time", reach.Allow, []probes.Observation{oneWay, delivered}, compare.Inconclusive, 0, "still changed after 1s", "no reply came back"},
		{"a reply only the time before", reach.Allow, []probes.Observation{delivered, oneWay}, compare.Inconclusive, 0, "still changed after 1s", "answered"},
		{"data crossed against a deny, with a reply once", reach.Deny, []probes.Observation{oneWay, delivered}, compare.Fail, compare.Hole, "", "no reply came back"},
		{"data crossed against a deny, without a reply at last", reach.Deny, []probes.Observation{delivered, oneWay}, compare.Fail, compare.Hole, "", "answered"},
		{"a deny at last", reach.Deny, []probes.Observation{oneWay, silent, silent}, compare.Pass, 0, "no arrival", "no reply came back"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var rounds []compare.Round
			for n, o := range tt.rounds {
				rounds = append(rounds, compare.Round{After: time.Duration(n) * time.Second, Observations: []probes.Observation{o}})
			}
			judgements, gaps := compare.JudgeRounds(attempts, []plan.Promise{promise(tt.promised, tt.promised)}, rounds, time.Hour)
			if j := judgements[0]; j.Result != tt.result || j.Class != tt.class || !strings.Contains(j.Reason, tt.says) {
				t.Errorf("want %s %s with %q, got %s %s: %s", tt.result, tt.class, tt.says, j.Result, j.Class, j.Reason)
			}
			switch {
			case tt.gap == "" && len(gaps) > 0:
				t.Errorf("want no gap, got %+v", gaps)
			case tt.gap != "" && (len(gaps) != 1 || !strings.Contains(strings.SplitN(gaps[0].Detail, " first; ", 2)[0], tt.gap)):
				t.Errorf("want one gap that begins with %q, got %+v", tt.gap, gaps)
			}
		})
	}
}

func TestADenyThatOpensAgainIsAHole(t *testing.T) {
	attempts := []plan.Planned{{ID: "x/a>y/b:TCP/80", Source: "x/a", Destination: "y/b", Protocol: probes.TCP, Responders: []string{"y/b"}}}
	for _, tt := range []struct {
		name     string
		promised reach.Verdict
		rounds   []probes.Observation
		hole     bool
		gaps     int
	}{
		{"denied all the time", reach.Deny, []probes.Observation{silent, silent, silent, silent, silent, silent}, false, 0},
		{"a deny that came late", reach.Deny, []probes.Observation{delivered, delivered, delivered, delivered, silent, silent}, false, 1},
		{"opened while the changes still spread", reach.Deny, []probes.Observation{silent, delivered, silent, silent, silent, silent}, false, 1},
		{"opened afterwards", reach.Deny, []probes.Observation{silent, silent, silent, delivered, silent, silent}, true, 0},
		{"data without a reply crossed afterwards", reach.Deny, []probes.Observation{silent, silent, silent, oneWay, silent, silent}, true, 0},
		{"opened at once and once more", reach.Deny, []probes.Observation{delivered, silent, delivered, delivered, silent, silent}, true, 0},
		{"unknown in between is no crossing", reach.Deny, []probes.Observation{silent, silent, silent, dead(silent), silent, silent}, false, 1},
		{"an allow that failed for a while is a gap", reach.Allow, []probes.Observation{delivered, delivered, delivered, silent, delivered, delivered}, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var rounds []compare.Round
			for n, o := range tt.rounds {
				rounds = append(rounds, compare.Round{After: time.Duration(n) * time.Second, Observations: []probes.Observation{o}})
			}
			judgements, gaps := compare.JudgeRounds(attempts, []plan.Promise{promise(tt.promised, tt.promised)}, rounds, 2500*time.Millisecond)
			j := judgements[0]
			if got := j.Result == compare.Fail && j.Class == compare.Hole; got != tt.hole || !tt.hole && j.Result != compare.Pass {
				t.Errorf("a hole %t, got %s %s: %s", tt.hole, j.Result, j.Class, j.Reason)
			}
			if tt.hole && !(j.Observed.Verdict == reach.Allow && strings.Contains(j.Reason, "comes and goes")) {
				t.Errorf("want the crossing as what was observed, got %s: %s", j.Observed.Verdict, j.Reason)
			}
			if len(gaps) != tt.gaps {
				t.Errorf("want %d gaps, got %+v", tt.gaps, gaps)
			}
		})
	}
}

// dead is the observation without proof that the destination lives.
func dead(o probes.Observation) probes.Observation {
	o.Control.DestinationFault = "no agent"
	return o
}
