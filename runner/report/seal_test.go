package report_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal"
)

// proof is what the seal of a lab of one node and one pod comes to, with its facts edited.
func proof(t *testing.T, edit func(*seal.Facts)) seal.Proof {
	t.Helper()
	spec, err := seal.New("dev", seal.Network{
		Bridge: "br-lab", Gateway: netip.MustParseAddr("172.30.0.1"), Subnet: netip.MustParsePrefix("172.30.0.0/24"),
		Mirror: netip.MustParseAddrPort("172.30.0.2:5000"), Sink: netip.MustParseAddrPort("172.30.0.3:53"), API: 6443,
	}, nil, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	f := seal.Facts{
		Sources: []seal.Expected{{From: "node lab-worker", Kind: seal.NodeSource}, {From: "pod kube-system/metrics", Kind: seal.PodSource}},
		Began:   &seal.Reading{}, Images: 14, After: seal.Reading{Packets: map[seal.Counter]uint64{}},
	}
	for _, s := range f.Sources {
		for counter, n := range spec.Sends(s.Kind) {
			f.Canaries = append(f.Canaries, seal.Canary{From: s.From, Counter: counter, Sent: n, Counted: n})
			f.After.Packets[counter] += n
		}
		f.Names = append(f.Names, seal.Name{From: s.From, Name: "canary.invalid", Asked: spec.Sink, Answer: seal.AnswerNoName, Recorded: 1})
	}
	edit(&f)
	return spec.Judge(f)
}

func attempted(n int) seal.Tried {
	return seal.Tried{
		Source: netip.MustParseAddr("10.244.1.7"), Destination: netip.MustParseAddr("203.0.113.9"), Protocol: seal.TCP, Port: uint16(440 + n),
		Packets: uint64(n + 1), From: "pod x/a\x1b[2J",
	}
}

func sealed(t *testing.T) seal.Proof { return proof(t, func(*seal.Facts) {}) }

// leaking has leaks, a doubt and more attempts than are shown.
func leaking(t *testing.T) seal.Proof {
	return proof(t, func(f *seal.Facts) {
		f.After.Packets[seal.BeyondForward4] = 3
		f.Foreign = []seal.NodeImage{{Node: "lab-worker", Reference: "example.test/evil:1", Digest: "sha256:aa"}}
		f.Rules = []string{"chain gate: rule canary-tcp-ipv4 is gone or out of order"}
		for n := range 12 {
			f.After.Tried = append(f.After.Tried, attempted(n))
		}
	})
}

func unproven(t *testing.T) seal.Proof {
	return proof(t, func(f *seal.Facts) { *f = seal.Facts{Unchecked: "listing the kernel's tables: not permitted"} })
}

func withSeal(r *report.Report, p seal.Proof) *report.Report {
	r.Seal = report.NewSeal(p)
	return r
}

func TestTheSealLooksAsItShould(t *testing.T) {
	for name, p := range map[string]seal.Proof{"sealed": sealed(t), "leaking": leaking(t), "unproven": unproven(t)} {
		r := withSeal(passing(t), p)
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

func TestTheSealHasAPartInTheExit(t *testing.T) {
	doubtful := passing(t)
	doubtful.Scenarios = append(doubtful.Scenarios, report.Scenario{Name: "stopped", Fault: "the API server went away"})
	skipped := skipping(t)
	skipped.Scenarios = skipped.Scenarios[1:]
	for _, tt := range []struct {
		name   string
		report *report.Report
		proof  seal.Proof
		result compare.Result
		code   int
		words  string
	}{
		{"all held and sealed", passing(t), sealed(t), compare.Pass, 0, "exit code 0: every promise held"},
		{"all held and leaked", passing(t), leaking(t), compare.Fail, 1, "exit code 1: something left the lab's network, or came in; every promise held"},
		{"all held and not proven", passing(t), unproven(t), compare.Inconclusive, 3,
			"exit code 3: that nothing left the lab's network is not proven; every promise held"},
		{"failed and sealed", failing(t), sealed(t), compare.Fail, 1, "exit code 1: a promise did not hold"},
		{"failed and not proven", failing(t), unproven(t), compare.Fail, 1, "is not proven; a promise did not hold"},
		{"not told and leaked", doubtful, leaking(t), compare.Fail, 1, "exit code 1: something left"},
		{"not told and sealed", doubtful, sealed(t), compare.Inconclusive, 3, "exit code 3: no promise was seen broken"},
		{"skipped and not proven", skipped, unproven(t), compare.Inconclusive, 3, "is not proven; every scenario was skipped"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *tt.report
			s := withSeal(&r, tt.proof).Summary()
			if s.Result != tt.result || s.ExitCode != tt.code || s.Seal != tt.proof.Verdict {
				t.Errorf("got %s, exit code %d, %s; want %s, %d", s.Result, s.ExitCode, s.Seal, tt.result, tt.code)
			}
			if text := string(render(t, &r, report.Table, report.Options{Width: 200})); !strings.Contains(text, tt.words) {
				t.Errorf("the table does not say %q:\n%s", tt.words, text)
			}
		})
	}
}

func TestJUnitHasTheSealBesideTheScenarios(t *testing.T) {
	for want, p := range map[string]seal.Proof{"1 0 0": sealed(t), "1 1 0": leaking(t), "1 0 1": unproven(t)} {
		got := readJUnit(t, withSeal(passing(t), p))
		last := got.Suites[len(got.Suites)-1]
		if counts := fmt.Sprint(last.Tests, last.Failures, last.Errors); last.Name != "seal" || counts != want {
			t.Errorf("%s: suite %s with tests, failures, errors %s; want seal with %s", p.Verdict, last.Name, counts, want)
		}
		if got.Failures != last.Failures || got.Errors != last.Errors || got.Tests != 5 {
			t.Errorf("%s: the root counts %d tests, %d failures, %d errors", p.Verdict, got.Tests, got.Failures, got.Errors)
		}
	}
}

func TestNoSealIsNoWordOfOne(t *testing.T) {
	for _, f := range report.Formats() {
		if text := string(render(t, passing(t), f, report.Options{})); strings.Contains(strings.ToLower(text), "seal") {
			t.Errorf("%s speaks of a seal:\n%s", f, text)
		}
	}
}
