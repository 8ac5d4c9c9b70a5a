package gate

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/seal"
)

func TestASealThatIsWholeIsProvenInBothFamilies(t *testing.T) {
	for name, families := range map[string]stack{"a network without IPv6": v4Only, "a network with both families": dual} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, families)
			l.close(t)
			first := l.prove(t, seal.Reading{})
			if first.Verdict != seal.Sealed {
				t.Fatalf("verdict %s: leaks %q, doubts %q\n%s", first.Verdict, first.Leaks, first.Doubts, l.nft(t))
			}
			again := l.prove(t, first.Facts.After)
			if again.Verdict != seal.Sealed {
				t.Errorf("second proof: verdict %s: leaks %q, doubts %q", again.Verdict, again.Leaks, again.Doubts)
			}
		})
	}
}

func TestASealIsProvenOnAHostWithoutAnyRoute(t *testing.T) {
	l := newLab(t, v4Only)
	l.host.sh(t, "ip route del default; ip link del uplink")
	l.close(t)
	if p := l.prove(t, seal.Reading{}); p.Verdict != seal.Sealed {
		t.Errorf("verdict %s: leaks %q, doubts %q", p.Verdict, p.Leaks, p.Doubts)
	}
}

func TestEveryBreachIsFound(t *testing.T) {
	tests := []struct {
		name string
		// breach is run on the host of a lab whose seal was proven before.
		breach  string
		verdict seal.Verdict
		// reason is part of one leak or doubt.
		reason string
	}{
		{"the table removed", "nft delete table inet gapproof-test", seal.Leaked, "were seen leaving this host"},
		{"the table put to sleep", "nft add table inet gapproof-test '{ flags dormant; }'", seal.Leaked, "may be dormant"},
		{"the gate's rules removed", "nft flush chain inet gapproof-test gate", seal.Leaked, "counter beyond-forward-ipv4"},
		{"one rule removed", "nft delete rule inet gapproof-test gate handle $(nft -a list chain inet gapproof-test gate | sed -n 's/.*udp dport [0-9]* counter.*drop # handle //p' | head -1)",
			seal.NotProven, "rule canary-udp-ipv4 is gone"},
		{"a rule put before the others", "nft insert rule inet gapproof-test gate ip daddr 203.0.113.7 accept", seal.NotProven, "is nobody's"},
		{"a chain added", "nft add chain inet gapproof-test extra", seal.NotProven, "chain extra is nobody's"},
		{"a hole for IPv6", "nft insert rule inet gapproof-test gate meta nfproto ipv6 accept", seal.Leaked, "counter beyond-forward-ipv6"},
		{"a hole for IPv6 and no second line", "nft insert rule inet gapproof-test gate meta nfproto ipv6 accept; nft flush chain inet gapproof-test beyond-forward",
			seal.Leaked, "canary-udp-ipv6: 2 packets were seen leaving this host"},
		{"masquerading with iptables", "iptables -t nat -A POSTROUTING -s 172.30.9.0/24 ! -o br-lab -j MASQUERADE", seal.NotProven, "masquerading is on"},
		{"masquerading of everything", "iptables -t nat -A POSTROUTING -o uplink -j MASQUERADE", seal.NotProven, "masquerading is on"},
		{"masquerading behind a jump", "nft add table ip t; nft add chain ip t c; nft add rule ip t c masquerade; nft add chain ip t p '{ type nat hook postrouting priority 100; }'; nft add rule ip t p ip saddr 172.30.0.0/16 jump c",
			seal.NotProven, "masquerading is on"},
		{"masquerading of the older interface", "iptables-legacy -t nat -A POSTROUTING -s 172.30.9.0/24 -j MASQUERADE", seal.NotProven, "masquerading is on"},
		{"the address of the canaries let through by others does nothing", "nft add table ip o; nft add chain ip o f '{ type filter hook forward priority -400; }'; nft add rule ip o f accept",
			seal.Sealed, ""},
		{"masquerading of others only is none of the lab's", "iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE; iptables -t nat -A POSTROUTING -s 172.30.9.130/32 -d 172.30.9.130/32 -p tcp --dport 6443 -j MASQUERADE",
			seal.Sealed, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, dual)
			l.close(t)
			first := l.prove(t, seal.Reading{})
			if first.Verdict != seal.Sealed {
				t.Fatalf("before the breach: verdict %s: leaks %q, doubts %q", first.Verdict, first.Leaks, first.Doubts)
			}
			l.host.sh(t, test.breach)
			p := l.prove(t, first.Facts.After)
			reasons := slices.Concat(p.Leaks, p.Doubts)
			if p.Verdict != test.verdict || test.reason != "" && !slices.ContainsFunc(reasons, func(r string) bool { return strings.Contains(r, test.reason) }) {
				t.Errorf("want %s with %q, got %s: leaks %q, doubts %q\n%s", test.verdict, test.reason, p.Verdict, p.Leaks, p.Doubts, l.nft(t))
			}
		})
	}
}

func TestCountersThatWereResetAreFound(t *testing.T) {
	l := newLab(t, v4Only)
	l.close(t)
	first := l.prove(t, seal.Reading{})
	l.close(t) // the same rules with fresh counters
	p := l.prove(t, first.Facts.After)
	if p.Verdict != seal.NotProven || !slices.ContainsFunc(p.Doubts, func(d string) bool { return strings.Contains(d, "counter canary-udp-ipv4 went back") }) {
		t.Errorf("want %s for a counter that went back, got %s: %q", seal.NotProven, p.Verdict, p.Doubts)
	}
}

func TestWhatIsNoCanaryIsDroppedAndListed(t *testing.T) {
	l := newLab(t, dual)
	l.close(t)
	var before seal.Reading
	l.host.do(t, func() (err error) { before, _, err = Read(l.spec); return err })
	l.node.do(t, func() error {
		for _, to := range []string{"203.0.113.9:4242", "[2001:db8:ffff::9]:4243"} {
			if _, _, err := sendUDP(netip.MustParseAddrPort(to), 3, 0, []byte("stray")); err != nil {
				return err
			}
		}
		_, _, err := sendICMP(netip.MustParseAddr("203.0.113.10"))
		return err
	})
	want := []string{
		"172.30.9.130 → 203.0.113.9:4242 UDP, 3 packets", "172.30.9.130 → 203.0.113.10 ICMP, 3 packets",
		"fd67::130 → [2001:db8:ffff::9]:4243 UDP, 3 packets",
	}
	p := l.prove(t, before)
	var got []string
	for _, s := range p.Tried() {
		got = append(got, s.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tried (-want +got):\n%s", diff)
	}
	if p.Verdict != seal.Sealed {
		t.Errorf("what was dropped left nothing: want %s, got %s: %q", seal.Sealed, p.Verdict, p.Doubts)
	}
}

// TestWhatTheKernelSaidCanBeStatedAndJudgedAgain is about the way of a run's proof: read when the run begins, judged after it, stated and read back.
func TestWhatTheKernelSaidCanBeStatedAndJudgedAgain(t *testing.T) {
	l := newLab(t, dual)
	l.close(t)
	send := func(port uint16) {
		t.Helper()
		l.node.do(t, func() error {
			_, _, err := sendUDP(netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), port), 2, 0, []byte("stray"))
			return err
		})
	}
	send(4242)
	var began seal.Reading
	l.host.do(t, func() (err error) { began, _, err = Read(l.spec); return err })
	send(4242)
	send(4243)
	f := l.prove(t, seal.Reading{}).Facts
	f.Began = &began
	p := l.spec.Judge(f)
	st, err := p.Statement(l.spec, seal.About{Lock: strings.Repeat("ab", 32), Time: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := st.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := seal.ParseStatement(raw)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range back.Predicate.Tried {
		got = append(got, s.String())
	}
	want := []string{"172.30.9.130 → 203.0.113.9:4242 UDP, 2 packets", "172.30.9.130 → 203.0.113.9:4243 UDP, 2 packets"}
	if diff := cmp.Diff(want, got); diff != "" || back.Predicate.Verdict != seal.Sealed {
		t.Errorf("verdict %s, doubts %q, tried since the run began (-want +got):\n%s", back.Predicate.Verdict, back.Predicate.Doubts, diff)
	}
}

func TestOpenRemovesOneTableAndLeavesTheRest(t *testing.T) {
	l := newLab(t, v4Only)
	l.host.sh(t, "nft add table inet other; iptables -A FORWARD -s 10.0.0.0/8 -j ACCEPT")
	before := l.nft(t)
	l.close(t)
	for _, want := range []bool{true, false} {
		l.host.do(t, func() error {
			removed, err := Open("test")
			if removed != want {
				t.Errorf("Open said %v, want %v", removed, want)
			}
			return err
		})
	}
	if diff := cmp.Diff(before, l.nft(t)); diff != "" {
		t.Errorf("the host's rules (-before +after):\n%s", diff)
	}
}
