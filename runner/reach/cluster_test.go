package reach

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"
)

// mustClusterPolicy reads the spec of a ClusterNetworkPolicy.
func mustClusterPolicy(t testing.TB, name, spec string) ClusterPolicy {
	t.Helper()
	var p npav1alpha2.ClusterNetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	p.Name = name
	return ClusterPolicy{Spec: p, File: name + ".yaml", Line: 7}
}

// threeNodes is threeByThree with the nodes n1 and n2, a hostNetwork pod z/host on n2, and an IPv6 address for y/a.
func threeNodes() World {
	w := threeByThree()
	w.Nodes = []Node{
		{Name: "n1", Labels: map[string]string{"role": "edge"}, IPs: []netip.Addr{netip.MustParseAddr("172.18.0.2")}},
		{Name: "n2", Labels: map[string]string{"role": "core"}, IPs: []netip.Addr{netip.MustParseAddr("172.18.0.3")}},
	}
	w.Pods = append(w.Pods, Pod{Namespace: "z", Name: "host", HostNetwork: true, Node: "n2", IPs: []netip.Addr{netip.MustParseAddr("172.18.0.3")}, Labels: map[string]string{"pod": "a"}})
	return w
}

const (
	// subjectX selects every pod of namespace x; fromAll and toAll are every pod.
	subjectX = `subject: {namespaces: {matchLabels: {ns: x}}}`
	fromAll  = `from: [{namespaces: {}}]`
	toAll    = `to: [{namespaces: {}}]`
	// isolateX is a NetworkPolicy that isolates x both ways and allows nothing; openX allows everything.
	isolateX = `{spec: {policyTypes: [Ingress, Egress]}}`
	openX    = `{spec: {policyTypes: [Ingress, Egress], ingress: [{}], egress: [{}]}}`
)

func TestClusterNetworkPolicyFollowsTheAPI(t *testing.T) {
	tests := []struct {
		name    string
		cluster []string // specs, named a, b, c in this order
		policy  string   // one NetworkPolicy of namespace x, or none
		allow   []string
		deny    []string
	}{
		{
			"an Admin tier Deny is final: no NetworkPolicy can allow it",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `}]}`}, openX,
			[]string{"x/a > y/a TCP/80"}, []string{"y/a > x/a TCP/80"},
		},
		{
			"an Admin tier Accept is final: no NetworkPolicy can deny it",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Accept, ` + fromAll + `}]}`}, isolateX,
			[]string{"y/a > x/a TCP/80"}, []string{"x/a > y/a TCP/80", "192.0.2.1 > x/a TCP/80"},
		},
		{
			"an Admin tier Accept overrides a Baseline Deny",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Accept, ` + fromAll + `}]}`, `{tier: Baseline, priority: 0, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `}]}`}, "",
			[]string{"y/a > x/a TCP/80"}, nil,
		},
		{
			"Pass in the Admin tier leaves it to NetworkPolicies, past the tier's later rules",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: "y"}}}]}, {action: Deny, ` + fromAll + `}]}`}, openX,
			[]string{"y/a > x/a TCP/80"}, []string{"z/a > x/a TCP/80"},
		},
		{
			"Pass in the Admin tier reaches the Baseline tier where no NetworkPolicy selects the pod",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Pass, ` + fromAll + `}]}`, `{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: "y"}}}]}]}`}, "",
			[]string{"z/a > x/a TCP/80"}, []string{"y/a > x/a TCP/80"},
		},
		{
			"a NetworkPolicy always decides for the pods it selects: the Baseline tier is not asked",
			[]string{`{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Accept, ` + fromAll + `}], egress: [{action: Deny, ` + toAll + `}]}`}, `{spec: {podSelector: {matchLabels: {pod: a}}, policyTypes: [Ingress, Egress], egress: [{}]}}`,
			[]string{"x/a > y/a TCP/80", "y/a > x/b TCP/80"}, []string{"y/a > x/a TCP/80", "x/b > y/a TCP/80"},
		},
		{
			"a NetworkPolicy for ingress leaves egress to the Baseline tier",
			[]string{`{tier: Baseline, priority: 1, ` + subjectX + `, egress: [{action: Deny, ` + toAll + `}]}`}, `{spec: {ingress: [{}]}}`,
			[]string{"y/a > x/a TCP/80"}, []string{"x/a > y/a TCP/80"},
		},
		{
			"Pass in the Baseline tier leaves it to the default, which allows",
			[]string{`{tier: Baseline, priority: 1, ` + subjectX + `, ingress: [{action: Pass, from: [{namespaces: {matchLabels: {ns: "y"}}}]}, {action: Deny, ` + fromAll + `}]}`}, "",
			[]string{"y/a > x/a TCP/80"}, []string{"z/a > x/a TCP/80"},
		},
		{
			"a lower priority value has higher precedence",
			[]string{`{tier: Admin, priority: 20, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `}]}`, `{tier: Admin, priority: 10, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: "y"}}}]}]}`}, "",
			[]string{"y/a > x/a TCP/80"}, []string{"z/a > x/a TCP/80"},
		},
		{
			"within a policy the rule at the top has the highest precedence",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Accept, from: [{namespaces: {matchLabels: {ns: "y"}}}]}, {action: Deny, ` + fromAll + `}]}`}, "",
			[]string{"y/a > x/a TCP/80"}, []string{"z/a > x/a TCP/80"},
		},
		{
			"a policy without ingress rules does not affect ingress",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, ` + toAll + `}]}`}, "",
			[]string{"y/a > x/a TCP/80"}, []string{"x/a > y/a TCP/80"},
		},
		{
			"a subject by pods wants both selectors, and an empty one selects all",
			[]string{`{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {matchLabels: {ns: x}}, podSelector: {matchLabels: {pod: a}}}}, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}]}]}`}, "",
			[]string{"y/a > x/a TCP/80", "y/b > x/b TCP/80", "y/b > z/a TCP/80"}, []string{"y/b > x/a TCP/80"},
		},
		{
			"hostNetwork pods are neither subjects nor matched by pod peers",
			[]string{`{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, ` + fromAll + `}], egress: [{action: Deny, ` + toAll + `}]}`}, "",
			[]string{"z/host > x/a TCP/80", "x/a > z/host TCP/80"}, []string{"z/a > x/a TCP/80"},
		},
		{
			"networks match addresses outside and pods alike",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{networks: [192.0.2.0/24, 10.0.1.0/24, "fd00::/8"]}]}]}`}, "",
			[]string{"x/a > 198.51.100.1 TCP/80", "x/a > z/a TCP/80"}, []string{"x/a > 192.0.2.7 TCP/80", "x/a > y/a TCP/80", "x/a > fd00::9 TCP/80"},
		},
		{
			"a Pass of all pods keeps a Networks rule to the outside",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Pass, ` + toAll + `}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "",
			[]string{"x/a > y/a TCP/80"}, []string{"x/a > 192.0.2.7 TCP/80"},
		},
		{
			"nodes match the addresses of the nodes they select",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {matchLabels: {role: core}}}]}]}`}, "",
			[]string{"x/a > 172.18.0.2 TCP/80", "x/a > y/a TCP/80"}, []string{"x/a > 172.18.0.3 TCP/80", "x/a > z/host TCP/80"},
		},
		{
			"an empty nodes selector selects all nodes",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{nodes: {}}]}]}`}, "",
			[]string{"x/a > y/a TCP/80"}, []string{"x/a > 172.18.0.2 TCP/80", "x/a > 172.18.0.3 TCP/80"},
		},
		{
			"domain names match no address the engine knows",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Accept, to: [{domainNames: ["*.example.org"]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}`}, "",
			nil, []string{"x/a > 192.0.2.7 TCP/80"},
		},
		{
			"protocols limit a rule to numbers and ranges, whose ends belong to them",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 90, end: 92}}}}, {sctp: {destinationPort: {range: {start: 1, end: 65535}}}}]}]}`}, "",
			[]string{"y/a > x/a TCP/81", "y/a > x/a UDP/80", "y/a > x/a UDP/89", "y/a > x/a UDP/93"},
			[]string{"y/a > x/a TCP/80", "y/a > x/a UDP/90", "y/a > x/a UDP/92", "y/a > x/a SCTP/9"},
		},
		{
			"a destination's named port stands for its number and its protocol there",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{destinationNamedPort: http}]}]}`}, "",
			[]string{"y/a > x/a TCP/81", "y/a > x/a UDP/80"}, []string{"y/a > x/a TCP/80", "y/a > x/a UDP/81"},
		},
		{
			"both directions must agree",
			[]string{`{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Accept, ` + toAll + `}]}`, `{tier: Baseline, priority: 1, subject: {namespaces: {matchLabels: {ns: "y"}}}, ingress: [{action: Deny, ` + fromAll + `}]}`}, isolateX,
			[]string{"x/a > z/a TCP/80"}, []string{"x/a > y/a TCP/80"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var cluster []ClusterPolicy
			for i, spec := range tt.cluster {
				cluster = append(cluster, mustClusterPolicy(t, string(rune('a'+i)), spec))
			}
			var policies []Policy
			if tt.policy != "" {
				policies = []Policy{mustPolicy(t, tt.policy)}
			}
			e := mustCompile(t, threeNodes(), policies, cluster...)
			for want, queries := range map[Verdict][]string{Allow: tt.allow, Deny: tt.deny} {
				for _, q := range queries {
					if got := mustDecide(t, e, parseQuery(t, q)); got.Verdict != want {
						t.Errorf("%s: want %s, got\n%s", q, want, asYAML(t, got))
					}
				}
			}
			if diff := diffMatrix(t, e, threeNodes()); diff != "" {
				t.Errorf("the matrix: %s", diff)
			}
		})
	}
}

func TestTraceNamesTheTiersThatHadASay(t *testing.T) {
	e := mustCompile(t, threeNodes(), nil,
		mustClusterPolicy(t, "admin", `{tier: Admin, priority: 1, `+subjectX+`, ingress: [{action: Pass, `+fromAll+`}]}`),
		mustClusterPolicy(t, "base", `{tier: Baseline, priority: 1, `+subjectX+`, ingress: [{action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: b}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`))
	want := Side{
		Verdict: Deny,
		Passing: []Ref{{Policy: "admin", Tier: "Admin", Field: "spec.ingress[0].from[0].namespaces", Reason: "namespaces {} matches every namespace; protocols is missing: every port matches", File: "admin.yaml", Line: 7}},
		Denying: &Ref{
			Policy: "base", Tier: "Baseline", Field: "spec.ingress[0].from[0].pods", File: "base.yaml", Line: 7,
			Reason: "pods.namespaceSelector {} matches every namespace and podSelector pod=b matches; protocols[0] TCP/80 matches",
		},
	}
	if diff := cmp.Diff(want, mustDecide(t, e, parseQuery(t, "y/b > x/a TCP/80")).Ingress); diff != "" {
		t.Errorf("trace (-want +got):\n%s", diff)
	}
}

func TestTheNearestRuleMayBeOfAClusterNetworkPolicy(t *testing.T) {
	accept := func(peer string) string {
		return `{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Accept, to: [` + peer + `], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}`
	}
	const denyX = `{tier: Admin, priority: 5, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}}, {networks: [0.0.0.0/0]}]}]}`
	for name, tc := range map[string]struct {
		policy  string // of namespace x; or none
		cluster []string
		query   string
		field   string // after the policy's name
		reason  string // empty: there is none
	}{
		"a label of the pod, beside a default deny": {
			isolateX, []string{accept(`{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: bb}}}}`)}, "x/a > y/b TCP/80",
			"a spec.egress[0].to[0].pods.podSelector", "namespaceSelector matches, podSelector wants pod=bb, pod has pod=b; protocols[0] TCP/80 matches",
		},
		"a label of the namespace": {
			isolateX, []string{accept(`{namespaces: {matchLabels: {ns: yy, env: prod}}}`)}, "x/a > y/b TCP/80",
			"a spec.egress[0].to[0].namespaces", "namespaces wants env=prod and ns=yy, namespace has no env and ns=y; protocols[0] TCP/80 matches",
		},
		"the port": {
			isolateX, []string{accept(`{namespaces: {}}`)}, "x/a > y/b TCP/81",
			"a spec.egress[0].protocols", "namespaces {} matches every namespace; protocols wants TCP/80, the connection goes to TCP/81",
		},
		"a network": {
			isolateX, []string{accept(`{networks: [192.0.2.0/24]}`)}, "x/a > 198.51.100.1 TCP/80",
			"a spec.egress[0].to[0].networks[0]", "network 192.0.2.0/24 does not cover 198.51.100.1; protocols[0] TCP/80 matches",
		},
		"a node": {
			isolateX, []string{accept(`{nodes: {matchLabels: {role: edge}}}`)}, "x/a > 172.18.0.9 TCP/80",
			"a spec.egress[0].to[0].nodes", "nodes wants an address of a node role=edge, 172.18.0.9 is none; protocols[0] TCP/80 matches",
		},
		"a name": {
			isolateX, []string{accept(`{domainNames: [example.org]}`)}, "x/a > 172.18.0.9 TCP/80",
			"a spec.egress[0].to[0].domainNames", "domainNames are not resolved here; protocols[0] TCP/80 matches",
		},
		"a NetworkPolicy's rule that is as near": {
			`{spec: {policyTypes: [Egress], egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {pod: bb}}}], ports: [{port: 80}]}]}}`,
			[]string{accept(`{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: bb}}}}`)}, "x/a > y/b TCP/80",
			"x/np spec.egress[0].to[0].podSelector", "namespaceSelector matches, podSelector wants pod=bb, pod has pod=b; ports[0] TCP/80 matches",
		},
		"before a rule that denies": {
			"", []string{accept(`{pods: {namespaceSelector: {}, podSelector: {matchLabels: {pod: bb}}}}`), denyX}, "x/a > y/b TCP/80",
			"a spec.egress[0].to[0].pods.podSelector", "namespaceSelector matches, podSelector wants pod=bb, pod has pod=b; protocols[0] TCP/80 matches",
		},
		"behind a rule that denies": {
			"", []string{denyX, strings.Replace(accept(`{namespaces: {matchLabels: {ns: yy}}}`), "priority: 1", "priority: 9", 1)}, "x/a > y/b TCP/80", "", "",
		},
		"in front of a denial of the Baseline tier": {
			"", []string{strings.Replace(denyX, "Admin", "Baseline", 1), accept(`{namespaces: {matchLabels: {ns: yy}}}`)}, "x/a > y/b TCP/80",
			"b spec.egress[0].to[0].namespaces", "namespaces wants ns=yy, namespace has ns=y; protocols[0] TCP/80 matches",
		},
		"of another subject": {
			isolateX, []string{strings.Replace(accept(`{namespaces: {matchLabels: {ns: yy}}}`), "ns: x", "ns: z", 1)}, "x/a > y/b TCP/80", "", "",
		},
		"one that denies": {
			isolateX, []string{strings.Replace(accept(`{namespaces: {matchLabels: {ns: yy}}}`), "Accept", "Deny", 1)}, "x/a > y/b TCP/80", "", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var policies []Policy
			if tc.policy != "" {
				policies = append(policies, mustPolicy(t, tc.policy))
			}
			var cluster []ClusterPolicy
			for i, spec := range tc.cluster {
				cluster = append(cluster, mustClusterPolicy(t, string(rune('a'+i)), spec))
			}
			side := mustDecide(t, mustCompile(t, threeNodes(), policies, cluster...), parseQuery(t, tc.query)).Egress
			var got, reason string
			if side.Nearest != nil {
				got, reason = side.Nearest.Policy+" "+side.Nearest.Field, side.Nearest.Reason
			}
			if side.Verdict != Deny || got != tc.field || reason != tc.reason {
				t.Errorf("want deny, nearest %q: %q, got %s", tc.field, tc.reason, asYAML(t, side))
			}
		})
	}
}

func TestEqualPrioritiesThatDisagreeAreNoted(t *testing.T) {
	accept := `{tier: Admin, priority: 5, ` + subjectX + `, ingress: [{action: Accept, ` + fromAll + `}]}`
	deny := strings.Replace(accept, "Accept", "Deny", 1)
	for name, tt := range map[string]struct {
		second string
		noted  bool
	}{
		"another action":                         {deny, true},
		"the same action":                        {accept, false},
		"another action at another priority":     {strings.Replace(deny, "priority: 5", "priority: 6", 1), false},
		"another action in another tier":         {strings.Replace(deny, "Admin", "Baseline", 1), false},
		"another action for another destination": {strings.Replace(deny, "ns: x", "ns: z", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			e := mustCompile(t, threeNodes(), nil, mustClusterPolicy(t, "b", tt.second), mustClusterPolicy(t, "a", accept))
			d := mustDecide(t, e, parseQuery(t, "y/a > x/a TCP/80"))
			if got := slices.Contains(d.Notes, NoteEqualPriority); d.Verdict != Allow || got != tt.noted {
				t.Errorf("want allow by the first name and noted %t, got %s", tt.noted, asYAML(t, d))
			}
		})
	}
}

func TestCompileTellsEveryFaultOfAClusterNetworkPolicy(t *testing.T) {
	tests := []struct{ name, spec, want string }{
		{"a tier that is none", `{tier: Middle, priority: 1, ` + subjectX + `}`, `clusterNetworkPolicy p: spec.tier: "Middle" is not one of Admin, Baseline`},
		{"a priority out of range", `{tier: Admin, priority: 1001, ` + subjectX + `}`, `clusterNetworkPolicy p: spec.priority: 1001 is not in 0–1000`},
		{"no subject", `{tier: Admin, priority: 1}`, `clusterNetworkPolicy p: spec.subject: wants exactly one of namespaces, pods`},
		{"no peer", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny}]}`, `clusterNetworkPolicy p: spec.ingress[0].from: wants at least one peer`},
		{"an empty peer", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, from: [{}]}]}`, `clusterNetworkPolicy p: spec.ingress[0].from[0]: wants exactly one peer field, has 0`},
		{"two fields in a peer", `{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{namespaces: {}, nodes: {}}]}]}`, `clusterNetworkPolicy p: spec.egress[0].to[0]: wants exactly one peer field, has 2`},
		{"an action that is none", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Allow, ` + fromAll + `}]}`, `clusterNetworkPolicy p: spec.ingress[0].action: "Allow" is not one of Accept, Deny, Pass`},
		{"a network that is none", `{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{networks: [10.0.0.0]}]}]}`, `clusterNetworkPolicy p: spec.egress[0].to[0].networks[0]: "10.0.0.0" is not a CIDR`},
		{"names that are denied", `{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{domainNames: [example.org]}]}]}`, `clusterNetworkPolicy p: spec.egress[0].to[0].domainNames: go with action Accept only, the rule has Deny`},
		{"two protocols in one item", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{tcp: {}, udp: {}}]}]}`, `clusterNetworkPolicy p: spec.ingress[0].protocols[0]: wants exactly one of tcp, udp, sctp, destinationNamedPort`},
		{"a protocol without a port", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{udp: {}}]}]}`, `clusterNetworkPolicy p: spec.ingress[0].protocols[0].udp.destinationPort: is missing`},
		{"a port out of range", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{tcp: {destinationPort: {number: 70000}}}]}]}`, `clusterNetworkPolicy p: spec.ingress[0].protocols[0].tcp.destinationPort.number: 70000 is not in 1–65535`},
		{"a range of one", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{tcp: {destinationPort: {range: {start: 9, end: 9}}}}]}]}`, `clusterNetworkPolicy p: spec.ingress[0].protocols[0].tcp.destinationPort.range: 9–9 is not a range in 1–65535 whose start is below its end`},
		{"a port by number and range", `{tier: Admin, priority: 1, ` + subjectX + `, ingress: [{action: Deny, ` + fromAll + `, protocols: [{tcp: {destinationPort: {number: 1, range: {start: 1, end: 9}}}}]}]}`, `clusterNetworkPolicy p: spec.ingress[0].protocols[0].tcp.destinationPort: wants exactly one of number, range`},
		{"a named port of a network", `{tier: Admin, priority: 1, ` + subjectX + `, egress: [{action: Deny, to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}]}`, `clusterNetworkPolicy p: spec.egress[0].protocols[0].destinationNamedPort: "http" cannot go with spec.egress[0].to[0].networks[0], which has no named ports`},
		{"a selector that is none", `{tier: Admin, priority: 1, subject: {namespaces: {matchExpressions: [{key: a, operator: In}]}}}`, `clusterNetworkPolicy p: spec.subject.namespaces.matchExpressions[0].values: operator In wants at least one value`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Compile(threeNodes(), nil, mustClusterPolicy(t, "p", tt.spec))
			if err == nil || err.Error() != "p.yaml:7: "+tt.want {
				t.Errorf("want %q, got %v", tt.want, err)
			}
		})
	}
	twice := mustClusterPolicy(t, "p", `{tier: Admin, priority: 1, `+subjectX+`}`)
	if _, err := Compile(threeNodes(), nil, twice, twice); err == nil || err.Error() != "p.yaml:7: clusterNetworkPolicy p: is given twice" {
		t.Errorf("want the second policy of a name told, got %v", err)
	}
}
