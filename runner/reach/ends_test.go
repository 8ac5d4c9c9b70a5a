package reach

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// oneAndAnother are x/web, which listens on http=8080, x/api, which does on http=9090 and is on another node, and y/from.
func oneAndAnother() World {
	pod := func(namespace, name string, last byte, node string, ports ...Port) Pod {
		return Pod{Namespace: namespace, Name: name, Labels: map[string]string{"pod": name}, Node: node, Ports: ports, IPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 20, 0, last})}}
	}
	return World{
		Namespaces: []Namespace{{Name: "x"}, {Name: "y"}},
		Pods: []Pod{
			pod("x", "web", 1, "n1", Port{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}),
			pod("x", "api", 2, "n2", Port{Name: "http", Protocol: corev1.ProtocolTCP, Port: 9090}),
			pod("y", "from", 3, "n1"),
		},
	}
}

// probesOf are the probes of a purpose with their verdicts, as "deny 10.0.0.0>x/web:TCP/8080".
func probesOf(t testing.TB, e *Engine, why Purpose) []string {
	t.Helper()
	var out []string
	for p := range e.MinimalProbes() {
		if p.Purpose == why {
			q := p.Query
			out = append(out, fmt.Sprintf("%s %s>%s:%s/%d", mustDecide(t, e, q).Verdict, q.Source, q.Destination, q.Protocol, q.Port))
		}
	}
	return out
}

func TestBlockEdgesGoOverAPortThatTheRuleAdmits(t *testing.T) {
	const block = `[{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]`
	edges := func(ingress bool, pod, port string) []string {
		var out []string
		for _, at := range []string{"deny 9.255.255.255", "allow 10.0.0.0", "allow 10.255.255.255", "deny 11.0.0.0", "allow 10.0.255.255", "deny 10.1.0.0", "deny 10.1.255.255", "allow 10.2.0.0"} {
			var verdict, address string
			fmt.Sscan(at, &verdict, &address)
			if ingress {
				out = append(out, fmt.Sprintf("%s %s>%s:%s", verdict, address, pod, port))
			} else {
				out = append(out, fmt.Sprintf("%s %s>%s:%s", verdict, pod, address, port))
			}
		}
		return out
	}
	for name, tc := range map[string]struct {
		spec      string
		want      []string
		uncovered []Uncovered
	}{
		"a named port is the destination's number": {
			`podSelector: {matchLabels: {pod: api}}, policyTypes: [Ingress], ingress: [{from: ` + block + `, ports: [{port: http}]}]`,
			edges(true, "x/api", "TCP/9090"), nil,
		},
		"a number": {
			`podSelector: {matchLabels: {pod: api}}, policyTypes: [Ingress], ingress: [{from: ` + block + `, ports: [{port: 443, protocol: UDP}]}]`,
			edges(true, "x/api", "UDP/443"), nil,
		},
		"a port that the destination has, of a range": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Ingress], ingress: [{from: ` + block + `, ports: [{port: 8000, endPort: 8100}]}]`,
			edges(true, "x/web", "TCP/8080"), nil,
		},
		"the number beside a name, towards an address": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Egress], egress: [{to: ` + block + `, ports: [{port: http}, {port: 443}]}]`,
			edges(false, "x/web", "TCP/443"), []Uncovered{{"x/np", "spec.egress[0].ports[0]", "TCP/http: no pod that the rule is about gives a port that name"}},
		},
		"no port restricts": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Egress], egress: [{to: ` + block + `}]`,
			edges(false, "x/web", "TCP/1"), nil,
		},
		"a name alone, towards an address": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Egress], egress: [{to: ` + block + `, ports: [{port: http}]}]`,
			nil, []Uncovered{
				{"x/np", "spec.egress[0].ports[0]", "TCP/http: no pod that the rule is about gives a port that name"},
				{"x/np", "spec.egress[0].to[0]", "ports has names alone, which an address outside of the cluster gives no number"},
			},
		},
		"a name that no pod has": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Ingress], ingress: [{from: ` + block + `, ports: [{port: htpp}]}]`,
			nil, []Uncovered{
				{"x/np", "spec.ingress[0].ports[0]", "TCP/htpp: no pod that the rule is about gives a port that name"},
				{"x/np", "spec.ingress[0].from[0]", "no pod that the policy selects gives a port one of the names in ports"},
			},
		},
		"a block of a family that no pod has": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: "fd00::/64"}}]}]`,
			nil, []Uncovered{{"x/np", "spec.ingress[0].from[0]", "no pod that the policy selects has an address of IPv6"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := mustCompile(t, oneAndAnother(), []Policy{mustPolicy(t, "{spec: {"+tc.spec+"}}")})
			all := append(probesOf(t, e, ForPortBoundary), probesOf(t, e, ForBlockEdge)...) // an edge may be the end of a boundary's pair already
			for _, want := range tc.want {
				if !slices.Contains(all, want) {
					t.Errorf("want %s among\n%s", want, strings.Join(all, "\n"))
				}
			}
			for _, got := range probesOf(t, e, ForBlockEdge) {
				if !slices.Contains(tc.want, got) {
					t.Errorf("%s is given, which is no edge", got)
				}
			}
			if diff := cmp.Diff(tc.uncovered, e.Coverage().Uncovered); diff != "" {
				t.Errorf("uncovered (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNoBlockEdgeGoesFromAPodToItself(t *testing.T) {
	const rule = `policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 172.20.0.1/32}}], ports: [{port: 443}]}]}}` // the address of x/web
	e := mustCompile(t, oneAndAnother(), []Policy{mustPolicy(t, `{spec: {podSelector: {}, `+rule)})
	want := []string{"deny 172.20.0.0>x/web:TCP/443", "allow 172.20.0.1>x/api:TCP/443", "deny 172.20.0.2>x/web:TCP/443"}
	if diff := cmp.Diff(want, probesOf(t, e, ForBlockEdge)); diff != "" {
		t.Errorf("block edges (-want +got):\n%s", diff)
	}
	e = mustCompile(t, oneAndAnother(), []Policy{mustPolicy(t, `{spec: {podSelector: {matchLabels: {pod: web}}, `+rule)})
	uncovered := Uncovered{"x/np", "spec.ingress[0].from[0]", "172.20.0.1 is the address of the only pod that the policy selects"}
	if got := e.Coverage().Uncovered; !slices.Contains(got, uncovered) {
		t.Errorf("uncovered: want %+v among %+v", uncovered, got)
	}
}

func TestPortBoundariesAreProbedWhateverThePeersAre(t *testing.T) {
	for name, tc := range map[string]struct {
		spec string
		want []string
	}{
		"sources outside of the cluster": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 8080, endPort: 8090}]}]`,
			[]string{"deny 10.0.0.0>x/web:TCP/8079", "allow 10.0.0.0>x/web:TCP/8080", "allow 10.0.0.0>x/web:TCP/8090", "deny 10.0.0.0>x/web:TCP/8091"},
		},
		"destinations outside of the cluster": {
			`podSelector: {matchLabels: {pod: web}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: 443}]}]`,
			[]string{
				// 443 between the pods is the classes' witness already
				"deny x/web>x/api:TCP/442", "deny x/web>x/api:TCP/444",
				"deny x/web>192.0.2.1:TCP/442", "allow x/web>192.0.2.1:TCP/443", "deny x/web>192.0.2.1:TCP/444",
			},
		},
		"a name is each destination's number": {
			`policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: "y"}}}], ports: [{port: http}]}]`,
			[]string{
				"deny y/from>x/web:TCP/8079", "deny y/from>x/web:TCP/8081",
				"deny y/from>x/api:TCP/9089", "deny y/from>x/api:TCP/9091",
			},
		},
		"a name from outside of the cluster": {
			`podSelector: {matchLabels: {pod: api}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: http}]}]`,
			[]string{"deny 10.0.0.0>x/api:TCP/9089", "allow 10.0.0.0>x/api:TCP/9090", "deny 10.0.0.0>x/api:TCP/9091"},
		},
		"a name towards pods": {
			`podSelector: {matchLabels: {pod: api}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: web}}}], ports: [{port: http}]}]`,
			[]string{"deny x/api>x/web:TCP/8079", "deny x/api>x/web:TCP/8081"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := mustCompile(t, oneAndAnother(), []Policy{mustPolicy(t, "{spec: {"+tc.spec+"}}")})
			if diff := cmp.Diff(tc.want, probesOf(t, e, ForPortBoundary)); diff != "" {
				t.Errorf("port boundaries (-want +got):\n%s", diff)
			}
			if u := e.Coverage().Uncovered; u != nil {
				t.Errorf("uncovered: want nothing, got %+v", u)
			}
		})
	}
}

func TestAHostNetworkSourceOnTheDestinationsNodeStandsForNoBoundary(t *testing.T) {
	w := oneAndAnother()
	w.Pods = append(w.Pods, Pod{Namespace: "y", Name: "host", HostNetwork: true, Node: "n1", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}})
	e := mustCompile(t, w, []Policy{mustPolicy(t, `{spec: {podSelector: {matchLabels: {pod: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.9/32}}], ports: [{port: 443}]}]}}`)})
	// The node's address is no pod's own, so it stands for the outside.
	want := []string{"deny 10.0.0.9>x/web:TCP/442", "allow 10.0.0.9>x/web:TCP/443", "deny 10.0.0.9>x/web:TCP/444"}
	if diff := cmp.Diff(want, probesOf(t, e, ForPortBoundary)); diff != "" {
		t.Errorf("port boundaries (-want +got):\n%s", diff)
	}
}

func TestProbesOfTwoFamiliesAreToldApart(t *testing.T) {
	w := oneAndAnother()
	for i := range w.Pods {
		w.Pods[i].IPs = append(w.Pods[i].IPs, netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i + 1)}))
	}
	single := mustCompile(t, oneAndAnother(), nil).Coverage()
	e := mustCompile(t, w, []Policy{mustPolicy(t, `{spec: {podSelector: {matchLabels: {pod: web}}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: "::/0"}}], ports: [{port: 80}]}]}}`)})
	var got []string
	for p := range e.MinimalProbes() {
		if q := p.Query; q.Source.String() == "y/from" && q.Destination.String() == "x/web" && q.Protocol == corev1.ProtocolTCP && p.Purpose != ForBlockEdge {
			got = append(got, fmt.Sprintf("%s %d %s %s", mustDecide(t, e, q).Verdict, q.Port, p.Family, p.Purpose))
		}
	}
	want := []string{"deny 8080 IPv4 classes", "deny 8080 IPv6 classes", "deny 80 IPv4 classes", "allow 80 IPv6 classes"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("probes (-want +got):\n%s", diff)
	}
	if c := e.Coverage(); c.Stands != 2*single.Stands || c.SameNode+c.CrossNode < c.Combinations {
		t.Errorf("want twice %d connections stood for and every combination witnessed, got %+v", single.Stands, c)
	}
	for p := range e.MinimalProbes() {
		for _, end := range []Endpoint{p.Query.Source, p.Query.Destination} {
			if p.Family == FirstAddress || end.Addr.Is4() != (p.Family == IPv4) {
				t.Errorf("%s>%s over %s has an end at %s", p.Query.Source, p.Query.Destination, p.Family, end.Addr)
			}
		}
	}
}

func TestPodsWithoutACommonFamilyAreNoCombination(t *testing.T) {
	w := oneAndAnother()
	w.Pods = w.Pods[:2]
	w.Pods[1].IPs = []netip.Addr{netip.MustParseAddr("fd00::2")}
	e := mustCompile(t, w, nil)
	if got := slices.Collect(e.MinimalProbes()); len(got) > 0 {
		t.Errorf("probes: want none, got %+v", got)
	}
	if c := e.Coverage(); c.Stands != 0 || c.Combinations != 0 {
		t.Errorf("want nothing stood for, got %+v", c)
	}
}
