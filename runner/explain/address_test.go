package explain_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gapproof/gapproof/runner/explain"
	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// askAbout asks about x/a to x/b TCP/80, or to a destination of the test, under policies of x; pods have the addresses given, or none.
func askAbout(t testing.TB, a, b []string, policies string, destination string, o explain.Options) (*explain.Report, error) {
	t.Helper()
	var content strings.Builder
	for name, ips := range map[string][]string{"a": a, "b": b} {
		fmt.Fprintf(&content, "---\napiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: x, labels: {app: %s}}\nspec: {containers: [{name: c}]}\n", name, name)
		if len(ips) > 0 {
			content.WriteString("status: {podIPs: [")
			for _, ip := range ips {
				fmt.Fprintf(&content, "{ip: %q},", ip)
			}
			content.WriteString("]}\n")
		}
	}
	for i, spec := range strings.Split(policies, "\n") {
		fmt.Fprintf(&content, "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: np%d, namespace: x}\nspec: %s\n", i, spec)
	}
	manifests, err := scenarios.ReadManifestsFS(fstest.MapFS{"f.yaml": {Data: []byte(content.String())}}, []string{"f.yaml"}, scenarios.ManifestOptions{DefaultNamespace: "x"})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := manifests.Objects(nil)
	if err != nil {
		t.Fatal(err)
	}
	set := manifest.Of(objects)
	if len(a) > 0 && len(b) > 0 {
		set.Addresses = manifest.Real // but for the resolver's, which nobody asks about
	}
	engine, err := set.Compile()
	if err != nil {
		t.Fatal(err)
	}
	source, err := explain.ParseSource("x/a")
	if err != nil {
		t.Fatal(err)
	}
	to, err := explain.ParseDestination(destination)
	if err != nil {
		t.Fatal(err)
	}
	return explain.Ask(engine, set, source, to, explain.Port{Protocol: "TCP", Number: 80}, o)
}

func textOf(t testing.TB, r *explain.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := explain.WriteText(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var (
	dualA = []string{"10.0.0.1", "fd00::1"}
	dualB = []string{"fd00::2", "10.0.0.2"} // its first address is of the other family
)

func TestEachFamilyIsAnsweredWhereTheyDiffer(t *testing.T) {
	const four = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`
	const both = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]}`
	for name, tc := range map[string]struct {
		a, b     []string
		policies string
		to       string
		family   reach.Family
		verdict  reach.Verdict
		answers  []string // "deny IPv6"
		text     string   // a line of it
	}{
		"the second family is denied":       {dualA, dualB, four, "x/b", 0, reach.Deny, []string{"allow IPv4", "deny IPv6"}, "deny over IPv6: → x/b TCP/80"},
		"the one that is asked about":       {dualA, dualB, four, "x/b", reach.IPv4, reach.Allow, []string{"allow IPv4"}, "allow: x/a → x/b TCP/80"},
		"the other":                         {dualA, dualB, four, "x/b", reach.IPv6, reach.Deny, []string{"deny IPv6"}, "deny: x/a → x/b TCP/80"},
		"both decide the same":              {dualA, dualB, both, "x/b", 0, reach.Allow, []string{"allow IPv4 IPv6"}, "  IPv4 and IPv6 decide the same"},
		"one end has one":                   {dualA, dualB[:1], four, "x/b", 0, reach.Deny, []string{"deny IPv6"}, "deny: x/a → x/b TCP/80"},
		"allowed by another rule":           {dualA, dualB, strings.Replace(four, "}]}]}", "}, {ipBlock: {cidr: \"::/0\"}}]}]}", 1), "x/b", 0, reach.Allow, []string{"allow IPv4", "allow IPv6"}, "allow over IPv6: → x/b TCP/80"},
		"an address outside has one family": {dualA, dualB, both, "2001:db8::1", 0, reach.Allow, []string{"allow IPv6"}, "allow: x/a → 2001:db8::1 TCP/80"},
		"no family in common":               {dualA[:1], dualB[:1], both, "x/b", 0, reach.Allow, []string{"allow"}, "  warning: x/a and x/b have no addresses of one family: no such connection comes about, whatever policies say"},
	} {
		t.Run(name, func(t *testing.T) {
			report, err := askAbout(t, tc.a, tc.b, tc.policies, tc.to, explain.Options{Family: tc.family})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range report.Answers {
				got = append(got, strings.Join(append([]string{a.Verdict.String()}, a.Families...), " "))
			}
			if diff := cmp.Diff(tc.answers, got); diff != "" || report.Verdict != tc.verdict {
				t.Errorf("want %s, got %s; answers (-want +got):\n%s", tc.verdict, report.Verdict, diff)
			}
			if text := textOf(t, report); !strings.Contains(text, tc.text+"\n") {
				t.Errorf("want the line %q in\n%s", tc.text, text)
			}
		})
	}
	if _, err := askAbout(t, dualA[:1], dualB, both, "x/b", explain.Options{Family: reach.IPv6}); !errors.Is(err, explain.ErrNoFamily) {
		t.Errorf("want %v, got %v", explain.ErrNoFamily, err)
	}
}

func TestAVerdictThatRestsOnAnAssumedAddressIsUnknown(t *testing.T) {
	const (
		world   = `{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]}}]}]}`
		bogons  = `{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [198.18.0.0/15]}}]}]}`
		half    = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.128.0.0/9}}]}]}`
		office  = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}`
		closed  = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}`
		admits  = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {podSelector: {}}]}]}`
		follows = `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 198.18.0.1/32}}, {ipBlock: {cidr: 198.18.0.2/32}}]}]}`
	)
	for name, tc := range map[string]struct {
		b        []string
		policies string
		ranges   []string
		verdict  reach.Verdict
		assumed  []string // "egress allow 10.0.0.0"
	}{
		"what is not private":                        {nil, world, nil, reach.Unknown, []string{"egress allow 10.0.0.0"}},
		"a pod network that the except takes out":    {nil, world, []string{"10.244.0.0/16"}, reach.Deny, nil},
		"a pod network that no except takes out":     {nil, world, []string{"100.64.0.0/16"}, reach.Allow, nil},
		"two pod networks of which one is taken out": {nil, world, []string{"100.64.0.0/16", "10.244.0.0/16"}, reach.Unknown, []string{"egress allow 10.244.0.0"}},
		"a list of bogons":                           {nil, bogons, nil, reach.Unknown, []string{"egress deny 10.0.0.0"}},
		"half of the pod network":                    {nil, half, []string{"10.0.0.0/8"}, reach.Unknown, []string{"ingress deny 10.128.0.0"}},
		"a denial that any address may lift":         {nil, half, nil, reach.Unknown, []string{"ingress deny 10.128.0.0"}},
		"a block that is no pod's":                   {nil, office, nil, reach.Deny, nil},
		"denied by the other end whatever it is":     {nil, world + "\n" + closed, nil, reach.Deny, []string{"egress allow 10.0.0.0"}},
		"allowed by a selector, too":                 {nil, admits, nil, reach.Allow, nil},
		"an address that is stated":                  {[]string{"10.1.2.3"}, world, nil, reach.Deny, nil},
		"blocks that follow the addresses":           {nil, follows, nil, reach.Allow, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var o explain.Options
			for _, r := range tc.ranges {
				o.PodRanges = append(o.PodRanges, netip.MustParsePrefix(r))
			}
			report, err := askAbout(t, nil, tc.b, tc.policies, "x/b", o)
			if err != nil {
				t.Fatal(err)
			}
			text := textOf(t, report)
			var got []string
			for _, a := range report.Answers[0].Assumed {
				got = append(got, fmt.Sprintf("%s %s %s", a.Direction, a.Verdict, a.Otherwise))
				if !strings.Contains(text, "  warning: "+a.Text+"\n") || !strings.Contains(a.Text, a.Address.String()) || !strings.Contains(a.Text, a.Pod) {
					t.Errorf("want a warning with %s of %s in\n%s", a.Address, a.Pod, text)
				}
			}
			if diff := cmp.Diff(tc.assumed, got, cmpopts.EquateEmpty()); diff != "" || report.Verdict != tc.verdict {
				t.Errorf("want %s, got %s; assumed (-want +got):\n%s\n%s", tc.verdict, report.Verdict, diff, text)
			}
			if !strings.HasPrefix(text, tc.verdict.String()+": ") {
				t.Errorf("want %s first, got %s", tc.verdict, text)
			}
			var b bytes.Buffer
			var back explain.Report
			if err := explain.WriteJSON(&b, report); err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b.Bytes(), &back); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(*report, back, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("read back from JSON (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodNetworksOfTwoFamiliesAreBothAnswered(t *testing.T) {
	report, err := askAbout(t, nil, nil, `{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}`, "x/b", explain.Options{
		PodRanges: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/56")},
	})
	if err != nil {
		t.Fatal(err)
	}
	text := textOf(t, report)
	for _, line := range []string{"allow over IPv4: → x/b TCP/80", "deny over IPv6: → x/b TCP/80"} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("want the line %q in\n%s", line, text)
		}
	}
}
