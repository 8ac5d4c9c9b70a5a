package main

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/reach"
)

// agreeing are results of both in which every verdict is allow, for one case of one step.
func agreeing() (all []Case, our, their *Result) {
	all = []Case{{Title: "t", Steps: []CaseStep{{Ports: []string{"TCP/80"}, Unserved: []string{"x/b"}}}}}
	answers := map[string]Answer{}
	for _, source := range newLabelState(worldFile().Namespaces).pods() {
		for _, destination := range newLabelState(worldFile().Namespaces).pods() {
			answers[source+">"+destination+":TCP/80"] = Answer{Verdict: reach.Allow, Promised: reach.Allow}
		}
	}
	result := func() *Result {
		return &Result{DestinationType: ToServiceName, Steps: []Step{{Case: "t", Number: 1, Rounds: 1, Answers: maps.Clone(answers)}}}
	}
	return all, result(), result()
}

// pods are the names of pods among the labelled.
func (s labelState) pods() []string {
	var names []string
	for name := range s {
		if strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	return names
}

func TestDifferencesAreExplainedByName(t *testing.T) {
	allow, deny := Answer{Verdict: reach.Allow, Promised: reach.Allow}, Answer{Verdict: reach.Deny, Promised: reach.Deny}
	deniedAgainstPromise := Answer{Verdict: reach.Deny, Promised: reach.Allow}
	unknown := Answer{Detail: "no agent"}
	const unexplained = ""
	for _, tt := range []struct {
		name         string
		id           string
		ours, theirs Answer
		destination  Destination
		want         string
	}{
		{"a pod to itself through its Service", "x/a>x/a:TCP/80", allow, deny, ToServiceName, "self-through-service"},
		{"a pod to itself by its address", "x/a>x/a:TCP/80", allow, deny, ToPodIP, unexplained},
		{"a pod whose Service lost it", "y/a>x/b:TCP/80", allow, deny, ToServiceIP, "service-without-endpoints"},
		{"a pod whose Service lost it, to itself", "x/b>x/b:TCP/80", allow, deny, ToServiceName, "service-without-endpoints"},
		{"a pod whose Service lost it, by its address", "y/a>x/b:TCP/80", allow, deny, ToPodIP, unexplained},
		{"a deny that both engines promise to be an allow", "y/a>x/a:TCP/80", allow, deniedAgainstPromise, ToServiceName, "fault-read-as-deny"},
		{"a deny that cyclonus' engine promises", "y/a>x/a:TCP/80", allow, deny, ToServiceName, unexplained},
		{"an allow where we saw a deny", "y/a>x/a:TCP/80", deny, allow, ToServiceName, unexplained},
		{"an allow to itself where we saw a deny", "x/a>x/a:TCP/80", deny, allow, ToServiceName, unexplained},
		{"what we could not tell", "y/a>x/a:TCP/80", unknown, deny, ToServiceName, unexplained},
		{"what neither could tell", "y/a>x/a:TCP/80", unknown, unknown, ToServiceName, unexplained},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, our, their := agreeing()
			their.DestinationType = tt.destination
			our.Steps[0].Answers[tt.id], their.Steps[0].Answers[tt.id] = tt.ours, tt.theirs
			c, err := compareResults(all, our, their)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Differences) != 1 || c.Compared != 81 || c.PerStep[0] != 1 {
				t.Fatalf("%d differences among %d, %v per step; want 1 among 81", len(c.Differences), c.Compared, c.PerStep)
			}
			got := unexplained
			if k := c.Differences[0].Known; k != nil {
				got = k.Name
			}
			if got != tt.want {
				t.Errorf("explained by %q, want %q", got, tt.want)
			}
			wantExit := exitPass
			if tt.want == unexplained {
				wantExit = exitFail
			}
			if got := exitCode(our, c); got != wantExit {
				t.Errorf("exit code %d, want %d", got, wantExit)
			}
		})
	}
}

func TestAgreementHasNoDifferences(t *testing.T) {
	all, our, their := agreeing()
	c, err := compareResults(all, our, their)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Differences) != 0 || c.Compared != 81 {
		t.Errorf("%d differences among %d, want none among 81", len(c.Differences), c.Compared)
	}
	if got := exitCode(our, c); got != exitPass {
		t.Errorf("exit code %d, want %d", got, exitPass)
	}
}

func TestWhatWeCouldNotTellIsInconclusiveWithoutCyclonus(t *testing.T) {
	_, our, _ := agreeing()
	our.Steps[0].Answers["x/a>x/b:TCP/80"] = Answer{}
	if got := exitCode(our, nil); got != exitInconclusive {
		t.Errorf("exit code %d, want %d", got, exitInconclusive)
	}
}

func TestWhatIsMissingIsNeverAnAgreement(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(all []Case, our, their *Result)
		want  string
	}{
		"an answer of cyclonus": {func(_ []Case, _, their *Result) { delete(their.Steps[0].Answers, "x/a>x/b:TCP/80") }, "80 answers, want 81"},
		"an answer of ours":     {func(_ []Case, our, _ *Result) { delete(our.Steps[0].Answers, "x/a>x/b:TCP/80") }, "no answer for x/a>x/b:TCP/80"},
		"a step of cyclonus":    {func(_ []Case, _, their *Result) { their.Steps = nil }, "cyclonus 0"},
		"a step too many":       {func(_ []Case, our, _ *Result) { our.Steps = append(our.Steps, our.Steps[0]) }, "ours has 2"},
		"another case's step":   {func(_ []Case, our, _ *Result) { our.Steps[0].Case = "u" }, `want step 1 of "t"`},
	} {
		t.Run(name, func(t *testing.T) {
			all, our, their := agreeing()
			tt.spoil(all, our, their)
			if _, err := compareResults(all, our, their); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestTheReportNamesWhatDiffersAndWhy(t *testing.T) {
	all, our, their := agreeing()
	our.Contestant, their.Contestant = "gapproof", "cyclonus v0"
	their.Steps[0].Answers["x/a>x/a:TCP/80"] = Answer{Verdict: reach.Deny, Promised: reach.Deny}
	their.Steps[0].Answers["x/a>y/a:TCP/80"] = Answer{Verdict: reach.Deny, Promised: reach.Deny}
	c, err := compareResults(all, our, their)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	p := page{to: &b}
	p.steps(all, our, their, c)
	p.walls(our, their, options{reuse: "dir"})
	p.differences(c)
	if _, err := p.err(0); err != nil {
		t.Fatal(err)
	}
	text := b.String()
	for _, want := range []string{
		"81 verdicts compared, 79 equal, 2 differ: 1 explained, 1 not",
		"unexplained\n", "x/a>y/a   TCP/80", "self-through-service\n", "(an earlier race)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	if strings.Index(text, "unexplained\n") > strings.Index(text, "self-through-service\n") {
		t.Errorf("what nothing explains does not come first:\n%s", text)
	}
}

func TestPortsOfOnePairStandOnOneLine(t *testing.T) {
	var found []Difference
	for _, id := range []string{"x/a>x/b:TCP/80", "x/a>x/b:TCP/81", "x/a>x/c:TCP/80"} {
		found = append(found, Difference{Step: 1, ID: id})
	}
	var got []string
	for _, l := range lines(found) {
		got = append(got, l.ID+" "+strings.Join(l.ports, " "))
	}
	if diff := cmp.Diff([]string{"x/a>x/b TCP/80 TCP/81", "x/a>x/c TCP/80"}, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
