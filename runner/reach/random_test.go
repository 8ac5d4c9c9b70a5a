package reach

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the random worlds; 0 takes one from the clock, which is printed")

func newRandom(t testing.TB) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -args -seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// generator makes small worlds out of few words, so that selectors often match and often just miss.
type generator struct{ *rand.Rand }

func (g generator) oneOf(words ...string) string { return words[g.IntN(len(words))] }
func (g generator) chance(percent int) bool      { return g.IntN(100) < percent }

func (g generator) labels() map[string]string {
	out := map[string]string{}
	for _, key := range []string{"app", "tier", "team"} {
		if g.chance(60) {
			out[key] = g.oneOf("a", "b", "c")
		}
	}
	return out
}

func (g generator) selector() metav1.LabelSelector {
	var s metav1.LabelSelector
	if g.chance(40) {
		s.MatchLabels = map[string]string{g.oneOf("app", "tier", "team"): g.oneOf("a", "b", "c")}
	}
	for range g.IntN(3) {
		r := metav1.LabelSelectorRequirement{Key: g.oneOf("app", "tier", "team", "none")}
		switch g.IntN(4) {
		case 0:
			r.Operator, r.Values = metav1.LabelSelectorOpIn, []string{g.oneOf("a", "b"), g.oneOf("b", "c")}
		case 1:
			r.Operator, r.Values = metav1.LabelSelectorOpNotIn, []string{g.oneOf("a", "b"), g.oneOf("b", "c")}
		case 2:
			r.Operator = metav1.LabelSelectorOpExists
		default:
			r.Operator = metav1.LabelSelectorOpDoesNotExist
		}
		s.MatchExpressions = append(s.MatchExpressions, r)
	}
	return s
}

func (g generator) protocol() corev1.Protocol {
	return corev1.Protocol(g.oneOf("TCP", "UDP", "SCTP"))
}

func (g generator) peers() []networkingv1.NetworkPolicyPeer {
	if g.chance(20) {
		return nil
	}
	out := []networkingv1.NetworkPolicyPeer{}
	for range g.IntN(4) {
		var p networkingv1.NetworkPolicyPeer
		pods, namespaces := g.selector(), g.selector()
		switch g.IntN(5) {
		case 0:
			p.PodSelector = &pods
		case 1:
			p.NamespaceSelector = &namespaces
		case 2:
			p.PodSelector, p.NamespaceSelector = &pods, &namespaces
		case 3:
			p.IPBlock = &networkingv1.IPBlock{CIDR: "10.0.0.0/16", Except: []string{g.oneOf("10.0.0.0/30", "10.0.1.0/24", "10.0.0.4/31")}}
		default:
			p.IPBlock = &networkingv1.IPBlock{CIDR: g.oneOf("10.0.0.0/29", "fd00::/64", "::/0", "10.0.1.1/32")}
		}
		out = append(out, p)
	}
	return out
}

func (g generator) ports() []networkingv1.NetworkPolicyPort {
	if g.chance(30) {
		return nil
	}
	out := []networkingv1.NetworkPolicyPort{}
	for range g.IntN(3) {
		var p networkingv1.NetworkPolicyPort
		if g.chance(70) {
			protocol := g.protocol()
			p.Protocol = &protocol
		}
		switch g.IntN(4) {
		case 0:
		case 1:
			p.Port = new(intstr.FromString(g.oneOf("http", "dns")))
		case 2:
			p.Port = new(intstr.FromInt32(80 + g.Int32N(3)))
		default:
			p.Port = new(intstr.FromInt32(80 + g.Int32N(2)))
			p.EndPort = new(p.Port.IntVal + g.Int32N(3))
		}
		out = append(out, p)
	}
	return out
}

func (g generator) world() World {
	var w World
	names := []string{"x", "y", "z"}
	for _, name := range names {
		w.Namespaces = append(w.Namespaces, Namespace{Name: name, Labels: g.labels()})
	}
	for i, name := range []string{"n1", "n2"} {
		w.Nodes = append(w.Nodes, Node{Name: name, Labels: g.labels(), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
	}
	count := 2 + g.IntN(8)
	if g.chance(5) {
		count = wordBits + g.IntN(2*wordBits) // more pods than one word of a bitset holds
	}
	for i := range count {
		pod := Pod{Namespace: names[g.IntN(len(names))], Name: fmt.Sprintf("p%d", i), Labels: g.labels(), Node: g.oneOf("n1", "n2"), HostNetwork: g.chance(10)}
		v4, v6 := netip.AddrFrom4([4]byte{10, 0, byte(g.IntN(2)), byte(i)}), netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)})
		pod.IPs = [][]netip.Addr{{v4}, {v4}, {v6}, {v4, v6}, {v6, v4}}[g.IntN(5)]
		for _, name := range []string{"http", "dns"} {
			if g.chance(50) {
				pod.Ports = append(pod.Ports, Port{Name: name, Protocol: g.protocol(), Port: uint16(80 + g.IntN(3))})
			}
		}
		w.Pods = append(w.Pods, pod)
	}
	return w
}

func (g generator) policy(name string) Policy {
	var p networkingv1.NetworkPolicy
	p.Namespace, p.Name = g.oneOf("x", "y", "z"), name
	p.Spec.PodSelector = g.selector()
	for range g.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: g.peers(), Ports: g.ports()})
	}
	for range g.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: g.peers(), Ports: g.ports()})
	}
	if g.chance(60) {
		types := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
		p.Spec.PolicyTypes = [][]networkingv1.PolicyType{types[:1], types[1:], types}[g.IntN(3)]
	}
	return Policy{Spec: p}
}

func (g generator) policies() []Policy {
	var out []Policy
	for i := range g.IntN(5) {
		out = append(out, g.policy(fmt.Sprintf("np%d", i)))
	}
	return out
}

func (g generator) clusterPolicies() []ClusterPolicy {
	var out []ClusterPolicy
	for i := range g.IntN(5) {
		var p npav1alpha2.ClusterNetworkPolicy
		p.Name = fmt.Sprintf("cnp%d", i)
		p.Spec.Tier = npav1alpha2.Tier(g.oneOf("Admin", "Admin", "Baseline"))
		p.Spec.Priority = g.Int32N(3)
		namespaces, pods := g.selector(), g.selector()
		if g.chance(50) {
			p.Spec.Subject.Namespaces = &namespaces
		} else {
			p.Spec.Subject.Pods = &npav1alpha2.NamespacedPod{PodSelector: pods}
		}
		for range g.IntN(4) {
			p.Spec.Ingress = append(p.Spec.Ingress, npav1alpha2.ClusterNetworkPolicyIngressRule{Action: g.action(), From: g.clusterSources(), Protocols: g.clusterProtocols(true)})
		}
		for range g.IntN(4) {
			r := npav1alpha2.ClusterNetworkPolicyEgressRule{Action: g.action()}
			named := true
			for _, s := range g.clusterSources() {
				peer := npav1alpha2.ClusterNetworkPolicyEgressPeer{Namespaces: s.Namespaces, Pods: s.Pods}
				switch g.IntN(6) {
				case 0:
					nodes := g.selector()
					peer = npav1alpha2.ClusterNetworkPolicyEgressPeer{Nodes: &nodes}
					named = false
				case 1:
					peer = npav1alpha2.ClusterNetworkPolicyEgressPeer{Networks: []npav1alpha2.CIDR{"10.0.0.0/29", npav1alpha2.CIDR(g.oneOf("fd00::/64", "::/0", "10.0.1.1/32", "0.0.0.0/0"))}}
					named = false
				}
				r.To = append(r.To, peer)
			}
			r.Protocols = g.clusterProtocols(named)
			p.Spec.Egress = append(p.Spec.Egress, r)
		}
		out = append(out, ClusterPolicy{Spec: p})
	}
	return out
}

func (g generator) action() npav1alpha2.ClusterNetworkPolicyRuleAction {
	return npav1alpha2.ClusterNetworkPolicyRuleAction(g.oneOf("Accept", "Deny", "Pass"))
}

func (g generator) clusterSources() []npav1alpha2.ClusterNetworkPolicyIngressPeer {
	var out []npav1alpha2.ClusterNetworkPolicyIngressPeer
	for range 1 + g.IntN(2) {
		namespaces, pods := g.selector(), g.selector()
		if g.chance(50) {
			out = append(out, npav1alpha2.ClusterNetworkPolicyIngressPeer{Namespaces: &namespaces})
		} else {
			out = append(out, npav1alpha2.ClusterNetworkPolicyIngressPeer{Pods: &npav1alpha2.NamespacedPod{NamespaceSelector: namespaces, PodSelector: pods}})
		}
	}
	return out
}

// clusterProtocols are nil, or one or two matches; named ports only where named is set.
func (g generator) clusterProtocols(named bool) []npav1alpha2.ClusterNetworkPolicyProtocol {
	var out []npav1alpha2.ClusterNetworkPolicyProtocol
	for range g.IntN(3) {
		if named && g.chance(30) {
			out = append(out, npav1alpha2.ClusterNetworkPolicyProtocol{DestinationNamedPort: g.oneOf("http", "dns")})
			continue
		}
		port := &npav1alpha2.Port{Number: 80 + g.Int32N(3)}
		if g.chance(40) {
			port = &npav1alpha2.Port{Range: &npav1alpha2.PortRange{Start: 80, End: 81 + g.Int32N(2)}}
		}
		switch g.protocol() {
		case corev1.ProtocolTCP:
			out = append(out, npav1alpha2.ClusterNetworkPolicyProtocol{TCP: &npav1alpha2.ClusterNetworkPolicyProtocolTCP{DestinationPort: port}})
		case corev1.ProtocolUDP:
			out = append(out, npav1alpha2.ClusterNetworkPolicyProtocol{UDP: &npav1alpha2.ClusterNetworkPolicyProtocolUDP{DestinationPort: port}})
		default:
			out = append(out, npav1alpha2.ClusterNetworkPolicyProtocol{SCTP: &npav1alpha2.ClusterNetworkPolicyProtocolSCTP{DestinationPort: port}})
		}
	}
	return out
}

// everyQuery calls f with every pair of pods on every protocol and port that the generator knows; of a large world with some of the pairs.
func everyQuery(w World, f func(source, destination Pod, q Query)) {
	const enough = 100 // pairs; a small world has fewer
	stride := 1 + len(w.Pods)*len(w.Pods)/enough
	pair := 0
	for _, s := range w.Pods {
		for _, d := range w.Pods {
			if pair++; pair%stride != 0 {
				continue
			}
			for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
				for port := uint16(79); port <= 84; port++ {
					f(s, d, Query{Source: Endpoint{Namespace: s.Namespace, Pod: s.Name}, Destination: Endpoint{Namespace: d.Namespace, Pod: d.Name}, Protocol: protocol, Port: port})
				}
			}
		}
	}
}

func mustCompile(t testing.TB, w World, policies []Policy, cluster ...ClusterPolicy) *Engine {
	t.Helper()
	e, err := Compile(w, policies, cluster...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustDecide(t testing.TB, e *Engine, q Query) Decision {
	t.Helper()
	d, err := e.Decide(q)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func asYAML(t testing.TB, v any) string {
	t.Helper()
	out, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestEngineAgreesWithTheReferenceOnRandomWorlds(t *testing.T) {
	g := generator{newRandom(t)}
	const worlds = 200
	for range worlds {
		w, policies, cluster := g.world(), g.policies(), g.clusterPolicies()
		e, r := mustCompile(t, w, policies, cluster...), reference{w, policies, cluster}
		everyQuery(w, func(s, d Pod, q Query) {
			got := mustDecide(t, e, q)
			if want := r.decide(s, d, q.Protocol, q.Port); got.Verdict != want {
				t.Fatalf("%s to %s %s/%d: want %s, got\n%s\nworld:\n%s\npolicies:\n%s\nof the cluster:\n%s", q.Source, q.Destination, q.Protocol, q.Port, want, asYAML(t, got), asYAML(t, w), asYAML(t, policies), asYAML(t, cluster))
			}
		})
	}
}

func TestTraceOfRandomWorldsIsConsistentWithTheVerdict(t *testing.T) {
	g := generator{newRandom(t)}
	for range 60 {
		w, policies := g.world(), g.policies()
		e := mustCompile(t, w, policies)
		everyQuery(w, func(_, _ Pod, q Query) {
			d := mustDecide(t, e, q)
			if slices.Contains(d.Notes, NoteSelfTraffic) || slices.Contains(d.Notes, NoteLocalNode) {
				return
			}
			for name, side := range map[string]Side{"egress": d.Egress, "ingress": d.Ingress} {
				isolated := len(side.Isolating) > 0
				switch {
				case side.Verdict != Allow && side.Verdict != Deny,
					!isolated && side.Verdict == Deny,
					isolated && (side.Verdict == Allow) != (side.Allowing != nil),
					side.Verdict == Allow && side.Nearest != nil,
					side.Allowing != nil && (side.Allowing.Field == "" || side.Allowing.Reason == ""),
					side.Nearest != nil && (side.Nearest.Field == "" || side.Nearest.Reason == ""):
					t.Fatalf("%s to %s: %s side contradicts itself:\n%s", q.Source, q.Destination, name, asYAML(t, side))
				}
			}
		})
	}
}

func TestAddingAnIngressRuleNeverRemovesReachability(t *testing.T) {
	g := generator{newRandom(t)}
	for range 60 {
		w, policies := g.world(), g.policies()
		if len(policies) == 0 {
			continue
		}
		before := mustCompile(t, w, policies)
		wider := slices.Clone(policies)
		n := g.IntN(len(wider))
		wider[n].Spec = *wider[n].Spec.DeepCopy()
		wider[n].Spec.Spec.Ingress = append(wider[n].Spec.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: g.peers(), Ports: g.ports()})
		after := mustCompile(t, w, wider)
		everyQuery(w, func(_, _ Pod, q Query) {
			if mustDecide(t, before, q).Verdict == Allow && mustDecide(t, after, q).Verdict != Allow {
				t.Fatalf("%s to %s %s/%d was allowed before the rule was added\npolicies:\n%s", q.Source, q.Destination, q.Protocol, q.Port, asYAML(t, wider))
			}
		})
	}
}

func TestVerdictsDoNotDependOnTheOrderOfPoliciesOrPods(t *testing.T) {
	g := generator{newRandom(t)}
	for range 60 {
		w, policies := g.world(), g.policies()
		e := mustCompile(t, w, policies)
		shuffled := World{Namespaces: slices.Clone(w.Namespaces), Pods: slices.Clone(w.Pods)}
		g.Shuffle(len(shuffled.Pods), func(i, j int) { shuffled.Pods[i], shuffled.Pods[j] = shuffled.Pods[j], shuffled.Pods[i] })
		slices.Reverse(shuffled.Namespaces)
		reversed := slices.Clone(policies)
		slices.Reverse(reversed)
		o := mustCompile(t, shuffled, reversed)
		everyQuery(w, func(_, _ Pod, q Query) {
			want, got := mustDecide(t, e, q), mustDecide(t, o, q)
			if want.Verdict != got.Verdict || !slices.Equal(want.Notes, got.Notes) {
				t.Fatalf("%s to %s: want %s %q, got %s %q", q.Source, q.Destination, want.Verdict, want.Notes, got.Verdict, got.Notes)
			}
		})
	}
}
