package compare_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// What is attempted besides TCP and UDP between pods in the first family.
var (
	toEcho = plan.Planned{ID: "x/a>y/b:ICMP", Source: "x/a", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.ICMP,
		Address: netip.MustParseAddrPort("10.0.0.2:0"), Responders: []string{"y/b"}}
	toEcho6 = plan.Planned{ID: "x/a>y/b:ICMP6", Source: "x/a", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.ICMP, Family: probes.IPv6,
		Address: netip.MustParseAddrPort("[fd00::2]:0"), Responders: []string{"y/b"}}
	toSCTP = plan.Planned{ID: "x/a>y/b:SCTP/80", Source: "x/a", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.SCTP, Port: 80,
		Address: netip.MustParseAddrPort("10.0.0.2:80"), Responders: []string{"y/b"}}
	toName6 = plan.Planned{ID: "x/a>dns:web.y:AAAA", Source: "x/a", Destination: "dns:web.y", Kind: plan.Lookup, Protocol: probes.DNS, Family: probes.IPv6,
		Answers: []netip.Addr{netip.MustParseAddr("fd00::9")}}
	toOutside = plan.Planned{ID: "x/a>outside:bank:TCP/443", Source: "x/a", Destination: "outside:bank", Kind: plan.OutsideIP, Protocol: probes.TCP, Port: 443,
		Address: netip.MustParseAddrPort("172.18.0.9:443"), Responders: []string{"outside:bank"}}
	toAPIServer = plan.Planned{ID: "x/a>api-server:TCP/443", Source: "x/a", Destination: "api-server", Kind: plan.APIServerIP, Protocol: probes.TCP, Port: 443,
		Address: netip.MustParseAddrPort("10.96.0.1:443"), Name: plan.APIServerName, Responders: []string{plan.APIServerName}}
	fromOutside = plan.Planned{ID: "outside:bank>y/b:TCP/80", Source: "outside:bank", Destination: "y/b", Kind: plan.PodIP, Protocol: probes.TCP, Port: 80,
		Address: netip.MustParseAddrPort("10.0.0.2:80"), Responders: []string{"y/b"}}
)

func echoed(from string) func(*probes.Observation) {
	return func(o *probes.Observation) {
		o.Outcome.ReplyFrom, o.Outcome.Socket = netip.MustParseAddr(from), probes.PingSocket
	}
}

func overRaw(o *probes.Observation) { o.Outcome.Socket = probes.RawSocket }

// saw adds one sighting of the attempt at the level full.
func saw(packet probes.Packet, point probes.Point, pod, reason string) func(*probes.Observation) {
	return func(o *probes.Observation) {
		o.Level = probes.Full
		o.Sightings = append(o.Sightings, probes.Sighting{Packet: packet, Point: point, Count: 1, Node: "n1", Pod: pod, Reason: reason, Peer: netip.MustParseAddrPort("10.0.0.2:80")})
	}
}

func TestTheProofTableForOtherProtocolsFamiliesAndHosts(t *testing.T) {
	left := saw(probes.Request, probes.Left, "x/a", "")
	for _, tt := range []struct {
		name     string
		attempt  plan.Planned
		observed probes.Observation
		evidence compare.Evidence
		verdict  reach.Verdict
		says     string
	}{
		{"the pod's kernel echoed", toEcho, observation(probes.Replied, echoed("10.0.0.2")),
			compare.Delivered, reach.Allow, "the kernel at 10.0.0.2 echoed the token after 1.5ms, over a ping socket"},
		{"the pod's kernel echoed over IPv6", toEcho6, observation(probes.Replied, echoed("fd00::2")),
			compare.Delivered, reach.Allow, "the kernel at fd00::2 echoed"},
		{"another address echoed", toEcho, observation(probes.Replied, echoed("10.0.0.3")),
			compare.WrongResponder, reach.Unknown, "echoed by 10.0.0.3 instead of 10.0.0.2"},
		{"the pod's other family echoed", toEcho6, observation(probes.Replied, echoed("10.0.0.2")),
			compare.WrongResponder, reach.Unknown, "echoed by 10.0.0.2 instead of fd00::2"},
		{"nobody echoed", toEcho, observation(probes.TimedOut), compare.Silent, reach.Deny, "no"},
		{"nobody echoed, and the path was never proven", toEcho, observation(probes.TimedOut, noBaseline), compare.Missing, reach.Unknown, "did not prove the path"},
		{"an echo was dropped", toEcho6, observation(probes.TimedOut, left, saw(probes.Request, probes.Dropped, "", "NETFILTER_DROP")),
			compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"an echo got there and its reply did not come back", toEcho, observation(probes.TimedOut, left, saw(probes.Request, probes.Reached, "y/b", ""), saw(probes.Reply, probes.Left, "y/b", "")),
			compare.OneWay, reach.Allow, "which replied"},
		{"an echo could not be sent", toEcho, observation(probes.Error, errno("EPERM")), compare.Missing, reach.Unknown, "could not be made"},

		{"an association was made", toSCTP, observation(probes.Replied, responder("y/b"), overRaw),
			compare.Delivered, reach.Allow, "y/b answered after 1.5ms, over a raw socket"},
		{"an INIT was not answered", toSCTP, observation(probes.TimedOut, overRaw), compare.Silent, reach.Deny, "no arrival"},
		{"an INIT was answered and nothing came of it", toSCTP, observation(probes.Connected, overRaw), compare.Missing, reach.Unknown, "who accepted it is not known"},
		{"an association was aborted after the token had arrived", toSCTP, observation(probes.Reset, overRaw, arrival("y/b")), compare.OneWay, reach.Allow, "the token arrived"},
		{"an INIT was aborted and the listener was well", toSCTP, observation(probes.Refused, overRaw), compare.Rejected, reach.Deny, "refused"},
		{"the pod itself aborted the INIT", toSCTP, observation(probes.Refused, overRaw, left, saw(probes.Request, probes.Reached, "y/b", ""), saw(probes.ResetPacket, probes.Left, "y/b", "")),
			compare.NoListener, reach.Allow, "left y/b itself"},
		{"an INIT was dropped", toSCTP, observation(probes.TimedOut, overRaw, left, saw(probes.Request, probes.Dropped, "", "NETFILTER_DROP")),
			compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"a raw socket was not granted", toSCTP, observation(probes.Error, overRaw, errno("EPERM")), compare.Missing, reach.Unknown, "EPERM"},

		{"the records of IPv6 came", toName6, observation(probes.Replied, addresses("fd00::9")), compare.Delivered, reach.Allow, "resolved to fd00::9"},
		{"those of IPv4 came instead", toName6, observation(probes.Replied, addresses("10.96.0.9")), compare.WrongResponder, reach.Unknown, "instead of fd00::9"},

		{"a host outside answered", toOutside, observation(probes.Replied, responder("outside:bank")), compare.Delivered, reach.Allow, "outside:bank answered"},
		{"another host outside answered", toOutside, observation(probes.Replied, responder("outside:shop")), compare.WrongResponder, reach.Unknown, "outside:shop answered instead of outside:bank"},
		{"what was sent to the outside was dropped", toOutside, observation(probes.TimedOut, left, saw(probes.Request, probes.Dropped, "", "NETFILTER_DROP")),
			compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"what left for the outside was not seen again", toOutside, observation(probes.TimedOut, left), compare.Unaccounted, reach.Unknown, "left x/a"},
		{"the host outside was not alive", toOutside, observation(probes.TimedOut, destinationFault), compare.Missing, reach.Unknown, "not proven alive"},
		{"what came from outside was dropped where it was first seen", fromOutside, observation(probes.TimedOut, saw(probes.Request, probes.Dropped, "", "NETFILTER_DROP")),
			compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"what came from outside was dropped inside the pod", fromOutside, observation(probes.TimedOut, saw(probes.Request, probes.Reached, "y/b", ""), saw(probes.Request, probes.Dropped, "y/b", "NETFILTER_DROP")),
			compare.Dropped, reach.Deny, "ingress"},
		{"what came from outside was never seen in the cluster", fromOutside, func() probes.Observation {
			o := observation(probes.TimedOut)
			o.Level = probes.Full
			return o
		}(), compare.Unaccounted, reach.Unknown, "the witness saw no packet of it"},
		{"a pod answered a host outside", fromOutside, observation(probes.Replied, responder("y/b")), compare.Delivered, reach.Allow, "y/b answered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Observe(tt.observed, tt.attempt)
			if got.Evidence != tt.evidence || got.Verdict != tt.verdict || !strings.Contains(got.Detail, tt.says) {
				t.Errorf("want %s %s saying %q\ngot  %s %s: %s", tt.evidence, tt.verdict, tt.says, got.Evidence, got.Verdict, got.Detail)
			}
		})
	}
}

func TestJudgingEchoesAndWhatCannotBeMade(t *testing.T) {
	allow, deny := plan.Promise{Intended: reach.Allow, IntendedBy: "expect.allow[0]"}, plan.Promise{Intended: reach.Deny, IntendedBy: "expect.deny[0]"}
	lacking := toEcho6
	lacking.Address, lacking.Lacking = netip.AddrPort{}, "the cluster gave y/b no IPv6 address"
	for _, tt := range []struct {
		name     string
		attempt  plan.Planned
		promise  plan.Promise
		observed probes.Observation
		result   compare.Result
		class    compare.Class
		says     string
	}{
		{"a person's allow of an echo holds", toEcho, allow, observation(probes.Replied, echoed("10.0.0.2")), compare.Pass, compare.ClassNone, "echoed"},
		{"a person's deny of an echo holds", toEcho, deny, observation(probes.TimedOut), compare.Pass, compare.ClassNone, "no"},
		{"a person's deny of an echo is a hole", toEcho, deny, observation(probes.Replied, echoed("10.0.0.2")), compare.Fail, compare.Hole, "the API leaves ICMP to the CNI"},
		{"a person's allow of an echo breaks", toEcho, allow, observation(probes.TimedOut), compare.Fail, compare.Break, "the API leaves ICMP to the CNI"},
		{"nobody's promise is skipped", toEcho, plan.Promise{Skip: "the API leaves it open"}, observation(probes.Replied, echoed("10.0.0.2")), compare.Skipped, compare.ClassNone, "the API leaves it open"},
		{"what the cluster has no address for is skipped", lacking, plan.Promise{Intended: reach.Deny, Skip: lacking.Lacking}, probes.Observation{},
			compare.Skipped, compare.ClassNone, "no IPv6 address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			j := compare.Judge(tt.attempt, tt.promise, tt.observed)
			if j.Result != tt.result || j.Class != tt.class || !strings.Contains(j.Reason, tt.says) {
				t.Errorf("want %s %s saying %q\ngot  %s %s: %s", tt.result, tt.class, tt.says, j.Result, j.Class, j.Reason)
			}
		})
	}
}

func TestAHostOutsideAndAnAPIServerHaveNoPoliciesToDecideBy(t *testing.T) {
	allowed := reach.Decision{Verdict: reach.Allow, Egress: reach.Side{Verdict: reach.Allow}, Ingress: reach.Side{Verdict: reach.Allow}}
	for _, tt := range []struct {
		attempt plan.Planned
		want    string
	}{{toOutside, "egress of x/a"}, {toAPIServer, "egress of x/a"}, {fromOutside, "ingress of y/b"}} {
		j := compare.Judge(tt.attempt, plan.Promise{Derived: allowed}, observation(probes.Replied, responder(tt.attempt.Responders[0])))
		var got []string
		for _, d := range j.Deciders() {
			got = append(got, d.Direction+" of "+d.Pod)
		}
		if strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: decided by %v, want %s", tt.attempt.ID, got, tt.want)
		}
	}
}
