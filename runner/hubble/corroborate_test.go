package hubble_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/reach"
)

var start = time.Date(2026, 3, 4, 10, 11, 12, 0, time.UTC)

// aFlow is a flow on the way from a pod on node-a to one on node-b, edited.
func aFlow(edit func(*hubble.Flow)) hubble.Flow {
	f := hubble.Flow{
		Time: start, Node: "node-a", Verdict: hubble.Forwarded, Point: "TO_OVERLAY", Direction: "EGRESS", Protocol: probes.TCP, Count: 1,
		Source: netip.MustParseAddrPort("10.0.0.1:12000"), Destination: netip.MustParseAddrPort("10.0.1.2:80"),
	}
	edit(&f)
	return f
}

// The flows that Hubble may tell of one request.
var (
	onTheWay  = aFlow(func(*hubble.Flow) {})
	delivered = aFlow(func(f *hubble.Flow) { f.Node, f.Point, f.Direction = "node-b", "TO_ENDPOINT", "INGRESS" })
	denied    = aFlow(func(f *hubble.Flow) {
		f.Node, f.Verdict, f.Point, f.Direction, f.DropReason = "node-b", hubble.Dropped, "", "INGRESS", "POLICY_DENIED"
	})
	denyRule = aFlow(func(f *hubble.Flow) { f.Verdict, f.Point, f.DropReason = hubble.Dropped, "", "POLICY_DENY" })
	strange  = aFlow(func(f *hubble.Flow) { f.Verdict, f.Point, f.DropReason = hubble.Dropped, "", "STALE_OR_UNROUTABLE_IP" })
	// What the datapath says of its policies, and what decides nothing.
	admitted   = aFlow(func(f *hubble.Flow) { f.Node, f.Point, f.Direction = "node-b", "", "INGRESS" })
	audited    = aFlow(func(f *hubble.Flow) { f.Verdict, f.Point = "AUDIT", "" })
	redirected = aFlow(func(f *hubble.Flow) { f.Verdict, f.Point = "REDIRECTED", "" })
	proxied    = aFlow(func(f *hubble.Flow) { f.Point = "TO_PROXY" })
)

// TestTheTable goes through every observed verdict with every set of ends that flows can show, each end by one of the flows that show it.
func TestTheTable(t *testing.T) {
	const (
		d = 1 << iota // denied by a policy
		o             // dropped otherwise
		f             // handed to its pod
	)
	agree, silent, contradicts := hubble.Agree, hubble.Silent, hubble.Contradicts
	want := map[reach.Verdict][8]hubble.Word{
		//                      nothing d            o            d|o          f            d|f     o|f     d|o|f
		reach.Allow:   {silent, contradicts, contradicts, contradicts, agree, silent, silent, silent},
		reach.Deny:    {silent, agree, silent, agree, contradicts, silent, silent, silent},
		reach.Unknown: {silent, silent, silent, silent, silent, silent, silent, silent},
	}
	for verdict, row := range want {
		for ends, word := range row {
			for _, policy := range []hubble.Flow{denied, denyRule} {
				for _, way := range [][]hubble.Flow{nil, {onTheWay}, {onTheWay, admitted}, {audited, redirected, proxied}} {
					flows := way
					for bit, flow := range map[int]hubble.Flow{d: policy, o: strange, f: delivered} {
						if ends&bit != 0 {
							flows = append(flows[:len(flows):len(flows)], flow)
						}
					}
					got := hubble.Corroborate("x", verdict, flows, "", hubble.Reading{})
					if got.Word != word {
						t.Errorf("%s observed, flows %v: %s (%s), want %s", verdict, flows, got.Word, got.Reason, word)
					}
					if got.Reason == "" || strings.Contains(got.Reason, "%!") {
						t.Errorf("%s observed, flows %v: the reason is %q", verdict, flows, got.Reason)
					}
					if (got.Flow != nil) != (word == contradicts) {
						t.Errorf("%s observed, flows %v: the flow that contradicts is %v", verdict, flows, got.Flow)
					}
				}
			}
		}
	}
}

func TestTheFlowThatDecidesIsNamed(t *testing.T) {
	for _, tt := range []struct {
		name     string
		observed reach.Verdict
		flows    []hubble.Flow
		want     hubble.Corroboration
	}{
		{
			"forwarded by the source's node and dropped by the destination's", reach.Deny, []hubble.Flow{onTheWay, denied},
			hubble.Corroboration{Word: hubble.Agree, Flows: 2, Reason: "DROPPED POLICY_DENIED INGRESS on node-b, 10.0.0.1:12000 → 10.0.1.2:80"},
		},
		{
			"a hole that Hubble did not see", reach.Allow, []hubble.Flow{onTheWay, denied},
			hubble.Corroboration{
				Word: hubble.Contradicts, Flows: 2, Flow: &denied,
				Reason: "allow was observed, Hubble saw it otherwise: DROPPED POLICY_DENIED INGRESS on node-b, 10.0.0.1:12000 → 10.0.1.2:80",
			},
		},
		{
			"a deny that Hubble saw delivered", reach.Deny, []hubble.Flow{onTheWay, delivered},
			hubble.Corroboration{
				Word: hubble.Contradicts, Flows: 2, Flow: &delivered,
				Reason: "deny was observed, Hubble saw it otherwise: FORWARDED TO_ENDPOINT INGRESS on node-b, 10.0.0.1:12000 → 10.0.1.2:80",
			},
		},
		{
			"a drop that no policy made", reach.Deny, []hubble.Flow{strange},
			hubble.Corroboration{
				Word: hubble.Silent, Flows: 1,
				Reason: "it was dropped, for a reason that is no policy's: DROPPED STALE_OR_UNROUTABLE_IP EGRESS on node-a, 10.0.0.1:12000 → 10.0.1.2:80",
			},
		},
		{
			"an audit of what a policy would have dropped", reach.Allow, []hubble.Flow{audited},
			hubble.Corroboration{
				Word: hubble.Silent, Flows: 1, Reason: "it was seen on its way, and not where it ended: AUDIT EGRESS on node-a, 10.0.0.1:12000 → 10.0.1.2:80",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.AttemptID = "x/a>y/b:TCP/80"
			got := hubble.Corroborate("x/a>y/b:TCP/80", tt.observed, tt.flows, "", hubble.Reading{})
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("corroboration (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSilenceSaysWhatMayHaveKeptAFlowFromBeingSeen(t *testing.T) {
	broken := hubble.Source{Name: "kube-system/cilium-a", Node: "node-a", Fault: "it ended the stream of flows"}
	for _, tt := range []struct {
		name string
		why  string
		r    hubble.Reading
		want string
	}{
		{"all was read", "", hubble.Reading{Sources: []hubble.Source{{Read: true}}}, "no flow of it was seen"},
		{"the attempt has no flows", "its packets do not leave their pod", hubble.Reading{Absent: "nobody is there"}, "its packets do not leave their pod"},
		{"there is no Hubble", "", hubble.Reading{Absent: "nobody is there"}, "no flow of it was seen: nobody is there"},
		{"events were lost", "", hubble.Reading{Sources: []hubble.Source{{Lost: 3}, {Lost: 4}}}, "no flow of it was seen; Hubble lost 7 events"},
		{
			"servers went away and events were lost", "", hubble.Reading{Sources: []hubble.Source{{Lost: 1}, broken, broken, broken}},
			"no flow of it was seen; kube-system/cilium-a on node-a: it ended the stream of flows; and 2 more such; Hubble lost 1 events",
		},
	} {
		got := hubble.Corroborate("x", reach.Deny, nil, tt.why, tt.r)
		if got.Word != hubble.Silent || got.Reason != tt.want {
			t.Errorf("%s: %s, %q; want %q", tt.name, got.Word, got.Reason, tt.want)
		}
	}
}

func TestWordsReadBack(t *testing.T) {
	for _, w := range []hubble.Word{hubble.Agree, hubble.Silent, hubble.Contradicts} {
		b, err := w.MarshalText()
		var got hubble.Word
		if err != nil || got.UnmarshalText(b) != nil || got != w || fmt.Sprint(w) != string(b) {
			t.Errorf("%s: %q, %v, read as %s", w, b, err, got)
		}
	}
	if err := new(hubble.Word).UnmarshalText([]byte("maybe")); err == nil {
		t.Error("maybe was read")
	}
	if _, err := hubble.Word(9).MarshalText(); err == nil {
		t.Error("a word without a name was written")
	}
}
