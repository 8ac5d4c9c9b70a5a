package compare_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sighting is one of the attempt observation makes, whose ID is empty.
func sighting(packet probes.Packet, point probes.Point, change ...func(*probes.Sighting)) func(*probes.Observation) {
	return func(o *probes.Observation) {
		s := probes.Sighting{Packet: packet, Point: point, Count: 1, Node: "n1"}
		for _, c := range change {
			c(&s)
		}
		o.Sightings = append(o.Sightings, s)
	}
}

func in(pod string) func(*probes.Sighting) { return func(s *probes.Sighting) { s.Pod = pod } }
func at(device string) func(*probes.Sighting) {
	return func(s *probes.Sighting) { s.Interface = device }
}
func on(node string) func(*probes.Sighting)     { return func(s *probes.Sighting) { s.Node = node } }
func by(reason string) func(*probes.Sighting)   { return func(s *probes.Sighting) { s.Reason = reason } }
func times(count uint64) func(*probes.Sighting) { return func(s *probes.Sighting) { s.Count = count } }
func peer(a string) func(*probes.Sighting) {
	return func(s *probes.Sighting) { s.Peer = netip.MustParseAddrPort(a) }
}
func ofAnother(s *probes.Sighting) { s.AttemptID = "another" }

func level(l probes.Level) func(*probes.Observation) {
	return func(o *probes.Observation) { o.Level = l }
}

// What the witness commonly sees, of an attempt from x/a to the pod "right", which stands for the attempt's own responder.
var (
	full     = level(probes.Full)
	left     = sighting(probes.Request, probes.Left, in("x/a"))
	reached  = sighting(probes.Request, probes.Reached, in("right"))
	dropped  = sighting(probes.Request, probes.Dropped, on("n2"), at("cali1"), by("NETFILTER_DROP"), peer("10.0.0.2:80"))
	lost     = sighting(probes.Request, probes.Dropped, by("IP_RPFILTER"), peer("10.0.0.2:80"))
	nameless = sighting(probes.Request, probes.Dropped, peer("10.0.0.2:80"))
	replied  = sighting(probes.Reply, probes.Left, in("right"))
)

// sightClass is one sort of thing that the kernel can tell of an attempt.
type sightClass struct {
	name string
	seen []func(*probes.Observation)
	// dies: every request is seen to be dropped by what policies make, at a level that tells. missing: some request is not accounted for
	// at a level that would. crossed: the request got to the right pod. clean: nothing speaks against silence.
	dies, missing, crossed, clean bool
}

func sightClasses() []sightClass {
	type of = []func(*probes.Observation)
	return []sightClass{
		{"unwitnessed", nil, false, false, false, true},
		{"taps only: left", of{level(probes.TapsOnly), left}, false, false, false, true},
		{"taps only: left and reached", of{level(probes.TapsOnly), left, reached}, false, false, true, false},
		{"drops without reasons: dropped", of{level(probes.NoDropReason), left, nameless}, true, false, false, false},
		{"dropped by a policy", of{full, left, dropped}, true, false, false, false},
		{"dropped by a policy in the source", of{full, sighting(probes.Request, probes.Dropped, in("x/a"), by("BPF_CGROUP_EGRESS"), peer("10.0.0.2:80"))}, true, false, false, false},
		{"dropped by a policy in the destination", of{full, left, reached, sighting(probes.Request, probes.Dropped, in("right"), by("NETFILTER_DROP"), peer("10.0.0.2:80"))}, true, false, false, false},
		{"dropped, seen by a witness that is not enough", of{left, dropped}, false, false, false, true},
		{"dropped by no policy", of{full, left, lost}, false, false, false, false},
		{"dropped without the reason that a full witness has", of{full, left, nameless}, false, false, false, false},
		{"dropped by a policy and once by none", of{full, left, left, dropped, lost}, false, false, false, false},
		{"one dropped, one unaccounted for", of{full, sighting(probes.Request, probes.Left, in("x/a"), times(2)), dropped}, false, true, false, false},
		{"left and unaccounted for", of{full, left}, false, true, false, false},
		{"nothing seen by a full witness", of{full}, false, true, false, false},
		{"only another attempt's packets seen", of{full, sighting(probes.Request, probes.Dropped, by("NETFILTER_DROP"), ofAnother)}, false, true, false, false},
		{"reached the destination", of{full, left, reached}, false, false, true, false},
		{"one dropped, one reached", of{full, left, left, reached, dropped}, false, false, true, false},
		{"reached another pod", of{full, left, sighting(probes.Request, probes.Reached, in("z/z"))}, false, false, false, false},
		{"reply left the destination", of{full, left, reached, replied}, false, false, true, false},
		{"reply dropped", of{full, left, reached, replied, sighting(probes.Reply, probes.Dropped, by("NETFILTER_DROP"))}, false, false, true, false},
		{"reset left the destination", of{full, left, reached, sighting(probes.ResetPacket, probes.Left, in("right"))}, false, false, true, false},
		{"ICMP error left the destination", of{full, left, reached, sighting(probes.ICMPError, probes.Left, in("right"), func(s *probes.Sighting) { s.Code = 3 })}, false, false, true, false},
		{"dropped, and a reset made on the way", of{full, left, dropped, sighting(probes.ResetPacket, probes.Reached, in("x/a"), peer("10.0.0.2:80"))}, true, false, false, false},
	}
}

func TestWhatTheKernelSawIsAProofOfItsOwn(t *testing.T) {
	cut := probes.OutcomeUnknown
	remote := func(o *probes.Observation) { o.Outcome.Remote = netip.MustParseAddrPort("10.96.0.10:53") }
	untranslated := func(a string) func(*probes.Observation) {
		return sighting(probes.Request, probes.Dropped, by("NETFILTER_DROP"), peer(a))
	}
	far := toPod
	near := toPod
	near.SameNode = true
	service := toService
	service.Address = netip.MustParseAddrPort("10.96.0.7:80")
	tests := []struct {
		name     string
		attempt  plan.Planned
		observed probes.Observation
		evidence compare.Evidence
		verdict  reach.Verdict
		says     string
	}{
		{"a packet that was seen to die needs no outcome", far, observation(cut, full, left, dropped), compare.Dropped, reach.Deny, "NETFILTER_DROP on node n2 at cali1 (ingress)"},
		{"on the source's own node it is egress", far, observation(cut, full, left, sighting(probes.Request, probes.Dropped, by("TC_EGRESS"), at("lxc12"))), compare.Dropped, reach.Deny, "TC_EGRESS on node n1 at lxc12 (egress)"},
		{"on a node of both ends the direction is not known", near, observation(cut, full, left, sighting(probes.Request, probes.Dropped, by("TC_INGRESS"), at("lxc12"))), compare.Dropped, reach.Deny, "TC_INGRESS on node n1 at lxc12"},
		{"a policy program sits where packets of other nodes come out", far, observation(cut, full, left, sighting(probes.Request, probes.Dropped, on("n2"), by("TC_INGRESS"), at("cilium_vxlan"))), compare.Dropped, reach.Deny, "at cilium_vxlan (ingress)"},
		{"a filter on a node's own device is no CNI's", far, observation(cut, full, left, sighting(probes.Request, probes.Dropped, by("TC_INGRESS"), at("eth0"))), compare.Lost, reach.Unknown, "TC_INGRESS on node n1 at eth0 (egress), which is no policy's doing"},
		{"a filter on a device that nobody named is no CNI's", far, observation(cut, full, left, sighting(probes.Request, probes.Dropped, by("TC_EGRESS"))), compare.Lost, reach.Unknown, "which is no policy's doing"},
		{"a filter inside the pod is the pod's own", far, observation(cut, full, left, sighting(probes.Request, probes.Dropped, in("x/a"), by("TC_EGRESS"), at("lxc12"))), compare.Lost, reach.Unknown, "which is no policy's doing"},
		{"a deadline that passed changes nothing", far, observation(probes.TimedOut, full, left, dropped), compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"a drop proves nothing on a path that was never open", far, observation(cut, full, left, dropped, baselineFault), compare.Missing, reach.Unknown, "did not prove the path"},
		{"a drop proves nothing of a pod that is going away", far, observation(cut, full, left, dropped, destinationFault), compare.Missing, reach.Unknown, "not proven alive"},
		{"a drop never turns an error into a deny", far, observation(probes.Error, full, left, dropped), compare.Missing, reach.Unknown, "could not be made"},
		{"no policy drops for want of a route back", far, observation(cut, full, left, lost), compare.Lost, reach.Unknown, "IP_RPFILTER on node n1 (egress), which is no policy's doing"},
		{"unreachable by a route that is missing is no policy's", far, observation(probes.Unreachable, errno("EHOSTUNREACH"), full, left, sighting(probes.Request, probes.Dropped, by("IP_INNOROUTES"))), compare.Lost, reach.Unknown, "IP_INNOROUTES"},
		{"one of two is not accounted for", far, observation(probes.TimedOut, full, left, left, dropped), compare.Unaccounted, reach.Unknown, "1 of 2 requests left x/a"},
		{"a full witness that saw nothing", far, observation(probes.TimedOut, full), compare.Unaccounted, reach.Unknown, "saw no packet of it"},
		{"not permitted by the source's own kernel needs no packet", far, observation(probes.Unreachable, errno("EPERM"), full), compare.Rejected, reach.Deny, "EPERM"},
		{"silence stays silence where drops are not seen", far, observation(probes.TimedOut, level(probes.TapsOnly), left), compare.Silent, reach.Deny, "no arrival"},
		{"what a weak witness saw is told beside the silence", far, observation(probes.TimedOut, left, dropped), compare.Silent, reach.Deny, "the kernel dropped the request: NETFILTER_DROP"},
		{"a weak witness does not decide an attempt without an outcome", far, observation(cut, left, dropped), compare.Missing, reach.Unknown, "no outcome came back"},
		{"a request that got there took no policy's drop", far, observation(probes.TimedOut, full, left, sighting(probes.Request, probes.Reached, in("y/b"))), compare.Missing, reach.Unknown, "reached y/b, but no listener"},
		{"a refusal that left the destination is its own", far, observation(probes.Refused, full, left, sighting(probes.Request, probes.Reached, in("y/b")), sighting(probes.ResetPacket, probes.Left, in("y/b"))),
			compare.NoListener, reach.Allow, "a reset left y/b itself"},
		{"a refusal made on the way tells where", far, observation(probes.Refused, full, left, dropped, sighting(probes.ICMPError, probes.Reached, in("x/a"), peer("172.18.0.3:0"), func(s *probes.Sighting) { s.Code = 13 })),
			compare.Rejected, reach.Deny, "an ICMP error of code 13 from 172.18.0.3; the kernel dropped the request: NETFILTER_DROP on node n2"},
		{"the agent's own word on who rejected it", far, observation(probes.Unreachable, errno("EHOSTUNREACH"), func(o *probes.Observation) { o.Outcome.Rejecter = netip.MustParseAddr("10.0.0.9") }),
			compare.Rejected, reach.Deny, "an ICMP error from 10.0.0.9"},
		{"a reply that died on its way", far, observation(probes.TimedOut, full, left, sighting(probes.Request, probes.Reached, in("y/b")), sighting(probes.Reply, probes.Left, in("y/b")), sighting(probes.Reply, probes.Dropped, by("NETFILTER_DROP"), on("n2"))),
			compare.OneWay, reach.Allow, "the kernel dropped the reply: NETFILTER_DROP on node n2"},
		{"a token that arrived and a reply that died", far, observation(probes.TimedOut, arrival("y/b"), full, sighting(probes.Reply, probes.Dropped, by("TC_EGRESS"))),
			compare.OneWay, reach.Allow, "the kernel dropped the reply: TC_EGRESS on node n1"},
		{"a translation to somebody else", far, observation(cut, full, left, sighting(probes.Request, probes.Reached, in("z/z"))), compare.WrongResponder, reach.Unknown, "reached z/z instead of y/b"},
		{"behind its Service's address a drop is a policy's", service, observation(cut, full, left, dropped), compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"at its Service's address it may be for want of endpoints", service, observation(cut, full, left, untranslated("10.96.0.7:80")), compare.Missing, reach.Unknown, "before the Service's address was translated"},
		{"where the dropped packet was going is not known", service, observation(cut, full, left, sighting(probes.Request, probes.Dropped, by("NETFILTER_DROP"))), compare.Missing, reach.Unknown, "not known to have passed its Service"},
		{"a lookup that died behind the resolver's Service", toName, observation(probes.TimedOut, full, left, remote, dropped), compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"a lookup that died at the resolver's Service", toName, observation(probes.TimedOut, full, left, remote, untranslated("10.96.0.10:53")), compare.Missing, reach.Unknown, "without ready endpoints"},
		{"an API server proves itself", toAPIServer, observation(probes.Replied, responder(plan.APIServerName), full, left), compare.Delivered, reach.Allow, "kubernetes.default.svc proved itself by its certificate"},
		{"somebody else at the API server's address", toAPIServer, observation(probes.Connected, full, left), compare.Missing, reach.Unknown, "who accepted it is not known"},
		{"refused at the API server's address", toAPIServer, observation(probes.Refused), compare.Missing, reach.Unknown, "without ready endpoints"},
		{"on its way to an API server", toAPIServer, observation(cut, full, left, sighting(probes.Request, probes.Dropped, by("NETFILTER_DROP"), peer("172.18.0.3:6443"))), compare.Dropped, reach.Deny, "NETFILTER_DROP"},
		{"at the API server's address, not translated", toAPIServer, observation(cut, full, left, untranslated("10.96.0.1:443")), compare.Missing, reach.Unknown, "before the Service's address was translated"},
		{"an API server that nobody watched", toAPIServer, observation(probes.TimedOut), compare.Silent, reach.Deny, "the API server proved itself to others then"},
		{"a request to an API server that went somewhere", toAPIServer, observation(probes.TimedOut, full, left), compare.Unaccounted, reach.Unknown, "neither seen arriving nor being dropped"},
		{"a lookup that no witness was told of", toName, observation(probes.TimedOut, full), compare.Silent, reach.Deny, "answered before the policies"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := compare.Observe(tt.observed, tt.attempt)
			if got.Evidence != tt.evidence || got.Verdict != tt.verdict || !strings.Contains(got.Detail, tt.says) {
				t.Errorf("want %s %s saying %q\ngot  %s %s: %s", tt.evidence, tt.verdict, tt.says, got.Evidence, got.Verdict, got.Detail)
			}
		})
	}
	got := compare.Observe(observation(cut, full, left, dropped), far).Drop
	if diff := cmp.Diff(compare.Drop{Reason: "NETFILTER_DROP", Direction: "ingress", Node: "n2", Interface: "cali1"}, got); diff != "" {
		t.Errorf("the place of the drop (-want +got):\n%s", diff)
	}
}

// places puts the attempt's own ends where "right" and "x/a" stand.
func places(o *probes.Observation, p plan.Planned) {
	for i := range o.Sightings {
		if o.Sightings[i].Pod == "right" && len(p.Responders) > 0 {
			o.Sightings[i].Pod = p.Responders[0]
		}
	}
}

func TestNothingTheKernelSawProvesMoreThanItDoes(t *testing.T) {
	n := 0
	verdicts := []reach.Verdict{reach.Unknown, reach.Allow, reach.Deny}
	classes := sightClasses()
	everything(func(p plan.Planned, bare probes.Observation) {
		if bare.Outcome.Errno != "" && bare.Outcome.Kind != probes.Unreachable {
			return // only there the error's name has a say
		}
		for _, class := range classes {
			n++
			o := bare
			o.Sightings = nil
			for _, change := range class.seen {
				change(&o)
			}
			places(&o, p)
			got := compare.Observe(o, p)
			fail := func(rule string) {
				t.Helper()
				t.Errorf("%s\nattempt %s, %s\nobservation %+v\ngot %+v", rule, p.ID, class.name, o, got)
			}
			arrived := slices.ContainsFunc(o.Arrivals, func(a probes.Arrival) bool {
				return a.Token == o.Attempt.Token && slices.Contains(p.Responders, a.Listener)
			})
			answered := slices.Contains(p.Responders, o.Outcome.Responder) || slices.Contains(o.Outcome.Addresses, answer)
			c := o.Control
			if got.Detail == "" || got.Evidence == compare.EvidenceUnknown {
				fail("every inference has evidence and words")
			}
			if (arrived || answered) && got.Verdict != reach.Allow {
				fail("data that crossed is an allow, whatever the kernel saw besides")
			}
			if o.Outcome.Kind == probes.Error && got.Verdict == reach.Deny {
				fail("an error is never a deny")
			}
			if got.Verdict == reach.Deny {
				switch {
				case c.SourceFault != "" || c.DestinationFault != "" || c.BaselineFault != "" || c.Baseline != probes.Replied:
					fail("a deny needs every control")
				case class.missing && o.Outcome.Kind != probes.Unreachable && p.Kind != plan.Lookup:
					fail("the unaccounted never decides")
				case class.missing && len(o.Sightings) > 0 && probes.Account(o.Sightings).Unaccounted > 0:
					fail("the unaccounted never decides")
				case class.crossed && p.Kind != plan.Lookup:
					fail("what got there was not denied")
				case o.Outcome.Kind == probes.OutcomeUnknown && !class.dies:
					fail("without an outcome only a death that was seen is a deny")
				case o.Outcome.Kind == probes.TimedOut && !class.dies && !class.clean && !(class.missing && p.Kind == plan.Lookup):
					fail("silence is no deny when the kernel says something else")
				}
				if !slices.Contains([]compare.Evidence{compare.Silent, compare.Rejected, compare.Dropped}, got.Evidence) {
					fail("a deny has the evidence of one")
				}
			}
			if got.Verdict == reach.Allow && !arrived && !answered && !class.crossed {
				fail("an allow needs that a token, an answer or a request got there")
			}
			if got.Evidence == compare.Dropped && (!class.dies || got.Verdict != reach.Deny) {
				fail("dropped means that every request was seen to die by what policies make")
			}
			for _, promised := range verdicts {
				j := compare.Judge(p, promise(promised, promised), o)
				switch {
				case j.Result == compare.Pass && (got.Verdict != promised || got.Verdict == reach.Unknown):
					fail("a pass needs packets that do what was promised")
				case got.Evidence == compare.NoListener && j.Result != compare.Inconclusive:
					fail("a fixture without a listener is never green and never blamed on the network")
				case j.Result == compare.Fail && got.Verdict == reach.Unknown:
					fail("what cannot be told is no failure")
				case promised == reach.Deny && got.Verdict == reach.Allow && got.Evidence != compare.NoListener && j.Class != compare.Hole:
					fail("what crossed against a promise is a hole")
				}
			}
		}
	})
	if want := 4 * (7 + 5) * 5 * 7 * 3 * len(classes); n < want {
		t.Fatalf("%d combinations were tried, want %d", n, want)
	}
}

// TestTheTableForPeople writes the whole proof table as a person would, so that a change of any cell is seen in review.
func TestTheTableForPeople(t *testing.T) {
	var b strings.Builder
	b.WriteString(`The proof table: what one attempt to a pod proves, by what its source's socket saw (down), where its token arrived (across), and what
the kernel saw (section). A cell is evidence, observed verdict, and the result where allow / where deny was promised:
P pass, B break, H hole, ? inconclusive. Rewritten by: go test ./runner/compare -run TestTheTableForPeople -update
`)
	controls := []struct {
		name string
		with []func(*probes.Observation)
	}{
		{"", nil},
		{"the source was not proven alive", []func(*probes.Observation){sourceFault}},
		{"the destination was not proven alive", []func(*probes.Observation){destinationFault}},
		{"the path was not proven before the policies", []func(*probes.Observation){baselineFault}},
	}
	for _, control := range controls {
		if control.name != "" {
			fmt.Fprintf(&b, "\n\n==== Where %s: the rows that differ\n", control.name)
		}
		for _, class := range sightClasses() {
			var rows []string
			for kind := probes.OutcomeUnknown; kind <= probes.Error; kind++ {
				row, proven := tableRow(kind, class, control.with), tableRow(kind, class, nil)
				if control.name == "" || row != proven {
					rows = append(rows, row)
				}
			}
			if len(rows) > 0 {
				fmt.Fprintf(&b, "\n-- %s\n   %-12s %-31s %-31s %s\n%s", class.name, "", "no arrival", "arrival there", "arrival elsewhere", strings.Join(rows, ""))
			}
		}
	}
	path := filepath.Join("testdata", "proof-table.txt")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the proof table (-want +got):\n%s", diff)
	}
}

// tableRow is one outcome's line: a cell for no arrival, one at the destination, one elsewhere.
func tableRow(kind probes.OutcomeKind, class sightClass, control []func(*probes.Observation)) string {
	line := fmt.Sprintf("   %-12s", kind)
	for _, arrivals := range [][]func(*probes.Observation){nil, {arrival("y/b")}, {arrival("z/z")}} {
		o := observation(kind, slices.Concat(arrivals, control, class.seen)...)
		if kind == probes.Replied {
			o.Outcome.Responder = "y/b"
		}
		if kind == probes.Unreachable {
			o.Outcome.Errno = "EHOSTUNREACH"
		}
		places(&o, toPod)
		seen := compare.Observe(o, toPod)
		cell := fmt.Sprintf("%s %s %s/%s", seen.Evidence, seen.Verdict, letter(reach.Allow, o), letter(reach.Deny, o))
		line += fmt.Sprintf(" %-31s", cell)
	}
	return strings.TrimRight(line, " ") + "\n"
}

func letter(promised reach.Verdict, o probes.Observation) string {
	j := compare.Judge(toPod, promise(promised, promised), o)
	switch {
	case j.Result == compare.Pass:
		return "P"
	case j.Class == compare.Hole:
		return "H"
	case j.Class == compare.Break:
		return "B"
	default:
		return "?"
	}
}
