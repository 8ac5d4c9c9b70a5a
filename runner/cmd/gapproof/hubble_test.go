package main

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/hubble/observer"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
)

// stopped is a reading that has ended.
type stopped hubble.Reading

func (s stopped) Stop() hubble.Reading { return hubble.Reading(s) }

// told is a recorder that counts what it is told, and fails with err.
type told struct {
	planned, accepted, observed int
	err                         error
}

func (t *told) Planned(*plan.Plan, plan.Facts, []probes.Observation) error {
	t.planned++
	return t.err
}

func (t *told) Accepted(context.Context, *plan.Plan, int, plan.Facts) error {
	t.accepted++
	return t.err
}

func (t *told) Observed(report.Step, []compare.Round) error {
	t.observed++
	return t.err
}

func TestFlowsAreHeldAgainstTheJudgementsOfTheirStep(t *testing.T) {
	started := time.Date(2026, 3, 4, 10, 11, 12, 0, time.UTC)
	pods := func(address string) plan.Facts {
		return plan.Facts{Pods: map[string]plan.PodFacts{"x/a": {IP: netip.MustParseAddr(address)}, "y/b": {IP: netip.MustParseAddr("10.0.1.2")}}}
	}
	judged := compare.Judgement{
		Attempt: plan.Planned{ID: "x/a>y/b:TCP/80", Source: "x/a", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.TCP,
			Address: netip.MustParseAddrPort("10.0.1.2:80"), Responders: []string{"y/b"}},
		Facts: probes.Observation{Attempt: probes.Attempt{SourcePort: 12000}, Outcome: probes.Outcome{Started: started}},
	}
	step := func(name string, v reach.Verdict) report.Step {
		j := judged
		j.Observed.Verdict = v
		return report.Step{Name: name, Judgements: []compare.Judgement{j}}
	}
	flow := hubble.Flow{Time: started, Protocol: probes.TCP, Destination: netip.MustParseAddrPort("10.0.1.2:80"), Verdict: hubble.Dropped, DropReason: "POLICY_DENIED"}
	from := func(address string) hubble.Flow {
		f := flow
		f.Source = netip.AddrPortFrom(netip.MustParseAddr(address), 12000)
		return f
	}

	keep := &told{}
	c := &corroboration{log: hubble.NewLog(), watch: stopped{Sources: []hubble.Source{{Read: true}}}}
	record := c.of(keep)
	rep := &report.Report{Scenarios: []report.Scenario{
		{Name: "skipped", Skipped: "the cluster lacks it"}, {Name: "first", Steps: []report.Step{step("one", reach.Deny), step("made again", reach.Allow)}}, {Name: "second"},
	}}
	c.log.Add(from("10.0.0.1"))
	for _, err := range []error{
		record.Planned(nil, pods("10.0.0.1"), nil),
		record.Accepted(t.Context(), nil, 0, pods("10.0.0.1")), record.Observed(rep.Scenarios[1].Steps[0], nil),
		record.Accepted(t.Context(), nil, 1, pods("10.0.0.9")), record.Observed(rep.Scenarios[1].Steps[1], nil),
		record.Planned(nil, pods("10.0.0.1"), nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.log.Add(from("10.0.0.9")) // told late
	if err := c.conclude(rep, nil); err != nil {
		t.Fatal(err)
	}
	if h := rep.Hubble; h.Agree != 1 || h.Silent != 0 || h.Contradicts != 1 {
		t.Errorf("%+v, want one that agrees and one that contradicts", h)
	}
	if one, two := rep.Scenarios[1].Steps[0].Hubble, rep.Scenarios[1].Steps[1].Hubble; len(one) != 1 || one[0].Word != hubble.Agree || len(two) != 1 || two[0].Word != hubble.Contradicts {
		t.Errorf("first step %+v, second %+v", one, two)
	}
	if *keep != (told{planned: 2, accepted: 2, observed: 2}) {
		t.Errorf("the evidence was told %+v", keep)
	}
}

func TestWhatEndsTheEvidenceEndsTheRun(t *testing.T) {
	full := errors.New("no space left")
	record := (&corroboration{log: hubble.NewLog()}).of(&told{err: full})
	for _, err := range []error{record.Planned(nil, plan.Facts{}, nil), record.Accepted(t.Context(), nil, 0, plan.Facts{}), record.Observed(report.Step{}, nil)} {
		if !errors.Is(err, full) {
			t.Errorf("got %v, want %v", err, full)
		}
	}
	var off *corroboration
	if off.of(nil) != nil || off.conclude(&report.Report{}, nil) != nil {
		t.Error("a run without Hubble is told of")
	}
}

func TestAClusterWithoutHubbleIsToldNothingOfIt(t *testing.T) {
	rep := &report.Report{Scenarios: []report.Scenario{{Name: "one", Steps: []report.Step{{Judgements: make([]compare.Judgement, 1)}}}}}
	for absent, told := range map[string]bool{observer.NoServer: false, "no Hubble server answered": true} {
		rep.Hubble = nil
		c := &corroboration{log: hubble.NewLog(), watch: stopped{Absent: absent}}
		if err := c.conclude(rep, nil); err != nil || (rep.Hubble != nil) != told {
			t.Errorf("%s: %+v, %v; told %t is wanted", absent, rep.Hubble, err, told)
		}
	}
}
