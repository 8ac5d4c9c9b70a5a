package witness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
)

func TestEveryLevelLoadsWhereTheKernelHasIt(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	proc := fakeProc(t, self())
	for _, want := range []probes.Level{probes.TapsOnly, probes.NoDropReason, probes.Full} {
		w, err := open(Options{Proc: proc, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}.filled(), want)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if got := w.Level(); got != want {
			t.Errorf("level: want %q, got %q", want, got)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheKernelTellsWhereEveryPacketEnded(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	l := newLab(t)
	w := openLab(t, "node", l.router, l.source, l.destination, l.other)

	const target, target6 = "10.77.2.2:80", "[fd77:2::2]:80"
	one := probes.Accounting{Sent: 1, Dropped: 1}
	arrived := probes.Accounting{Sent: 1, Arrived: 1}
	request := func(pod, reason string) probes.Sighting {
		return probes.Sighting{Packet: probes.Request, Point: probes.Dropped, Pod: pod, Reason: reason}
	}
	local := func(s probes.Sighting) probes.Sighting { s.Local = true; return s }
	nft := func(n *node, hook, match string) fault {
		return script(n, "nft -f - <<E\ntable inet fault { chain c { type filter hook "+hook+" priority 0; "+match+" drop; }; }\nE", "nft delete table inet fault")
	}
	reject := func(protocol, with string) fault {
		return script(l.router, "iptables -I FORWARD -p "+protocol+" --dport 80 -j REJECT --reject-with "+with, "iptables -F")
	}
	none := script(l.router, "true", "true")

	for _, tt := range []struct {
		name     string
		fault    fault
		protocol probes.Protocol
		to       string
		outcome  probes.OutcomeKind
		want     probes.Accounting
		seen     probes.Sighting // without count, times, peer and interface; its node is the witness's
	}{
		// First, because the kernel sends few such errors to one address.
		{"no route on the router", none, probes.UDP, "198.51.100.1:80", probes.Unreachable, one, request("", "IP_INNOROUTES")},
		{"TCP dropped by the source's output hook", nft(l.source, "output", "tcp dport 80"), probes.TCP, target, probes.TimedOut, one, local(request("source", "NETFILTER_DROP"))},
		{"UDP dropped by the source's output hook", nft(l.source, "output", "udp dport 80"), probes.UDP, target, probes.Unreachable, one, local(request("source", "NETFILTER_DROP"))},
		{"TCP dropped by the router", nft(l.router, "forward", "tcp dport 80"), probes.TCP, target, probes.TimedOut, one, request("", "NETFILTER_DROP")},
		{"UDP dropped by the router", nft(l.router, "forward", "udp dport 80"), probes.UDP, target, probes.TimedOut, one, request("", "NETFILTER_DROP")},
		{"TCP over IPv6 dropped by the router", nft(l.router, "forward", "tcp dport 80"), probes.TCP, target6, probes.TimedOut, one, request("", "NETFILTER_DROP")},
		{"UDP over IPv6 dropped by the router", nft(l.router, "forward", "udp dport 80"), probes.UDP, target6, probes.TimedOut, one, request("", "NETFILTER_DROP")},
		{"TCP dropped inside the destination by its input hook", nft(l.destination, "input", "tcp dport 80"), probes.TCP, target, probes.TimedOut, one, request("destination", "NETFILTER_DROP")},
		{"UDP dropped inside the destination by its input hook", nft(l.destination, "input", "udp dport 80"), probes.UDP, target, probes.TimedOut, one, request("destination", "NETFILTER_DROP")},
		{"rejected by a reset", reject("tcp", "tcp-reset"), probes.TCP, target, probes.Refused, one,
			probes.Sighting{Packet: probes.ResetPacket, Point: probes.Reached, Pod: "source"}},
		{"TCP prohibited by an ICMP error", reject("tcp", "icmp-admin-prohibited"), probes.TCP, target, probes.Unreachable, one,
			probes.Sighting{Packet: probes.ICMPError, Point: probes.Reached, Pod: "source", Code: 13}},
		{"UDP prohibited by an ICMP error", reject("udp", "icmp-admin-prohibited"), probes.UDP, target, probes.Unreachable, one,
			probes.Sighting{Packet: probes.ICMPError, Point: probes.Reached, Pod: "source", Code: 13}},
		{"dropped by traffic control on the way out of the source", program(l.source, "eth0", dropTCX, ebpf.AttachTCXEgress), probes.TCP, target, probes.TimedOut, one, local(request("source", "TC_EGRESS"))},
		{"dropped by traffic control on the way into the router", program(l.router, "to-sourc", dropTCX, ebpf.AttachTCXIngress), probes.UDP, target, probes.TimedOut, one, request("", "TC_INGRESS")},
		{"dropped by traffic control on the way out of the router", program(l.router, "to-desti", dropTCX, ebpf.AttachTCXEgress), probes.TCP, target, probes.TimedOut, one, request("", "TC_EGRESS")},
		{"dropped by traffic control on the way into the destination", program(l.destination, "eth0", dropTCX, ebpf.AttachTCXIngress), probes.TCP, target, probes.TimedOut, one, request("destination", "TC_INGRESS")},
		{"only the reply is dropped", nft(l.router, "forward", "ip saddr 10.77.2.2"), probes.UDP, target, probes.TimedOut, arrived,
			probes.Sighting{Packet: probes.Reply, Point: probes.Dropped, Reason: "NETFILTER_DROP"}},
		{"no TCP listener", none, probes.TCP, "10.77.2.2:81", probes.Refused, arrived,
			probes.Sighting{Packet: probes.ResetPacket, Point: probes.Left, Pod: "destination"}},
		{"no UDP listener", none, probes.UDP, "10.77.2.2:81", probes.Refused, arrived,
			probes.Sighting{Packet: probes.ICMPError, Point: probes.Left, Pod: "destination", Code: 3}},
		{"refused by the reverse path", script(l.router, "sysctl -qw net.ipv4.conf.to-sourc.rp_filter=1; ip route add 10.77.1.2/32 dev to-other",
			"ip route del 10.77.1.2/32; sysctl -qw net.ipv4.conf.to-sourc.rp_filter=0"), probes.UDP, target, probes.TimedOut, one, request("", "IP_RPFILTER")},
		{"translated to another responder", script(l.router, "nft -f - <<E\ntable ip wrong { chain c { type nat hook prerouting priority -100; ip daddr 10.77.2.2 udp dport 80 dnat to 10.77.3.2; }; }\nE",
			"nft delete table ip wrong"), probes.UDP, target, probes.Replied, arrived, probes.Sighting{Packet: probes.Request, Point: probes.Reached, Pod: "other"}},
		{"dropped by XDP on the way into the destination", program(l.destination, "eth0", dropXDP, ebpf.AttachXDP), probes.UDP, target, probes.TimedOut,
			probes.Accounting{Sent: 1, Unaccounted: 1}, probes.Sighting{Packet: probes.Request, Point: probes.Left, Pod: "source"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			end := tt.fault(t)
			outcome, got := l.watch(t, w, tt.protocol, tt.to, func(s []probes.Sighting) bool { return probes.Account(s) == tt.want && has(s, tt.seen) })
			end()
			if outcome.Kind != tt.outcome {
				t.Errorf("outcome: want %s, got %s (%s)", tt.outcome, outcome.Kind, outcome.Detail)
			}
			if diff := cmp.Diff(tt.want, probes.Account(got)); diff != "" {
				t.Errorf("accounting (-want +got):\n%s", diff)
			}
			if !has(got, tt.seen) {
				t.Errorf("want among the sightings %+v", tt.seen)
			}
			for _, to := range []string{target, target6} {
				delivered, sightings := l.watch(t, w, tt.protocol, to, func(s []probes.Sighting) bool {
					a := probes.Account(s)
					return a.Arrived > 0 && a.Arrived == a.Sent
				})
				if a := probes.Account(sightings); delivered.Responder != "destination" || a.Arrived == 0 || a.Arrived != a.Sent {
					t.Errorf("without the fault, to %s: want it delivered, got %s from %q (%s), %+v of %+v", to, delivered.Kind, delivered.Responder, delivered.Detail, a, sightings)
				}
			}
			if t.Failed() {
				t.Logf("the sightings: %+v", got)
			}
		})
	}
}

// fault brings the lab into a state; what it returns ends it.
type fault func(testing.TB) (end func())

// script is a fault by commands inside the namespace.
func script(n *node, set, end string) fault {
	return func(t testing.TB) func() {
		t.Helper()
		n.sh(t, set)
		return func() { n.sh(t, end) }
	}
}

// What the programs of faults return to have the packet dropped: TC_ACT_SHOT and XDP_DROP of linux/bpf.h.
const (
	dropTCX = 2
	dropXDP = 1
)

// program is a fault by a program on the device that drops everything.
func program(n *node, device string, verdict int32, at ebpf.AttachType) fault {
	return func(t testing.TB) func() {
		t.Helper()
		var attached link.Link
		err := n.inside(func() (err error) {
			attached, err = attachVerdict(device, verdict, at)
			return err
		})
		if err != nil {
			t.Fatalf("attaching a program to %s of %s: %v", device, n.name, err)
		}
		return func() {
			if err := attached.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func attachVerdict(device string, verdict int32, at ebpf.AttachType) (_ link.Link, err error) {
	on, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	kind := ebpf.SchedCLS
	if at == ebpf.AttachXDP {
		kind = ebpf.XDP
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}, License: "GPL"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if kind == ebpf.XDP {
		return link.AttachXDP(link.XDPOptions{Program: p, Interface: on.Index})
	}
	return link.AttachTCX(link.TCXOptions{Program: p, Interface: on.Index, Attach: at})
}

// watch makes one attempt under the witness and gives its outcome and, once they are as wanted, its sightings.
func (l *lab) watch(t testing.TB, w *Witness, protocol probes.Protocol, to string, wanted func([]probes.Sighting) bool) (probes.Outcome, []probes.Sighting) {
	t.Helper()
	attempt, flow := l.attempt(protocol, to)
	if err := w.Watch([]probes.Flow{flow}); err != nil {
		t.Fatal(err)
	}
	defer w.Forget([]string{attempt.ID})
	outcome := l.source.try(t, []probes.Attempt{attempt})[0]
	return outcome, await(t, attempt.ID, []*Witness{w}, wanted)
}

// has says whether one of the sightings is the wanted one, as far as that says.
func has(all []probes.Sighting, want probes.Sighting) bool {
	return slices.ContainsFunc(all, func(s probes.Sighting) bool {
		return s.Packet == want.Packet && s.Point == want.Point && s.Pod == want.Pod && s.Reason == want.Reason && s.Local == want.Local && s.Code == want.Code
	})
}

func TestTwoWitnessesOnOneKernelClaimEachDropOnce(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	l := newLab(t)
	// The second node's own namespace is that of the pod nobody means.
	first, second := openLab(t, "first", l.router, l.source), openLab(t, "second", l.other, l.destination)
	for _, tt := range []struct {
		hook string
		in   *node
		want string // the witness that claims
	}{{"output", l.source, "first"}, {"forward", l.router, "first"}, {"input", l.destination, "second"}} {
		tt.in.sh(t, "nft -f - <<E\ntable inet fault { chain c { type filter hook "+tt.hook+" priority 0; udp dport 80 drop; }; }\nE")
		attempt, flow := l.attempt(probes.UDP, "10.77.2.2:80")
		both := []*Witness{first, second}
		for _, w := range both {
			if err := w.Watch([]probes.Flow{flow}); err != nil {
				t.Fatal(err)
			}
		}
		l.source.try(t, []probes.Attempt{attempt})
		want := probes.Accounting{Sent: 1, Dropped: 1}
		all := await(t, attempt.ID, both, func(s []probes.Sighting) bool { return probes.Account(s) == want })
		var drops []string
		for _, s := range all {
			if s.Point == probes.Dropped {
				drops = append(drops, fmt.Sprintf("%s %d", s.Node, s.Count))
			}
		}
		if diff := cmp.Diff([]string{tt.want + " 1"}, drops); diff != "" {
			t.Errorf("hook %s: claims (-want +got):\n%s", tt.hook, diff)
		}
		tt.in.sh(t, "nft delete table inet fault")
	}
}

func TestADropOnANodeIsTheNodesAlsoWithAPodOnItsNetwork(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	l := newLab(t)
	w := openLab(t, "node", l.router, l.source, l.destination)
	pods := []Pod{{Identity: "source", NetNS: l.source.netns}, {Identity: "destination", NetNS: l.destination.netns}}
	host := Pod{Identity: "on-the-host", NetNS: l.router.netns}
	l.router.sh(t, "nft -f - <<E\ntable inet fault { chain c { type filter hook forward priority 0; udp dport 80 drop; }; }\nE")
	for _, adopted := range [][]Pod{append(pods, host), pods} { // and after it has gone again
		if err := w.Adopt(adopted); err != nil {
			t.Fatal(err)
		}
		want := probes.Sighting{Packet: probes.Request, Point: probes.Dropped, Reason: "NETFILTER_DROP"}
		if _, got := l.watch(t, w, probes.UDP, "10.77.2.2:80", func(s []probes.Sighting) bool { return has(s, want) }); !has(got, want) {
			t.Errorf("%d pods adopted: want a drop of nobody's but the node's, got %+v", len(adopted), got)
		}
	}
}

// crowded is a deadline by which ten thousand goroutines on two busy cores have all come to send: one that comes too late sends nothing.
const crowded = 8 * time.Second

func TestTenThousandAttemptsAtOnceAreAllAccountedFor(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	l := newLab(t)
	w := openLab(t, "node", l.router, l.source, l.destination, l.other)
	const many = 10000
	for _, tt := range []struct {
		fault fault
		want  probes.Accounting
	}{
		{script(l.router, "nft -f - <<E\ntable inet fault { chain c { type filter hook forward priority 0; udp dport 80 drop; }; }\nE", "nft delete table inet fault"), probes.Accounting{Sent: 1, Dropped: 1}},
		{script(l.router, "true", "true"), probes.Accounting{Sent: 1, Arrived: 1}},
	} {
		end := tt.fault(t)
		attempts, flows, ids := make([]probes.Attempt, many), make([]probes.Flow, many), make([]string, many)
		for i := range many {
			attempts[i], flows[i] = l.attempt(probes.UDP, "10.77.2.2:80")
			attempts[i].Deadline = crowded
			ids[i] = attempts[i].ID
		}
		if err := w.Watch(flows); err != nil {
			t.Fatal(err)
		}
		unsent := make(map[string]bool)
		outcomes := make(map[string]probes.Outcome)
		for _, o := range l.source.try(t, attempts) {
			outcomes[o.AttemptID] = o
			if o.Kind == probes.Error { // the instrument's own fault, such as no slot before the deadline on a busy machine: nothing left
				unsent[o.AttemptID] = true
			}
		}
		if len(unsent) > many/100 {
			t.Errorf("%d of %d attempts were not made at all", len(unsent), many)
		}
		sightings, err := w.Sightings(ids)
		if err != nil {
			t.Fatal(err)
		}
		of := make(map[string][]probes.Sighting)
		for _, s := range sightings {
			of[s.AttemptID] = append(of[s.AttemptID], s)
		}
		wrong := 0
		for _, id := range ids {
			got := probes.Account(of[id])
			if unsent[id] && got == (probes.Accounting{}) {
				continue
			}
			if got != tt.want {
				if wrong++; wrong < 4 {
					t.Errorf("attempt %s: want %+v, got %+v of %+v; outcome %+v", id, tt.want, got, of[id], outcomes[id])
				}
			}
		}
		if wrong > 0 {
			t.Errorf("%d of %d are accounted for otherwise than %+v", wrong, many, tt.want)
		}
		w.Forget(ids)
		end()
	}
}

func TestWhatCannotBeDoneIsSaidInWords(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	w, err := Open(Options{Proc: fakeProc(t, self())})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	good := probes.Flow{AttemptID: "a", Protocol: probes.TCP, Source: netip.MustParseAddrPort("10.0.0.1:20000")}
	other := good
	other.AttemptID = "b"
	bad := probes.Flow{AttemptID: "c", Protocol: probes.DNS}
	if err := w.Watch([]probes.Flow{good, good}); err != nil {
		t.Errorf("a flow named twice: %v", err)
	}
	err = w.Watch([]probes.Flow{other, bad})
	for _, want := range []string{`attempt "b": source: TCP 10.0.0.1:20000 belongs to attempt "a"`, `attempt "c": source`, "protocol: DNS is not one of"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("watching: want %q in %v", want, err)
		}
	}
	many := make([]probes.Flow, MaxFlows)
	for i := range many {
		source := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 20000)
		many[i] = probes.Flow{AttemptID: strconv.Itoa(i), Protocol: probes.UDP, Source: source}
	}
	if err := w.Watch(many); !errors.Is(err, ErrFull) {
		t.Errorf("one flow too many: want ErrFull, got %v", err)
	}
	if _, err := w.Sightings([]string{"a", "0"}); err == nil || !strings.Contains(err.Error(), `attempt "0": it is not watched`) {
		t.Errorf("an attempt that is not watched: got %v", err)
	}
	w.Forget([]string{"a", "nobody"})
	if err := w.Watch(many); err != nil {
		t.Errorf("after forgetting one: %v", err)
	}
	if err := w.Adopt([]Pod{{"shop/gone", 1}}); err == nil || !strings.Contains(err.Error(), "adopting pod shop/gone: no process under") {
		t.Errorf("a pod that is gone: got %v", err)
	}
}

// The programs' own layout: kernel and user space disagree silently where these change.
func TestTheMirrorOfTheKernelsEntriesHasTheirSize(t *testing.T) {
	spec, err := loadTap()
	if err != nil {
		t.Fatal(err)
	}
	flows := spec.Maps[tapMapFlows]
	for _, tt := range []struct {
		name string
		want uint32
		got  int
	}{{"key", flows.KeySize, binary.Size(tapFlowKey{})}, {"entry", flows.ValueSize, binary.Size(tapFlowState{})}, {"slot", 72, binary.Size(tapSighting{})}} {
		if int(tt.want) != tt.got {
			t.Errorf("%s: want %d bytes, got %d", tt.name, tt.want, tt.got)
		}
	}
}

// BenchmarkSendToSightingOfItsDrop measures from the system call that sends to the drop being in what Sightings gives; ns/op holds the
// setup of each attempt too, the median of the way alone is its own figure.
func BenchmarkSendToSightingOfItsDrop(b *testing.B) {
	l := newLab(b)
	w := openLab(b, "node", l.router, l.source, l.destination)
	l.router.sh(b, "nft -f - <<E\ntable inet fault { chain c { type filter hook forward priority 0; udp dport 80 drop; }; }\nE")
	var took []time.Duration
	err := l.source.inside(func() error {
		for b.Loop() {
			attempt, flow := l.attempt(probes.UDP, "10.77.2.2:80")
			if err := w.Watch([]probes.Flow{flow}); err != nil {
				return err
			}
			socket, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(flow.Source), net.UDPAddrFromAddrPort(attempt.Destination))
			if err != nil {
				return err
			}
			began := time.Now()
			if _, err := socket.Write([]byte("x")); err != nil {
				return err
			}
			for dropped := false; !dropped; {
				sightings, err := w.Sightings([]string{attempt.ID})
				if err != nil {
					return err
				}
				dropped = probes.Account(sightings).Dropped > 0
			}
			took = append(took, time.Since(began))
			w.Forget([]string{attempt.ID})
			if err := socket.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "median-ns")
}
