package dial

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
	"github.com/gapproof/gapproof/probes/internal/netnstest"
	"github.com/gapproof/gapproof/probes/internal/sctp"
	"github.com/gapproof/gapproof/probes/internal/wire"
	"github.com/gapproof/gapproof/probes/listen"
)

// startSCTP serves SCTP on the ports until the test's end; all of them answer their own checks.
func startSCTP(t *testing.T, ports ...uint16) *listen.Group {
	t.Helper()
	var specs []listen.Spec
	for _, p := range ports {
		specs = append(specs, listen.Spec{Protocol: probes.SCTP, Port: p})
	}
	g, err := listen.Start(t.Context(), "ns/pod", specs, listen.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	for _, h := range g.Check(t.Context()) {
		if h.Fault != "" {
			t.Fatalf("listener %d: %s", h.Port, h.Fault)
		}
	}
	return g
}

// socketOf is the kind of socket that SCTP attempts have on this kernel.
func socketOf(t *testing.T) probes.SocketKind {
	t.Helper()
	protocols, err := os.ReadFile("/proc/net/protocols")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(protocols), "\nSCTP") {
		return probes.KernelSocket
	}
	return probes.RawSocket
}

func TestSCTPOutcomes(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		leaktest.Check(t)
		socket := socketOf(t)
		g := startSCTP(t, 80, 81, 82, 83, 84, 85)
		netnstest.Do(t, `ip address add 192.0.2.1/32 dev lo
ip address add 2001:db8::1/128 dev lo nodad
nft -f - <<'RULES'
table inet t {
	chain in {
		type filter hook input priority 0;
		sctp dport 81 drop
		sctp sport 82 sctp chunk init-ack exists drop
		sctp dport 83 sctp chunk cookie-echo exists drop
		sctp dport 84 reject with icmpx port-unreachable
		sctp dport 85 reject with icmpx admin-prohibited
	}
}
RULES`)
		for _, tt := range []struct {
			name, to string
			want     probes.OutcomeKind
			detail   string
			rejected bool // by the destination's address
			arrived  bool
		}{
			{"a listener replies", "127.0.0.1:80", probes.Replied, "", false, true},
			{"a listener replies from the address that was asked", "192.0.2.1:80", probes.Replied, "", false, true},
			{"a listener replies over IPv6", "[::1]:80", probes.Replied, "", false, true},
			{"a listener replies from an IPv6 address of the node", "[2001:db8::1]:80", probes.Replied, "", false, true},
			{"a port that nobody serves refuses", "127.0.0.1:79", probes.Refused, "ABORT", false, false},
			{"a port that nobody serves refuses over IPv6", "[::1]:79", probes.Refused, "ABORT", false, false},
			{"an INIT that is dropped times out", "127.0.0.1:81", probes.TimedOut, "", false, false},
			{"an INIT whose answer is dropped times out, and has arrived", "[::1]:82", probes.TimedOut, "", false, true},
			{"a cookie that is dropped leaves it connected", "127.0.0.1:83", probes.Connected, "no identity came", false, true},
			{"a port unreachable refuses", "127.0.0.1:84", probes.Refused, "", true, false},
			{"a port unreachable refuses over IPv6", "[2001:db8::1]:84", probes.Refused, "", true, false},
			{"what is prohibited is unreachable", "127.0.0.1:85", probes.Unreachable, "", true, false},
		} {
			to := netip.MustParseAddrPort(tt.to)
			deadline := ample
			if tt.want == probes.TimedOut || tt.want == probes.Connected {
				deadline = short
			}
			a := attempt(probes.SCTP, to, deadline)
			o := newDialer(t).Do(t.Context(), a)
			if o.Kind != tt.want || !strings.Contains(o.Detail, tt.detail) || o.Socket != socket {
				t.Errorf("%s: want %s %q over a %s socket, got %+v", tt.name, tt.want, tt.detail, socket, o)
			}
			if want := map[bool]netip.Addr{true: to.Addr()}[tt.rejected]; o.Rejecter != want {
				t.Errorf("%s: want the rejecter %v, got %v", tt.name, want, o.Rejecter)
			}
			if want := map[bool]string{true: "ns/pod"}[tt.want == probes.Replied]; o.Responder != want {
				t.Errorf("%s: want the responder %q, got %q", tt.name, want, o.Responder)
			}
			arrivals := g.Find([]probes.Token{a.Token})
			if !tt.arrived {
				if len(arrivals) != 0 {
					t.Errorf("%s: want no arrival, got %+v", tt.name, arrivals)
				}
				continue
			}
			if len(arrivals) != 1 || arrivals[0].Count != 1 || arrivals[0].Source != o.Local || arrivals[0].Destination != to || arrivals[0].Protocol != probes.SCTP {
				t.Errorf("%s: want one arrival from %s at %s, got %+v", tt.name, o.Local, to, arrivals)
			}
		}
	}, "nft")
}

func TestAPodWithoutSCTPAnswersForItsKernel(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		leaktest.Check(t)
		if socketOf(t) == probes.KernelSocket {
			t.Log("the kernel has SCTP: it aborts instead")
			return
		}
		// The attempt's own raw socket would silence the kernel of its pod: source and destination must be two.
		router := netnstest.Peer(t, "192.0.2.2/24", "192.0.2.1/24")
		router("sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit'")
		to := netip.MustParseAddrPort("192.0.2.1:80")
		o := newDialer(t).Do(t.Context(), attempt(probes.SCTP, to, ample))
		if o.Kind != probes.Unreachable || o.Errno != "ENOPROTOOPT" || o.Rejecter != to.Addr() {
			t.Errorf("want unreachable, ENOPROTOOPT, by the destination; got %+v", o)
		}
	})
}

// TestConnectionTrackingTakesAnAssociationForOne has the kernel's own implementation of SCTP's states and checksum look at each packet
// (net/netfilter/nf_conntrack_proto_sctp.c): one with a wrong checksum, tag or state counts as invalid.
func TestConnectionTrackingTakesAnAssociationForOne(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		netnstest.Do(t, `ip address add 2001:db8::1/128 dev lo nodad
nft -f - <<'RULES'
table inet t {
	counter invalid { }
	counter established { }
	chain in {
		type filter hook input priority 0;
		meta l4proto 132 ct state invalid counter name invalid
		meta l4proto 132 ct state established counter name established
	}
}
RULES`)
		startSCTP(t, 80)
		count := func(name string) string {
			_, rest, _ := strings.Cut(netnstest.Do(t, "nft list counter inet t "+name), "packets ")
			number, _, _ := strings.Cut(rest, " ")
			return number
		}
		for _, to := range []string{"127.0.0.1:80", "[2001:db8::1]:80"} {
			if o := newDialer(t).Do(t.Context(), attempt(probes.SCTP, netip.MustParseAddrPort(to), ample)); o.Kind != probes.Replied {
				t.Errorf("%s: want replied, got %+v", to, o)
			}
		}
		if invalid, established := count("invalid"), count("established"); invalid != "0" || established == "0" {
			t.Errorf("want no invalid packet and some established, got %s and %s", invalid, established)
		}
		unreachable, err := os.ReadFile("/proc/net/snmp")
		if err != nil {
			t.Fatal(err)
		}
		if got := snmp(t, string(unreachable), "Icmp", "OutDestUnreachs"); socketOf(t) == probes.RawSocket && got != "0" {
			t.Errorf("the kernel sent %s ICMP unreachables although raw sockets were open", got)
		}
		// On the loopback nobody looks at a checksum again; coming in from a link, every packet is looked at.
		there := netnstest.Peer(t, "192.0.2.2/24", "192.0.2.1/24")
		there(`nft 'add table inet t; add counter inet t new; add counter inet t invalid;
add chain inet t in { type filter hook prerouting priority 0; };
add rule inet t in meta l4proto 132 ct state new counter name new;
add rule inet t in meta l4proto 132 ct state invalid counter name invalid'`)
		conn, err := net.Dial("ip4:132", "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i, want := range []string{"new", "invalid"} {
			packet := sctp.NewSource(1000+uint16(i), 80, probes.Token{1}).Init()
			packet[8] += byte(i) // of the checksum
			if _, err := conn.Write(packet); err != nil {
				t.Fatal(err)
			}
			for began := time.Now(); !strings.Contains(there("nft list counter inet t "+want), "packets 1 "); {
				if time.Since(began) > ample {
					t.Fatalf("packet %d: want it to count as %s, got %s", i, want, there("nft list ruleset"))
				}
			}
		}
	}, "nft")
}

// snmp is a value of /proc/net/snmp: a line of names, then one of values.
func snmp(t *testing.T, table, protocol, name string) string {
	t.Helper()
	var names []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if fields[0] != protocol+":" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		for i := range names {
			if names[i] == name {
				return fields[i]
			}
		}
	}
	t.Fatalf("no %s of %s", name, protocol)
	return ""
}

func TestTwoSCTPAttemptsAtOnceHearOfTheirOwnErrorsAlone(t *testing.T) {
	netnstest.Run(t, func(t *testing.T) {
		leaktest.Check(t)
		startSCTP(t, 80, 84)
		netnstest.Do(t, `nft 'add table inet t; add chain inet t in { type filter hook input priority 0; }; add rule inet t in sctp dport 84 reject with icmpx port-unreachable; add rule inet t in sctp dport 80 drop'
echo 0 > /proc/sys/net/ipv4/icmp_ratelimit`)
		d := newDialer(t)
		silent := make(chan probes.Outcome)
		go func() {
			silent <- d.Do(t.Context(), attempt(probes.SCTP, netip.MustParseAddrPort("127.0.0.1:80"), 5*short))
		}()
		for refused := 0; ; refused++ {
			select {
			case o := <-silent:
				if o.Kind != probes.TimedOut || refused == 0 {
					t.Errorf("beside %d refused attempts: want timedOut, got %+v", refused, o)
				}
				return
			default:
			}
			if o := d.Do(t.Context(), attempt(probes.SCTP, netip.MustParseAddrPort("127.0.0.1:84"), ample)); socketOf(t) == probes.RawSocket && o.Kind != probes.Refused {
				t.Errorf("want refused, got %+v", o)
			}
		}
	}, "nft")
}

func TestIdentified(t *testing.T) {
	sent := probes.Token{1}
	for name, tt := range map[string]struct {
		line []byte
		want probes.OutcomeKind
	}{
		"the answer":                      {wire.AppendReply(nil, sent, "ns/pod"), probes.Replied},
		"the answer to another attempt":   {wire.AppendReply(nil, probes.Token{2}, "ns/pod"), probes.Connected},
		"a message that is not of a line": {[]byte("hello"), probes.Connected},
	} {
		var o probes.Outcome
		if identified(&o, sent, tt.line); o.Kind != tt.want || (o.Responder != "") != (tt.want == probes.Replied) {
			t.Errorf("%s: want %s, got %+v", name, tt.want, o)
		}
	}
}
