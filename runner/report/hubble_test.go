package report_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
)

// corroborated is a report to which Hubble agrees, is silent and contradicts, and whose words want to steer a terminal.
func corroborated(t *testing.T) *report.Report {
	r := passing(t)
	r.Corroborate(hubble.Reading{Forgotten: 2, Sources: []hubble.Source{
		{Name: "kube-system/cilium-a", Node: "lab-control-plane", Read: true, Version: "1.20.2", Flows: 812, Lost: 3},
		{Name: "kube-system/cilium-b", Node: "lab-worker", Fault: "asking Hubble: it wants TLS\x1b[2J"},
	}}, func(_, _, n int) ([]hubble.Flow, string) {
		f := hubble.Flow{
			Time: time.Date(2026, 3, 4, 10, 11, 20, 0, time.UTC), Node: "lab-worker\x1b[2J", Protocol: probes.TCP, Count: 1,
			Source: netip.MustParseAddrPort("198.18.0.1:12000"), Destination: netip.MustParseAddrPort("198.18.0.2:80"),
		}
		j := r.Scenarios[0].Steps[0].Judgements[n]
		switch allowed := j.Observed.Verdict == reach.Allow; {
		case j.Attempt.Self():
			return nil, "its packets do not leave their pod"
		case allowed: // against what was observed
			f.Verdict, f.DropReason, f.Direction = hubble.Dropped, "POLICY_DENIED", "INGRESS"
		default:
			f.Verdict, f.Point, f.Direction = hubble.Dropped, "", "EGRESS"
			f.DropReason = "POLICY_DENY"
		}
		return []hubble.Flow{f}, ""
	})
	forwarded := &r.Scenarios[0].Steps[0].Hubble[0]
	forwarded.Flow = &hubble.Flow{Time: time.Unix(0, 0), Node: "n", Verdict: hubble.Forwarded, Point: "TO_ENDPOINT", Protocol: probes.TCP, Count: 1}
	return r
}

// unread is a report of a run that could not read any flow.
func unread(t *testing.T) *report.Report {
	r := passing(t)
	r.Corroborate(hubble.Reading{Absent: "no running pod is labelled k8s-app=hubble-relay or k8s-app=cilium"}, nil)
	return r
}

func TestWhatHubbleSaysLooksAsItShould(t *testing.T) {
	for name, r := range map[string]*report.Report{"corroborated": corroborated(t), "unread": unread(t)} {
		golden(t, name+".txt", render(t, r, report.Table, report.Options{}))
		golden(t, name+".md", render(t, r, report.Markdown, report.Options{}))
		golden(t, name+".junit.xml", render(t, r, report.JUnit, report.Options{}))
		for _, c := range render(t, r, report.Table, report.Options{Glyphs: report.ASCII, Detail: report.Everything}) {
			if c > 126 || c < 32 && c != '\n' {
				t.Fatalf("%s: ASCII text has the byte %#x", name, c)
			}
		}
	}
}

func TestNoResultRestsOnHubble(t *testing.T) {
	for name, make := range map[string]func(testing.TB) *report.Report{"passing": passing, "failing": failing} {
		r := make(t)
		want := r.Summary()
		before := string(render(t, r, report.Table, report.Options{}))
		r.Corroborate(hubble.Reading{}, func(i, k, n int) ([]hubble.Flow, string) {
			f := hubble.Flow{Verdict: hubble.Forwarded, Point: "TO_ENDPOINT"}
			if r.Scenarios[i].Steps[k].Judgements[n].Observed.Verdict == reach.Allow {
				f = hubble.Flow{Verdict: hubble.Dropped, DropReason: "POLICY_DENIED"}
			}
			return []hubble.Flow{f}, ""
		})
		if r.Hubble.Contradicts == 0 || r.Hubble.Agree != 0 {
			t.Fatalf("%s: Hubble was to contradict everything: %+v", name, r.Hubble)
		}
		if got := r.Summary(); got != want {
			t.Errorf("%s: with Hubble against it all the summary is %+v, want %+v", name, got, want)
		}
		after := string(render(t, r, report.Table, report.Options{}))
		last := func(s string) string { return s[strings.LastIndex(s, "exit code"):] }
		if last(before) != last(after) {
			t.Errorf("%s: %q became %q", name, last(before), last(after))
		}
	}
}
