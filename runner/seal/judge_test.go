package seal

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const (
	node = "node lab-worker"
	pod  = "pod x/a"
	// seed makes every run's canaries the same.
	seed = 20261125
)

func network() Network {
	return Network{
		Bridge: "gapproof-lab", Gateway: netip.MustParseAddr("172.30.0.1"), Subnet: netip.MustParsePrefix("172.30.0.0/24"),
		Mirror: netip.MustParseAddrPort("172.30.0.2:5000"), Sink: netip.MustParseAddrPort("172.30.0.3:53"), API: 6443,
	}
}

func spec(t *testing.T) Spec {
	t.Helper()
	s, err := New("lab", network(), nil, rand.New(rand.NewPCG(seed, 0)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func expected() []Expected { return []Expected{{node, NodeSource}, {pod, PodSource}} }

// sealed are the facts of a network that is.
func sealed(s Spec) Facts {
	f := Facts{
		Last: Reading{Packets: map[Counter]uint64{}}, Before: Reading{Packets: map[Counter]uint64{}}, After: Reading{Packets: map[Counter]uint64{}},
		Images: 14, Sources: expected(),
	}
	for _, e := range expected() {
		for counter, n := range s.Sends(e.Kind) {
			f.Canaries = append(f.Canaries, Canary{From: e.From, Counter: counter, Sent: n, Counted: n})
			f.After.Packets[counter] += n
		}
		f.Names = append(f.Names, Name{From: e.From, Name: "canary.invalid", Asked: s.Sink, Answer: AnswerNoName, Recorded: 1})
	}
	return f
}

// canary is the one that the node sent for the counter.
func canary(f *Facts, counter Counter) *Canary {
	return &f.Canaries[slices.IndexFunc(f.Canaries, func(c Canary) bool { return c.From == node && c.Counter == counter })]
}

func TestTheVerdictOfEveryFact(t *testing.T) {
	s := spec(t)
	for _, tt := range []struct {
		name string
		edit func(*Facts)
		want Verdict
		why  string // is in one of its leaks or doubts
	}{
		{"everything as it must be", func(*Facts) {}, Sealed, ""},
		{"others tried to leave and could not", func(f *Facts) {
			f.After.Tried = []Tried{{Source: netip.MustParseAddr("172.30.0.9"), Destination: netip.MustParseAddr("198.51.100.9"), Protocol: TCP, Port: 443, Packets: 2}}
		}, Sealed, ""},
		{"a rule is missing", func(f *Facts) { f.Rules = []string{"rule canary-tcp-ipv4 is missing"} }, NotProven, "is missing"},
		{"masquerading is on", func(f *Facts) { f.Masquerades = []string{"table ip nat"} }, NotProven, "masquerading is on: table ip nat"},
		{"a counter went back", func(f *Facts) { f.Last.Packets[AllowedAPI], f.Before.Packets[AllowedAPI] = 9, 3 }, NotProven, "went back from 9 to 3"},
		{"a counter went back during the proof", func(f *Facts) { f.Before.Packets[AllowedMirror], f.After.Packets[AllowedMirror] = 9, 3 }, NotProven, "while canaries were sent"},
		{"somebody else sent canaries", func(f *Facts) { f.After.Packets[CanaryUDP]++ }, NotProven, "counter canary-udp-ipv4 grew by"},
		{"a canary was not counted", func(f *Facts) { c := canary(f, CanaryTCP); c.Counted--; f.After.Packets[CanaryTCP]-- }, NotProven, "1 sent, 0 counted at the gate"},
		{"a canary was not sent", func(f *Facts) { c := canary(f, CanaryICMP); c.Fault = "no socket" }, NotProven, "no socket"},
		{"too few canaries were sent", func(f *Facts) {
			c := canary(f, CanaryUDP)
			c.Sent, c.Counted = 1, 1
			f.After.Packets[CanaryUDP]--
		}, NotProven, "sent 1 of 2 packets"},
		{"a source sent none", func(f *Facts) {
			f.Canaries = slices.DeleteFunc(f.Canaries, func(c Canary) bool { return c.From == pod })
		}, NotProven, "pod x/a sent nothing for"},
		{"a canary left the host", func(f *Facts) { canary(f, CanaryTCP6).Left = 1 }, Leaked, "1 packets were seen leaving this host"},
		{"a packet got past the gate", func(f *Facts) { f.After.Packets[BeyondForward6] = 1 }, Leaked, "got past the gate"},
		{"a packet got past the gate to this host", func(f *Facts) { f.After.Packets[BeyondInput4] = 1 }, Leaked, "got past the gate"},
		{"a name got an address", func(f *Facts) { f.Names[0].Answer = AnswerAddress }, Leaked, "got an address"},
		{"a name went elsewhere", func(f *Facts) { f.Names[1].Recorded = 0 }, NotProven, "it went elsewhere"},
		{"a name came twice", func(f *Facts) { f.Names[1].Recorded = 2 }, NotProven, "recorded 2 times"},
		{"a name got no answer", func(f *Facts) { f.Names[0].Answer = AnswerNone }, NotProven, "no answer of the sink's"},
		{"a source asked for no name", func(f *Facts) { f.Names = f.Names[1:] }, NotProven, "node lab-worker asked for no name"},
		{"an image that is not in the lock", func(f *Facts) { f.Foreign = []NodeImage{{"lab-worker", "example/evil:1", "sha256:1", "k8s.io"}} }, Leaked,
			"image example/evil:1 on node lab-worker is not in the lock"},
		{"such an image in another namespace", func(f *Facts) { f.Foreign = []NodeImage{{"lab-worker", "example/evil:1", "sha256:1", "others"}} }, Leaked,
			"on node lab-worker in the container runtime's namespace others is not in the lock"},
		{"no image was looked at", func(f *Facts) { f.Images = 0 }, NotProven, "no image was seen"},
		{"something could not be found out", func(f *Facts) { f.Unknown = []string{"the images of lab-worker: timeout"} }, NotProven, "timeout"},
		{"somebody else sent canaries since the last proof", func(f *Facts) {
			f.Before.Packets[CanaryTCP] += 5
			f.After.Packets[CanaryTCP] += 5
		}, NotProven, "between two proofs: somebody else has sent canaries"},
		{"a counter went back during the run", func(f *Facts) {
			f.Began = &Reading{Packets: map[Counter]uint64{AllowedAPI: 9}}
			f.Before.Packets[AllowedAPI], f.After.Packets[AllowedAPI] = 3, 3
		}, NotProven, "went back from 9 to 3"},
		{"another proof was made during the run", func(f *Facts) {
			f.Began = &Reading{}
			for _, r := range []*Reading{&f.Last, &f.Before, &f.After} {
				r.Packets[CanaryTCP] += 5
			}
		}, Sealed, ""},
		{"it was not put to the proof", func(f *Facts) { *f = Facts{Unchecked: "this needs root"} }, NotProven, "not checked: this needs root"},
		{"a leak outranks a doubt", func(f *Facts) { f.Images, f.After.Packets[BeyondForward4] = 0, 1 }, Leaked, "got past the gate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := sealed(s)
			tt.edit(&f)
			p := s.Judge(f)
			if p.Verdict != tt.want {
				t.Errorf("want %s, got %s: leaks %q, doubts %q", tt.want, p.Verdict, p.Leaks, p.Doubts)
			}
			if said := strings.Join(slices.Concat(p.Leaks, p.Doubts), "\n"); !strings.Contains(said, tt.why) || (tt.want == Sealed) != (said == "") {
				t.Errorf("want %q among the reasons, got %q", tt.why, said)
			}
		})
	}
}

func TestNobodyExpectedIsNoProof(t *testing.T) {
	s := spec(t)
	if got := s.Judge(Facts{Images: 1}).Verdict; got != NotProven {
		t.Errorf("without any source: %s, want %s", got, NotProven)
	}
}

func TestEverySourceSendsDifferentNumbersOfEachKind(t *testing.T) {
	sends := spec(t).Sends(NodeSource)
	if sends[CanaryTCP] == sends[CanaryUDP] || sends[CanaryUDP] == sends[CanaryICMP] || sends[CanaryTCP] == sends[CanaryICMP] {
		t.Errorf("one kind could be taken for another: %v", maps.Collect(maps.All(sends)))
	}
}

func TestAPodSendsCanariesOfTheFamiliesThatItHas(t *testing.T) {
	four, six := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")
	of4, of6 := []Counter{CanaryHost, CanaryICMP, CanaryTCP, CanaryUDP}, []Counter{CanaryICMP6, CanaryTCP6, CanaryUDP6}
	both := slices.Sorted(slices.Values(slices.Concat(of4, of6)))
	for name, tc := range map[string]struct {
		pods []netip.Prefix
		dual bool // the network
		want []Counter
	}{
		"IPv4 alone":                                 {[]netip.Prefix{four}, false, of4},
		"both families":                              {[]netip.Prefix{four, six}, true, both},
		"IPv6 alone, on a network that has both":     {[]netip.Prefix{six}, true, of6},
		"not recorded, on a network of IPv4":         {nil, false, of4},
		"not recorded, on a network of both":         {nil, true, both},
		"IPv4 alone, on a network that has IPv6 too": {[]netip.Prefix{four}, true, of4},
	} {
		t.Run(name, func(t *testing.T) {
			n := network()
			n.Pods = tc.pods
			if tc.dual {
				n.Subnet6, n.Gateway6 = netip.MustParsePrefix("fd67::/64"), netip.MustParseAddr("fd67::1")
			}
			s, err := New("lab", n, nil, rand.New(rand.NewPCG(seed, 0)))
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Sorted(maps.Keys(s.Sends(PodSource))); !slices.Equal(tc.want, got) {
				t.Errorf("a pod sends: want %v, got %v", tc.want, got)
			}
			if got, want := len(s.Sends(NodeSource)), len(s.canaries()); got != want {
				t.Errorf("a node sends for %d counters, want all %d", got, want)
			}
		})
	}
}

func TestASealThatCannotBeIsRefusedWithEveryFault(t *testing.T) {
	_, err := New("", Network{}, documentRanges(), rand.New(rand.NewPCG(seed, 0)))
	if err == nil {
		t.Fatal("a seal of nothing was made")
	}
	for _, want := range []string{"cluster", "subnet:", "ports:", ErrNoCanaryAddress.Error()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}

func TestAnImageIsForeignUnlessTheLockReachesIt(t *testing.T) {
	found := []NodeImage{{"b", "two", "sha256:2", ""}, {"a", "two", "sha256:2", ""}, {"a", "one", "sha256:1", ""}}
	got := Images(found, map[string]bool{"sha256:1": true})
	if want := []NodeImage{{"a", "two", "sha256:2", ""}, {"b", "two", "sha256:2", ""}}; !slices.Equal(got, want) {
		t.Errorf("want %v, got %v", want, got)
	}
}

func TestARuleThatWasGoneIsKnownWhenItComesBack(t *testing.T) {
	s := spec(t)
	last := Reading{Packets: map[Counter]uint64{CanaryTCP: 3, AllowedAPI: 900}}
	gone := Reading{Packets: map[Counter]uint64{AllowedAPI: 950}}.Over(last)
	if gone.Packets[CanaryTCP] != 3 || gone.Packets[AllowedAPI] != 950 {
		t.Errorf("kept %v, want what is counted and, of the rule that is gone, what was", gone.Packets)
	}
	if len(last.Packets) != 2 || last.Packets[AllowedAPI] != 900 {
		t.Errorf("the earlier reading was changed: %v", last.Packets)
	}
	back := Reading{Packets: map[Counter]uint64{AllowedAPI: 960}}
	if got := s.Backwards(gone, back); len(got) != 1 || !strings.Contains(got[0], "canary-tcp-ipv4 went back from 3 to 0") {
		t.Errorf("a rule that was made anew: %q, want that its counter went back", got)
	}
	if none := (Reading{}).Over(last); none.Packets[CanaryTCP] != 3 {
		t.Errorf("a table that is gone leaves %v, want the earlier counts", none.Packets)
	}
}
