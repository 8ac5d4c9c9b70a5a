package hubble_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

var facts = plan.Facts{
	Pods: map[string]plan.PodFacts{
		"x/a": {IP: netip.MustParseAddr("10.0.0.1"), Others: []netip.Addr{netip.MustParseAddr("fd00::1")}, Node: "node-a"},
		"y/b": {IP: netip.MustParseAddr("10.0.1.2"), Others: []netip.Addr{netip.MustParseAddr("fd00::2")}, Node: "node-b"},
		"y/c": {IP: netip.MustParseAddr("10.0.1.3"), Node: "node-b"},
	},
	Outside:   map[string][]netip.Addr{"outside:h": {netip.MustParseAddr("172.30.0.9")}},
	Resolver:  plan.Resolver{Pods: []reach.Pod{{IPs: []netip.Addr{netip.MustParseAddr("10.0.0.53")}}}},
	APIServer: plan.APIServer{Endpoints: []netip.AddrPort{netip.MustParseAddrPort("172.30.0.3:6443")}},
}

func TestTheTupleOfAnAttempt(t *testing.T) {
	port := netip.MustParseAddrPort
	addr := netip.MustParseAddr
	toPod := plan.Planned{ID: "x/a>y/b:TCP/80", Source: "x/a", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.TCP, Address: port("10.0.1.2:80"), Responders: []string{"y/b"}}
	sent := probes.Observation{
		Attempt: probes.Attempt{SourcePort: 12000, Deadline: time.Second},
		Outcome: probes.Outcome{Local: port("10.0.0.1:12000"), Started: start, Took: 2 * time.Second},
	}
	edited := func(edit func(*plan.Planned)) plan.Planned {
		a := toPod
		edit(&a)
		return a
	}
	observed := func(edit func(*probes.Observation)) probes.Observation {
		o := sent
		edit(&o)
		return o
	}
	whole := hubble.Tuple{
		Protocol: probes.TCP, Source: port("10.0.0.1:12000"), Destination: port("10.0.1.2:80"), Backends: []netip.Addr{addr("10.0.1.2"), addr("fd00::2")},
		From: start.Add(-10 * time.Second), Until: start.Add(12 * time.Second),
	}
	tuple := func(edit func(*hubble.Tuple)) hubble.Tuple {
		w := whole
		edit(&w)
		return w
	}
	for _, tt := range []struct {
		name string
		a    plan.Planned
		o    probes.Observation
		want hubble.Tuple
		why  string
	}{
		{"to a pod", toPod, sent, whole, ""},
		{
			"one that was cut short before its socket had told its address", toPod, observed(func(o *probes.Observation) { o.Outcome = probes.Outcome{} }),
			tuple(func(w *hubble.Tuple) { w.From, w.Until = time.Time{}, time.Time{} }), "",
		},
		{
			"from a socket that is bound to a port alone", toPod,
			observed(func(o *probes.Observation) {
				o.Attempt.SourcePort, o.Outcome.Local = 0, netip.AddrPortFrom(netip.IPv4Unspecified(), 12000)
			}),
			whole, "",
		},
		{
			"an address that is written as IPv6", toPod, observed(func(o *probes.Observation) { o.Outcome.Local = port("[::ffff:10.0.0.1]:12000") }), whole, "",
		},
		{
			"over IPv6", edited(func(a *plan.Planned) { a.Address = port("[fd00::2]:80") }), observed(func(o *probes.Observation) { o.Outcome.Local = netip.AddrPort{} }),
			tuple(func(w *hubble.Tuple) { w.Source, w.Destination = port("[fd00::1]:12000"), port("[fd00::2]:80") }), "",
		},
		{
			"to a Service", edited(func(a *plan.Planned) {
				a.Kind, a.Address, a.Responders = plan.ClusterIP, port("10.96.0.7:80"), []string{"y/b", "y/c"}
			}), sent,
			tuple(func(w *hubble.Tuple) {
				w.Destination, w.Backends = port("10.96.0.7:80"), []netip.Addr{addr("10.0.1.2"), addr("fd00::2"), addr("10.0.1.3")}
			}), "",
		},
		{
			"to the API server", edited(func(a *plan.Planned) {
				a.Kind, a.Address, a.Responders = plan.APIServerIP, port("10.96.0.1:443"), []string{plan.APIServerName}
			}), sent,
			tuple(func(w *hubble.Tuple) {
				w.Destination, w.Backends = port("10.96.0.1:443"), []netip.Addr{addr("172.30.0.3")}
			}), "",
		},
		{
			"a lookup", edited(func(a *plan.Planned) {
				a.Kind, a.Protocol, a.Address, a.Responders = plan.Lookup, probes.DNS, netip.AddrPort{}, nil
			}), observed(func(o *probes.Observation) { o.Outcome.Remote = port("10.96.0.10:53") }),
			tuple(func(w *hubble.Tuple) {
				w.Protocol, w.Destination, w.Backends = probes.UDP, port("10.96.0.10:53"), []netip.Addr{addr("10.0.0.53")}
			}), "",
		},
		{
			"from outside", edited(func(a *plan.Planned) { a.Source = "outside:h" }), observed(func(o *probes.Observation) { o.Outcome.Local = netip.AddrPort{} }),
			tuple(func(w *hubble.Tuple) { w.Source = port("172.30.0.9:12000") }), "",
		},
		{"an echo", edited(func(a *plan.Planned) { a.Protocol = probes.ICMP }), sent, hubble.Tuple{}, "one echo from another"},
		{"to itself", edited(func(a *plan.Planned) { a.Destination = "x/a" }), sent, hubble.Tuple{}, "do not leave their pod"},
		{
			"to itself through a Service", edited(func(a *plan.Planned) { a.Kind, a.Responders = plan.ClusterIP, []string{"x/a"} }), sent, hubble.Tuple{}, "another source address",
		},
		{
			"to a Service that chose its source", edited(func(a *plan.Planned) { a.Kind, a.Responders = plan.ClusterIP, []string{"x/a", "y/b"} }),
			observed(func(o *probes.Observation) { o.Outcome.Responder = "x/a" }), hubble.Tuple{}, "another source address",
		},
		{"without an address", edited(func(a *plan.Planned) { a.Lacking = "y/b has no IPv6 address" }), sent, hubble.Tuple{}, "y/b has no IPv6 address"},
		{"without a port", toPod, probes.Observation{}, hubble.Tuple{}, "the port that it was sent from"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, why := hubble.TupleOf(facts, tt.a, tt.o)
			if !strings.Contains(why, tt.why) || (why == "") != (tt.why == "") {
				t.Errorf("why there is none: %q, want %q", why, tt.why)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("tuple (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlowsThatAreNotTheAttempts(t *testing.T) {
	w := hubble.Tuple{
		Protocol: probes.TCP, Source: onTheWay.Source, Destination: netip.MustParseAddrPort("10.96.0.7:80"), Backends: []netip.Addr{netip.MustParseAddr("10.0.1.2")},
		From: start.Add(-time.Second), Until: start.Add(time.Second),
	}
	for name, edit := range map[string]func(*hubble.Flow){
		"before the translation": func(f *hubble.Flow) { f.Destination = w.Destination },
		"behind it":              func(*hubble.Flow) {},
		"behind it, another port": func(f *hubble.Flow) {
			f.Destination = netip.MustParseAddrPort("10.0.1.2:8080")
		},
		"at its end": func(f *hubble.Flow) { f.Time = w.Until },
	} {
		if fault := w.Fault(aFlow(edit)); fault != "" {
			t.Errorf("%s: %s", name, fault)
		}
	}
	for name, edit := range map[string]func(*hubble.Flow){
		"another port of the source": func(f *hubble.Flow) { f.Source = netip.MustParseAddrPort("10.0.0.1:12001") },
		"another source":             func(f *hubble.Flow) { f.Source = netip.MustParseAddrPort("10.0.0.2:12000") },
		"another protocol":           func(f *hubble.Flow) { f.Protocol = probes.UDP },
		"another destination":        func(f *hubble.Flow) { f.Destination = netip.MustParseAddrPort("10.0.1.3:80") },
		"another port of the Service": func(f *hubble.Flow) {
			f.Destination = netip.MustParseAddrPort("10.96.0.7:81")
		},
		"too early": func(f *hubble.Flow) { f.Time = w.From.Add(-1) },
		"too late":  func(f *hubble.Flow) { f.Time = w.Until.Add(1) },
		"the reply": func(f *hubble.Flow) { f.Source, f.Destination = f.Destination, f.Source },
	} {
		if w.Fault(aFlow(edit)) == "" {
			t.Errorf("%s: it was taken for the attempt's", name)
		}
	}
}
