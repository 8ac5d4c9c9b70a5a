package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// combination is what MinimalProbes chooses a witness for.
type combination struct {
	source, destination, port int
	placement                 Placement
	family                    Family
}

// overEveryFamily calls f with the query in each family of which both ends have an address, or as it is where one has none at all.
func overEveryFamily(s, d Pod, q Query, f func(Family, Query)) {
	if len(s.IPs) == 0 || len(d.IPs) == 0 {
		f(FirstAddress, q)
		return
	}
	for _, family := range []Family{IPv4, IPv6} {
		from, hasFrom := addressOf(s, family)
		to, hasTo := addressOf(d, family)
		if hasFrom && hasTo {
			q.Source.Addr, q.Destination.Addr = from, to
			f(family, q)
		}
	}
}

func TestEveryConnectionHasTheVerdictOfItsWitness(t *testing.T) {
	g := generator{newRandom(t)}
	for range 100 {
		w, policies, cluster := g.world(), g.policies(), g.clusterPolicies()
		if len(w.Pods) > 12 {
			w.Pods = w.Pods[:12]
		}
		if g.chance(20) {
			w.Pods[0].IPs = nil // not started yet
		}
		e := mustCompile(t, w, policies, cluster...)
		classes := e.Classes()
		index := map[string]int{}
		for i, p := range w.Pods {
			index[p.Namespace+"/"+p.Name] = i
		}
		witnessed := map[combination]Verdict{}
		for p := range e.MinimalProbes() {
			if p.Purpose == ForClasses {
				s, d := index[p.Query.Source.String()], index[p.Query.Destination.String()]
				witnessed[combination{classes.Pod(s), classes.Pod(d), classes.Port(p.Query.Protocol, p.Query.Port), p.Placement, p.Family}] = mustDecide(t, e, p.Query).Verdict
			}
		}
		everyQuery(w, func(s, d Pod, q Query) {
			from, to := index[q.Source.String()], index[q.Destination.String()]
			if from == to {
				return
			}
			overEveryFamily(s, d, q, func(f Family, q Query) {
				c := combination{classes.Pod(from), classes.Pod(to), classes.Port(q.Protocol, q.Port), e.placement(from, to), f}
				want, ok := witnessed[c]
				if !ok {
					t.Fatalf("%s to %s %s/%d has no witness for %+v", q.Source, q.Destination, q.Protocol, q.Port, c)
				}
				if got := mustDecide(t, e, q).Verdict; got != want {
					t.Fatalf("%s to %s %s/%d over %s: its witness says %s, it is %s\nworld:\n%s\npolicies:\n%s\nof the cluster:\n%s", q.Source, q.Destination, q.Protocol, q.Port, f, want, got, asYAML(t, w), asYAML(t, policies), asYAML(t, cluster))
				}
			})
		})
	}
}

func TestPortClassesHoldEveryPortOnce(t *testing.T) {
	g := generator{newRandom(t)}
	for range 100 {
		e := mustCompile(t, g.world(), g.policies(), g.clusterPolicies()...)
		next := map[corev1.Protocol]int{}
		var all []PortRange
		for _, c := range e.Classes().Ports {
			for _, r := range c.Ranges {
				if r.First > r.Last {
					t.Fatalf("range %s is empty", r)
				}
				next[c.Protocol] += int(r.Last) - int(r.First) + 1
				all = append(all, r)
			}
		}
		for _, p := range protocols() {
			if next[p] != lastPort {
				t.Fatalf("the classes of %s hold %d ports: %v", p, next[p], all)
			}
		}
	}
}

func TestClassesOfThreeByThree(t *testing.T) {
	e := mustCompile(t, threeByThree(), []Policy{mustPolicy(t, `{spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80, endPort: 90}, {port: 85}]}]}}`)})
	want := &Classes{
		// x/a is selected, y is admitted, the rest is neither
		Pods: []PodClass{{[]int{0}}, {[]int{1, 2, 6, 7, 8}}, {[]int{3, 4, 5}}},
		Ports: []PortClass{
			{corev1.ProtocolTCP, []PortRange{{1, 79}, {91, 65535}}},
			{corev1.ProtocolTCP, []PortRange{{80, 84}, {86, 90}}},
			{corev1.ProtocolTCP, []PortRange{{85, 85}}},
			{corev1.ProtocolUDP, []PortRange{{1, 65535}}},
			{corev1.ProtocolSCTP, []PortRange{{1, 65535}}},
		},
	}
	got := e.Classes()
	if diff := cmp.Diff(want, &Classes{Pods: got.Pods, Ports: got.Ports}, cmp.AllowUnexported(Classes{})); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
}

func TestMinimalProbesCoverNodesBoundariesAndEdges(t *testing.T) {
	w := threeByThree()
	for i := range w.Pods {
		w.Pods[i].Node = fmt.Sprintf("n%d", i%2)
	}
	e := mustCompile(t, w, []Policy{mustPolicy(t, `{spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80, endPort: 81}]}, {from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]}]}}`)})
	c := e.Coverage()
	const (
		podClasses  = 3 // x/a selected, x/b and x/c admitted, y and z neither
		portClasses = 4 // TCP 80-81, TCP the rest, UDP, SCTP
		pairs       = podClasses*podClasses - 1
	)
	want := Coverage{
		PodClasses: podClasses, PortClasses: portClasses, Combinations: pairs * portClasses,
		// x/a (n0), x/b (n1), x/c (n0): no pair of x/b and x/c shares a node; everything else is there both ways
		SameNode: (pairs - 1) * portClasses, CrossNode: pairs * portClasses,
		// 79, 81 and 82: 80 is what x/a serves, and its class's witness already
		Boundaries: 3, Edges: 6, Stands: 9 * 8 * 65535 * 3,
	}
	want.Probes = want.SameNode + want.CrossNode + want.Boundaries + want.Edges
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("coverage (-want +got):\n%s", diff)
	}
	var edges []string
	for p := range e.MinimalProbes() {
		if p.Purpose == ForBlockEdge {
			edges = append(edges, p.Query.Source.String())
		}
	}
	if diff := cmp.Diff([]string{"192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0", "192.0.2.127", "192.0.2.128"}, edges); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
}

func TestEdgesOfBlocks(t *testing.T) {
	for block, want := range map[string][]string{
		"10.0.0.0/8":           {"9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
		"10.0.0.7/32":          {"10.0.0.6", "10.0.0.7", "10.0.0.8"},
		"0.0.0.0/0":            {"255.255.255.255"},
		"fd00::/64":            {"fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::", "fd00::ffff:ffff:ffff:ffff", "fd00:0:0:1::"},
		"255.255.255.254/31":   {"255.255.255.253", "255.255.255.254", "255.255.255.255"},
		"0.0.0.0/1":            {"127.255.255.255", "128.0.0.0"},
		"2001:db8::ffff/128":   {"2001:db8::fffe", "2001:db8::ffff", "2001:db8::1:0"},
		"::/0":                 {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		"192.168.100.128/25":   {"192.168.100.127", "192.168.100.128", "192.168.100.255", "192.168.101.0"},
		"fd00:1:2:3::8000/113": {"fd00:1:2:3::7fff", "fd00:1:2:3::8000", "fd00:1:2:3::ffff", "fd00:1:2:3::1:0"},
	} {
		var got []string
		for _, a := range edgesOf(netip.MustParsePrefix(block)) {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", block, diff)
		}
	}
}

func TestMinimalProbesAreDecidableAndNeverTwice(t *testing.T) {
	g := generator{newRandom(t)}
	for range 100 {
		w := g.world()
		w.Pods = w.Pods[:min(len(w.Pods), 12)]
		e := mustCompile(t, w, g.policies(), g.clusterPolicies()...)
		seen := map[Query]bool{}
		first := slices.Collect(e.MinimalProbes())
		for _, p := range first {
			mustDecide(t, e, p.Query)
			if seen[p.Query] {
				t.Fatalf("%s to %s %s/%d is given twice", p.Query.Source, p.Query.Destination, p.Query.Protocol, p.Query.Port)
			}
			seen[p.Query] = true
		}
		if !slices.Equal(first, slices.Collect(e.MinimalProbes())) {
			t.Fatal("the second walk differs from the first")
		}
	}
}

func TestMinimalProbesOfAClusterAreFarFewerThanItsConnections(t *testing.T) {
	w := cityWorld(300)
	e := mustCompile(t, w, cityPolicies(12, len(w.Namespaces)))
	c := e.Coverage()
	t.Logf("%+v", c)
	if c.SameNode == 0 || c.CrossNode == 0 || c.Boundaries == 0 || c.Edges == 0 || c.Unplaced != 0 {
		t.Errorf("want probes of every kind and none without a node, got %+v", c)
	}
	if c.SameNode+c.CrossNode < c.Combinations {
		t.Errorf("want every combination on one node or across two, got %d and %d of %d", c.SameNode, c.CrossNode, c.Combinations)
	}
	if int64(c.Probes) > c.Stands/1000 {
		t.Errorf("%d probes stand for only %d connections", c.Probes, c.Stands)
	}
}
