package reach

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

// threeByThree is x, y, z with pods a, b, c, labelled as the catalogue's world of that name.
func threeByThree() World {
	var w World
	for i, ns := range []string{"x", "y", "z"} {
		w.Namespaces = append(w.Namespaces, Namespace{Name: ns, Labels: map[string]string{"ns": ns}})
		for j, name := range []string{"a", "b", "c"} {
			w.Pods = append(w.Pods, Pod{
				Namespace: ns, Name: name, Labels: map[string]string{"pod": name}, Node: "n1",
				IPs:   []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j + 1)})},
				Ports: []Port{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "http", Protocol: corev1.ProtocolUDP, Port: 81}},
			})
		}
	}
	return w
}

func mustPolicy(t testing.TB, text string) Policy {
	t.Helper()
	var p networkingv1.NetworkPolicy
	if err := yaml.UnmarshalStrict([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	if p.Name == "" {
		p.Name, p.Namespace = "np", "x"
	}
	return Policy{Spec: p, File: "np.yaml", Line: 3}
}

// parseQuery reads "y/b > x/a TCP/80"; an end without a slash is an address.
func parseQuery(t testing.TB, s string) Query {
	t.Helper()
	end := func(s string) Endpoint {
		if namespace, pod, is := strings.Cut(s, "/"); is {
			return Endpoint{Namespace: namespace, Pod: pod}
		}
		return Endpoint{Addr: netip.MustParseAddr(s)}
	}
	words := strings.Fields(s)
	protocol, number, _ := strings.Cut(words[3], "/")
	port := netip.MustParseAddrPort("0.0.0.0:" + number).Port()
	return Query{Source: end(words[0]), Destination: end(words[2]), Protocol: corev1.Protocol(protocol), Port: port}
}

func TestDecideFollowsTheAPI(t *testing.T) {
	tests := []struct {
		name   string
		policy string
		allow  []string
		deny   []string
	}{
		{
			"a policy without types isolates for ingress only", `{spec: {podSelector: {}}}`,
			[]string{"x/a > y/a TCP/80", "x/a > 192.0.2.1 TCP/80", "y/a > z/a TCP/80"},
			[]string{"y/a > x/a TCP/80", "x/b > x/a TCP/80", "192.0.2.1 > x/a TCP/80"},
		},
		{
			"a policy without types but with an egress rule isolates both ways", `{spec: {egress: [{}]}}`,
			[]string{"x/a > y/a TCP/80"},
			[]string{"y/a > x/a TCP/80"},
		},
		{
			"an empty list of egress rules does not imply the type", `{spec: {egress: []}}`,
			[]string{"x/a > y/a TCP/80"},
			[]string{"y/a > x/a TCP/80"},
		},
		{
			"a pod reaches itself under any policy", `{spec: {policyTypes: [Ingress, Egress]}}`,
			[]string{"x/a > x/a TCP/80", "10.0.0.1 > x/a TCP/80"},
			[]string{"x/a > x/b TCP/80"},
		},
		{
			"a rule with neither from nor ports admits everything", `{spec: {ingress: [{}]}}`,
			[]string{"y/a > x/a TCP/80", "192.0.2.1 > x/a SCTP/9"},
			nil,
		},
		{
			"empty lists of from and ports admit everything too", `{spec: {ingress: [{from: [], ports: []}]}}`,
			[]string{"y/a > x/a TCP/80"},
			nil,
		},
		{
			"a podSelector alone means the policy's own namespace", `{spec: {ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}}`,
			[]string{"x/b > x/a TCP/80"},
			[]string{"y/b > x/a TCP/80", "x/c > x/a TCP/80", "192.0.2.1 > x/a TCP/80"},
		},
		{
			"an empty podSelector alone means all of the policy's own namespace", `{spec: {ingress: [{from: [{podSelector: {}}]}]}}`,
			[]string{"x/b > x/a TCP/80"},
			[]string{"y/b > x/a TCP/80"},
		},
		{
			"an empty namespaceSelector means every pod of every namespace but no outside address", `{spec: {ingress: [{from: [{namespaceSelector: {}}]}]}}`,
			[]string{"x/b > x/a TCP/80", "z/c > x/a TCP/80"},
			[]string{"192.0.2.1 > x/a TCP/80"},
		},
		{
			"both selectors in one item must match", `{spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: b}}}]}]}}`,
			[]string{"y/b > x/a TCP/80"},
			[]string{"y/a > x/a TCP/80", "x/b > x/a TCP/80", "z/b > x/a TCP/80"},
		},
		{
			"the name of a namespace is a label", `{spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]}}`,
			[]string{"z/a > x/a TCP/80"},
			[]string{"y/a > x/a TCP/80"},
		},
		{
			"an ipBlock admits what it covers and takes out what it excepts", `{spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.1.0/24, except: [10.0.1.2/32]}}]}]}}`,
			[]string{"y/a > x/a TCP/80", "10.0.1.77 > x/a TCP/80", "y/c > x/a TCP/80"},
			[]string{"y/b > x/a TCP/80", "10.0.1.2 > x/a TCP/80", "z/a > x/a TCP/80"},
		},
		{
			"an IPv6 block covers IPv6 addresses only", `{spec: {ingress: [{from: [{ipBlock: {cidr: "::/0"}}]}]}}`,
			[]string{"2001:db8::1 > x/a TCP/80"},
			[]string{"y/a > x/a TCP/80", "192.0.2.1 > x/a TCP/80"},
		},
		{
			"an outside destination is judged by egress alone", `{spec: {policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 192.0.2.0/24}}]}]}}`,
			[]string{"x/a > 192.0.2.1 TCP/443", "x/a > ::ffff:192.0.2.1 TCP/443"},
			[]string{"x/a > 198.51.100.1 TCP/443", "x/a > y/a TCP/80"},
		},
		{
			"a port without protocol is TCP", `{spec: {ingress: [{ports: [{port: 80}]}]}}`,
			[]string{"y/a > x/a TCP/80"},
			[]string{"y/a > x/a UDP/80", "y/a > x/a SCTP/80", "y/a > x/a TCP/81"},
		},
		{
			"a protocol without port is all of its ports", `{spec: {ingress: [{ports: [{protocol: UDP}]}]}}`,
			[]string{"y/a > x/a UDP/1", "y/a > x/a UDP/65535"},
			[]string{"y/a > x/a TCP/80"},
		},
		{
			"endPort is part of the range", `{spec: {ingress: [{ports: [{port: 80, endPort: 82}]}]}}`,
			[]string{"y/a > x/a TCP/80", "y/a > x/a TCP/82"},
			[]string{"y/a > x/a TCP/79", "y/a > x/a TCP/83"},
		},
		{
			"a named port is resolved per protocol at the destination of ingress", `{spec: {ingress: [{ports: [{port: http}, {port: http, protocol: UDP}]}]}}`,
			[]string{"y/a > x/a TCP/80", "y/a > x/a UDP/81"},
			[]string{"y/a > x/a TCP/81", "y/a > x/a UDP/80"},
		},
		{
			"a named port is resolved at the destination of egress, and an outside address has none", `{spec: {policyTypes: [Egress], egress: [{ports: [{port: http}]}]}}`,
			[]string{"x/a > y/a TCP/80"},
			[]string{"x/a > y/a TCP/81", "x/a > 192.0.2.1 TCP/80"},
		},
		{
			"from and ports of one rule belong together", `{spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 81}]}]}}`,
			[]string{"y/a > x/a TCP/80", "z/a > x/a TCP/81"},
			[]string{"y/a > x/a TCP/81", "z/a > x/a TCP/80"},
		},
		{
			"a policy in a namespace without pods changes nothing", `{metadata: {name: np, namespace: elsewhere}, spec: {}}`,
			[]string{"y/a > x/a TCP/80"},
			nil,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := mustCompile(t, threeByThree(), []Policy{mustPolicy(t, test.policy)})
			for want, queries := range map[Verdict][]string{Allow: test.allow, Deny: test.deny} {
				for _, q := range queries {
					if got := mustDecide(t, e, parseQuery(t, q)); got.Verdict != want {
						t.Errorf("%s: want %s, got\n%s", q, want, asYAML(t, got))
					}
				}
			}
		})
	}
}

func TestTraceNamesPolicyFieldAndReason(t *testing.T) {
	tests := []struct {
		name, policy, query, side  string
		verdict                    Verdict
		isolating, field, explains string
	}{
		{
			"the peer that allowed", `{spec: {ingress: [{from: [{podSelector: {matchLabels: {pod: z}}}, {namespaceSelector: {}}]}]}}`, "y/a > x/a TCP/80", "ingress",
			Allow, "podSelector {} selects every pod of namespace x", "spec.ingress[0].from[1]",
			"namespaceSelector {} matches every namespace, no podSelector: every pod there matches; ports is missing: every port matches",
		},
		{
			"the rule that allowed by an empty list", `{spec: {ingress: [{from: [], ports: [{port: 80}]}]}}`, "y/a > x/a TCP/80", "ingress",
			Allow, "podSelector {} selects every pod of namespace x", "spec.ingress[0]",
			"from is empty: every source matches; ports[0] TCP/80 matches",
		},
		{
			"the pod label that was missed", `{spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: bb}}}]}]}}`, "y/b > x/a TCP/80", "ingress",
			Deny, "podSelector pod=a matches the pod", "spec.ingress[0].from[0].podSelector",
			"namespaceSelector matches, podSelector wants pod=bb, pod has pod=b; ports is missing: every port matches",
		},
		{
			"every label that was missed", `{spec: {podSelector: {matchLabels: {pod: a}}, ingress: [{from: [{podSelector: {matchLabels: {pod: bb, tier: web}, matchExpressions: [{key: pod, operator: Exists}, {key: pod, operator: NotIn, values: [b]}]}}]}]}}`, "x/b > x/a TCP/80", "ingress",
			Deny, "podSelector pod=a matches the pod", "spec.ingress[0].from[0].podSelector",
			"podSelector wants pod=bb and tier=web and pod notin (b), pod has pod=b and no tier; ports is missing: every port matches",
		},
		{
			"the namespace label that is not there", `{spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {team: pay}}}]}]}}`, "y/b > x/a TCP/80", "ingress",
			Deny, "podSelector {} selects every pod of namespace x", "spec.ingress[0].from[0].namespaceSelector",
			"namespaceSelector wants team=pay, namespace has no team; ports is missing: every port matches",
		},
		{
			"the namespace that a podSelector alone does not leave", `{spec: {ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]}}`, "y/b > x/a TCP/80", "ingress",
			Deny, "podSelector {} selects every pod of namespace x", "spec.ingress[0].from[0]",
			"without namespaceSelector only pods of x match, the pod is in y, podSelector matches; ports is missing: every port matches",
		},
		{
			"the port, when the peer matched", `{spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {ns: q}}}], ports: [{port: 81}]}, {ports: [{port: http, protocol: UDP}, {port: 90, endPort: 99}]}]}}`, "y/b > x/a UDP/80", "ingress",
			Deny, "podSelector {} selects every pod of namespace x", "spec.ingress[1].ports",
			"every source matches; ports wants UDP/http (TCP/80 at the pod) or TCP/90-99, the connection goes to UDP/80",
		},
		{
			"the except that took the address out", `{spec: {policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.9.0.0/16, 10.0.1.0/24]}}]}]}}`, "x/a > y/b TCP/80", "egress",
			Deny, "podSelector {} selects every pod of namespace x", "spec.egress[0].to[0].ipBlock.except[1]",
			"ipBlock 10.0.0.0/8 covers 10.0.1.2, except 10.0.1.0/24 takes it out; ports is missing: every port matches",
		},
		{
			"the first of rules that are equally near", `{spec: {ingress: [{from: [{podSelector: {matchLabels: {pod: q}}}]}, {from: [{podSelector: {matchLabels: {pod: r}}}]}]}}`, "x/b > x/a TCP/80", "ingress",
			Deny, "podSelector {} selects every pod of namespace x", "spec.ingress[0].from[0].podSelector",
			"podSelector wants pod=q, pod has pod=b; ports is missing: every port matches",
		},
		{
			"no rule at all", `{spec: {policyTypes: [Egress]}}`, "x/a > y/b TCP/80", "egress",
			Deny, "podSelector {} selects every pod of namespace x; no egress rule", "", "",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := mustCompile(t, threeByThree(), []Policy{mustPolicy(t, test.policy)})
			d := mustDecide(t, e, parseQuery(t, test.query))
			got := d.Ingress
			if test.side == "egress" {
				got = d.Egress
			}
			ref := func(field, reason string) *Ref {
				if field == "" {
					return nil
				}
				return &Ref{Policy: "x/np", Field: field, Reason: reason, File: "np.yaml", Line: 3}
			}
			want := Side{Verdict: test.verdict, Isolating: []Ref{*ref("spec.podSelector", test.isolating)}}
			if test.verdict == Allow {
				want.Allowing = ref(test.field, test.explains)
			} else {
				want.Nearest = ref(test.field, test.explains)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("trace differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamedPortThatOnlyAnotherProtocolHasIsNotMatched(t *testing.T) {
	w := threeByThree()
	w.Pods[0].Ports = []Port{{Name: "http", Protocol: corev1.ProtocolUDP, Port: 80}}
	e := mustCompile(t, w, []Policy{mustPolicy(t, `{spec: {ingress: [{ports: [{port: http}]}]}}`)})
	if got := mustDecide(t, e, parseQuery(t, "y/a > x/a TCP/80")); got.Verdict != Deny {
		t.Errorf("want deny, got\n%s", asYAML(t, got))
	}
}

func TestNotesNameWhatTheAPILeavesOpen(t *testing.T) {
	w := threeByThree()
	w.Pods[1].HostNetwork = true // x/b, on n1
	w.Pods[1].IPs = []netip.Addr{netip.MustParseAddr("172.18.0.2")}
	w.Pods[2].Node = "n2"                                                             // x/c
	w.Pods[3].IPs = []netip.Addr{netip.MustParseAddr("::ffff:10.0.1.1")}              // y/a, its IPv4 address in IPv6 form
	w.Pods[6].HostNetwork, w.Pods[6].Node = true, ""                                  // z/a
	w.Pods[6].IPs, w.Pods[7].IPs = nil, []netip.Addr{netip.MustParseAddr("10.0.2.2")} // z/a, z/b
	w.Pods[7].Node = ""
	policies := []Policy{mustPolicy(t, `{metadata: {name: deny, namespace: z}, spec: {}}`), mustPolicy(t, `{spec: {policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: {cidr: 10.0.1.0/24}}]}], egress: [{to: [{podSelector: {}}]}]}}`)}
	tests := []struct {
		name, query string
		verdict     Verdict
		notes       []string
	}{
		{"a pod to itself", "x/a > x/a TCP/80", Allow, []string{NoteSelfTraffic}},
		{"an ipBlock that covers a pod", "y/a > x/a TCP/80", Allow, []string{NoteIPBlockPod}},
		{"an ipBlock that covers an outside address needs no note", "10.0.1.99 > x/a TCP/80", Allow, nil},
		{"no selector matches a hostNetwork pod", "x/a > x/b TCP/80", Deny, []string{NoteHostNetwork}},
		{"no policy selects a hostNetwork pod, and its own node may reach a pod", "x/b > x/a TCP/80", Allow, []string{NoteHostNetwork, NoteLocalNode}},
		{"two unknown nodes are not the same node", "z/a > z/b TCP/80", Deny, []string{NoteHostNetwork}},
		{"a hostNetwork pod of another node is judged by its address", "x/b > x/c TCP/80", Deny, []string{NoteHostNetwork}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := mustDecide(t, mustCompile(t, w, policies), parseQuery(t, test.query))
			if got.Verdict != test.verdict {
				t.Errorf("want %s, got %s", test.verdict, got.Verdict)
			}
			if diff := cmp.Diff(test.notes, got.Notes); diff != "" {
				t.Errorf("notes differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheAddressOfAQueryDecidesAboutBlocksAndThePodAboutSelectors(t *testing.T) {
	w := threeByThree()
	w.Pods[3].IPs = append(w.Pods[3].IPs, netip.MustParseAddr("fd00::3")) // y/a is dual-stack
	e := mustCompile(t, w, []Policy{mustPolicy(t, `{spec: {ingress: [{from: [{ipBlock: {cidr: "fd00::/64"}}]}]}}`)})
	q := parseQuery(t, "y/a > x/a TCP/80")
	if got := mustDecide(t, e, q); got.Verdict != Deny {
		t.Errorf("by its first address: want deny, got %s", got.Verdict)
	}
	q.Source.Addr = netip.MustParseAddr("fd00::3")
	if got := mustDecide(t, e, q); got.Verdict != Allow {
		t.Errorf("by its second address: want allow, got %s", got.Verdict)
	}
}

func TestQueriesThatMeanNothingAreErrors(t *testing.T) {
	e := mustCompile(t, threeByThree(), nil)
	good := parseQuery(t, "x/a > y/a TCP/80")
	tests := []struct {
		name   string
		change func(*Query)
		want   string
	}{
		{"an unknown source", func(q *Query) { q.Source.Pod = "nobody" }, "deciding x/nobody to y/a TCP/80: finding pod x/nobody: the world has no such pod"},
		{"port zero", func(q *Query) { q.Port = 0 }, "deciding x/a to y/a TCP/0: port 0 is no destination port"},
		{"another protocol", func(q *Query) { q.Protocol = "ICMP" }, `deciding x/a to y/a ICMP/80: protocol "ICMP" is not one of TCP, UDP, SCTP`},
		{"no pod at either end", func(q *Query) {
			q.Source, q.Destination = Endpoint{Addr: netip.MustParseAddr("192.0.2.1")}, Endpoint{Addr: netip.MustParseAddr("192.0.2.2")}
		}, "deciding 192.0.2.1 to 192.0.2.2 TCP/80: neither end is a pod of the world"},
		{"an end without name and address", func(q *Query) { q.Destination = Endpoint{} }, "deciding x/a to invalid IP TCP/80: an endpoint names neither a pod nor an address"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := good
			test.change(&q)
			_, err := e.Decide(q)
			if err == nil || err.Error() != test.want {
				t.Errorf("want error %q, got %v", test.want, err)
			}
		})
	}
	q := good
	q.Source.Pod = "nobody"
	if _, err := e.Decide(q); !errors.Is(err, ErrUnknownPod) {
		t.Errorf("want ErrUnknownPod, got %v", err)
	}
}

func TestCompileTellsEveryFaultAtOnce(t *testing.T) {
	w := threeByThree()
	w.Pods = append(w.Pods, Pod{Namespace: "q", Name: "a"}, w.Pods[0])
	w.Namespaces = append(w.Namespaces, Namespace{Name: "z"})
	policies := []Policy{
		mustPolicy(t, `
spec:
  podSelector: {matchExpressions: [{key: pod, operator: Is}]}
  policyTypes: [Ingres]
  ingress:
  - from:
    - {}
    - ipBlock: {cidr: 10.0.0.0/33, except: [ten]}
    - {ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}
    - namespaceSelector: {matchExpressions: [{key: ns, operator: In}]}
    - podSelector: {matchExpressions: [{key: ns, operator: Exists, values: [x]}]}
    ports:
    - {port: 70000}
    - {port: 80, endPort: 79}
    - {port: http, endPort: 79}
    - {endPort: 79}
    - {port: 80, protocol: ICMP}
`),
		mustPolicy(t, `{spec: {}}`),
	}
	want := `namespace "z": is given twice
pod q/a: the world has no namespace "q"
pod x/a: is given twice
np.yaml:3: policy x/np: spec.podSelector.matchExpressions[0].operator: "Is" is not one of In, NotIn, Exists, DoesNotExist
np.yaml:3: policy x/np: spec.policyTypes[0]: "Ingres" is not one of Ingress, Egress
np.yaml:3: policy x/np: spec.ingress[0].from[0]: has none of podSelector, namespaceSelector, ipBlock
np.yaml:3: policy x/np: spec.ingress[0].from[1].ipBlock.cidr: "10.0.0.0/33" is not a CIDR
np.yaml:3: policy x/np: spec.ingress[0].from[1].ipBlock.except[0]: "ten" is not a CIDR
np.yaml:3: policy x/np: spec.ingress[0].from[2]: ipBlock goes with no selector
np.yaml:3: policy x/np: spec.ingress[0].from[3].namespaceSelector.matchExpressions[0].values: operator In wants at least one value
np.yaml:3: policy x/np: spec.ingress[0].from[4].podSelector.matchExpressions[0].values: operator Exists takes no value, has ["x"]
np.yaml:3: policy x/np: spec.ingress[0].ports[0].port: 70000 is not in 1–65535
np.yaml:3: policy x/np: spec.ingress[0].ports[1].endPort: 79 is not in 80–65535
np.yaml:3: policy x/np: spec.ingress[0].ports[2].endPort: 79 does not go with the named port "http"
np.yaml:3: policy x/np: spec.ingress[0].ports[3].endPort: 79 has no port to start from
np.yaml:3: policy x/np: spec.ingress[0].ports[4].protocol: "ICMP" is not one of TCP, UDP, SCTP
np.yaml:3: policy x/np: is given twice`
	_, err := Compile(w, policies)
	if err == nil {
		t.Fatal("want an error, got none")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("faults differ (-want +got):\n%s", diff)
	}
}

func TestVerdictTextIsReadBack(t *testing.T) {
	for _, v := range []Verdict{Unknown, Allow, Deny} {
		text, err := v.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Verdict
		if err := got.UnmarshalText(text); err != nil || got != v {
			t.Errorf("%s: want it back, got %s, %v", v, got, err)
		}
	}
	if _, err := Verdict(9).MarshalText(); err == nil {
		t.Error("want an error for a verdict without a name")
	}
	if err := new(Verdict).UnmarshalText([]byte("open")); err == nil {
		t.Error(`want an error for "open"`)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add(`{spec: {ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: http, protocol: UDP}]}]}}`, "x", "a", "10.0.0.1", "TCP", uint16(80))
	f.Add(`{spec: {podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a]}]}, policyTypes: [Egress]}}`, "", "", "::1", "UDP", uint16(0))
	w := threeByThree()
	f.Fuzz(func(t *testing.T, policy, namespace, pod, address, protocol string, port uint16) {
		var p networkingv1.NetworkPolicy
		if yaml.Unmarshal([]byte(policy), &p) != nil {
			t.Skip("not a policy")
		}
		if p.Namespace == "" {
			p.Namespace = "x"
		}
		e, err := Compile(w, []Policy{{Spec: p}})
		if err != nil {
			return
		}
		addr, _ := netip.ParseAddr(address) // the invalid address is an input too
		other := Endpoint{Namespace: namespace, Pod: pod, Addr: addr}
		for _, own := range []Endpoint{{Namespace: "x", Pod: "a"}, {Namespace: "y", Pod: "b"}} {
			for _, q := range []Query{{own, other, corev1.Protocol(protocol), port}, {other, own, corev1.Protocol(protocol), port}} {
				d, err := e.Decide(q)
				if err == nil && d.Verdict == Unknown {
					t.Fatalf("%v: a decision without a verdict", q)
				}
			}
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	w := threeByThree()
	e := mustCompile(b, w, []Policy{
		mustPolicy(b, `{metadata: {name: deny, namespace: x}, spec: {}}`),
		mustPolicy(b, `{metadata: {name: allow, namespace: x}, spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}]}]}}`),
	})
	q := parseQuery(b, "y/b > x/a TCP/80")
	b.ReportAllocs()
	for b.Loop() {
		mustDecide(b, e, q)
	}
}
