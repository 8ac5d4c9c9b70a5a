package differential

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/runner/reach"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random worlds; 0 takes one from the clock, which is printed")
	worldsFlag = flag.Int("worlds", 20000, "how many random worlds are compared")
)

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// pair holds both engines, compiled once.
type pair struct {
	ours   *reach.Engine
	theirs *Cyclonus
}

func newPair(t testing.TB, c Case) pair {
	t.Helper()
	e, err := Engine(c)
	if err != nil {
		t.Fatalf("%v\n%s", err, c)
	}
	return pair{e, NewCyclonus(c.World, c.Policies)}
}

func (p pair) disagree(t testing.TB, q reach.Query) bool {
	t.Helper()
	d, err := p.ours.Decide(q)
	if err != nil {
		t.Fatal(err)
	}
	return d.Verdict != p.theirs.Decide(q)
}

// worldGenerator makes small worlds of few words. A strict one leaves out whatever the known differences are about: there, every disagreement is
// a fault at once, and none can hide behind another.
type worldGenerator struct {
	*rand.Rand
	strict bool
}

func (g worldGenerator) chance(percent int) bool      { return g.IntN(100) < percent }
func (g worldGenerator) oneOf(words ...string) string { return words[g.IntN(len(words))] }

func (g worldGenerator) value() string {
	if !g.strict && g.chance(10) {
		return ""
	}
	return g.oneOf("a", "b", "c")
}

func (g worldGenerator) labels() map[string]string {
	out := map[string]string{}
	for _, key := range []string{"app", "tier", "team"} {
		if g.chance(60) {
			out[key] = g.value()
		}
	}
	return out
}

func (g worldGenerator) selector() metav1.LabelSelector {
	var s metav1.LabelSelector
	for range g.IntN(3) {
		if s.MatchLabels == nil {
			s.MatchLabels = map[string]string{}
		}
		s.MatchLabels[g.oneOf("app", "tier", "team")] = g.value()
	}
	for range g.IntN(2) {
		r := metav1.LabelSelectorRequirement{Key: g.oneOf("app", "tier", "team", "none", corev1.LabelMetadataName)}
		switch n := g.IntN(20); {
		case n < 7:
			r.Operator, r.Values = metav1.LabelSelectorOpIn, []string{g.oneOf("a", "b", "x"), g.oneOf("b", "c", "y")}
		case n < 12:
			r.Operator = metav1.LabelSelectorOpExists
		case n < 17 || g.strict:
			r.Operator = metav1.LabelSelectorOpDoesNotExist
		default:
			r.Operator, r.Values = metav1.LabelSelectorOpNotIn, []string{g.oneOf("a", "b", "x"), g.oneOf("b", "c", "y")}
		}
		s.MatchExpressions = append(s.MatchExpressions, r)
	}
	return s
}

func (g worldGenerator) peers() []networkingv1.NetworkPolicyPeer {
	if g.chance(15) {
		return nil
	}
	out := []networkingv1.NetworkPolicyPeer{}
	for range g.IntN(4) {
		pods, namespaces := g.selector(), g.selector()
		var p networkingv1.NetworkPolicyPeer
		switch g.IntN(5) {
		case 0:
			p.PodSelector = &pods
		case 1:
			p.NamespaceSelector = &namespaces
		case 2:
			p.PodSelector, p.NamespaceSelector = &pods, &namespaces
		case 3:
			p.IPBlock = &networkingv1.IPBlock{CIDR: g.oneOf("10.0.0.0/16", "0.0.0.0/0"), Except: []string{g.oneOf("10.0.0.0/30", "10.0.1.0/24", "192.0.2.0/24"), "10.0.0.4/31"}}
		default:
			p.IPBlock = &networkingv1.IPBlock{CIDR: g.oneOf("10.0.0.0/29", "fd00::/64", "::/0", "10.0.1.1/32", "192.0.2.1/32")}
		}
		out = append(out, p)
	}
	return out
}

func (g worldGenerator) protocol() corev1.Protocol {
	return corev1.Protocol(g.oneOf("TCP", "UDP", "SCTP"))
}

func (g worldGenerator) ports() []networkingv1.NetworkPolicyPort {
	if g.chance(30) {
		return nil
	}
	out := []networkingv1.NetworkPolicyPort{}
	for range g.IntN(4) {
		var p networkingv1.NetworkPolicyPort
		if g.chance(70) {
			p.Protocol = new(g.protocol())
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

func (g worldGenerator) world() reach.World {
	var w reach.World
	names := []string{"x", "y", "z"}
	for _, name := range names {
		w.Namespaces = append(w.Namespaces, reach.Namespace{Name: name, Labels: g.labels()})
	}
	for i := range 2 + g.IntN(5) {
		pod := reach.Pod{
			Namespace: names[g.IntN(len(names))], Name: fmt.Sprintf("p%d", i), Labels: g.labels(), Node: g.oneOf("n1", "n2"),
			HostNetwork: !g.strict && g.chance(4), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(g.IntN(2)), byte(i)})},
		}
		if g.chance(20) {
			pod.IPs = []netip.Addr{netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(i)})}
		}
		for j, name := range []string{"http", "dns"} {
			port := uint16(80 + g.IntN(3))
			if g.strict { // one name for each number
				port = uint16(80 + 2*j)
			}
			if g.chance(60) {
				protocol := g.protocol()
				if !g.strict && len(pod.Ports) == 1 && g.chance(50) {
					protocol, port = pod.Ports[0].Protocol, pod.Ports[0].Port
				}
				pod.Ports = append(pod.Ports, reach.Port{Name: name, Protocol: protocol, Port: port})
			}
		}
		w.Pods = append(w.Pods, pod)
	}
	return w
}

func (g worldGenerator) policies() []networkingv1.NetworkPolicy {
	var out []networkingv1.NetworkPolicy
	for i := range 1 + g.IntN(4) {
		p := networkingv1.NetworkPolicy{ObjectMeta: meta(g.oneOf("x", "y", "z"), fmt.Sprintf("np%d", i))}
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
		out = append(out, p)
	}
	return out
}

// query asks about two ends, of which one may be outside of the cluster.
func (g worldGenerator) query(w reach.World) reach.Query {
	end := func() reach.Endpoint {
		p := w.Pods[g.IntN(len(w.Pods))]
		return reach.Endpoint{Namespace: p.Namespace, Pod: p.Name}
	}
	q := reach.Query{Source: end(), Destination: end(), Protocol: g.protocol(), Port: uint16(79 + g.IntN(6))}
	outside := reach.Endpoint{Addr: netip.MustParseAddr(g.oneOf("192.0.2.1", "198.51.100.7", "10.0.9.9", "fd00::99", "2001:db8::1"))}
	switch g.IntN(10) {
	case 0:
		q.Source = outside
	case 1:
		q.Destination = outside
	}
	return q
}

func TestRandomWorldsAreAgreedOnOrExplained(t *testing.T) {
	const (
		queriesAWorld = 40
		// shrinkAWorld bounds the work: shrinking costs a hundred decisions.
		shrinkAWorld = 2
	)
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -args -seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	verdicts, disagreements := 0, 0
	shown := map[string]int{}
	for n := range *worldsFlag {
		g := worldGenerator{r, n%2 == 0}
		c := Case{World: g.world(), Policies: g.policies()}
		both := newPair(t, c)
		shrunk := 0
		for range queriesAWorld {
			c.Query = g.query(c.World)
			verdicts++
			if !both.disagree(t, c.Query) {
				continue
			}
			disagreements++
			if self := Differences()[0]; self.Explains(c) { // nothing to shrink: any policy shows it
				shown[self.ID]++
				continue
			}
			if shrunk++; shrunk > shrinkAWorld && !g.strict {
				continue
			}
			small := Shrink(c, Case.Disagree)
			d, ok := explained(small)
			if !ok || g.strict {
				t.Fatalf("world %d: nothing explains\n%s", n, small)
			}
			shown[d.ID]++
		}
	}
	t.Logf("%d worlds, %d verdicts, %d differ; shown: %v", *worldsFlag, verdicts, disagreements, shown)
	for _, d := range Differences() {
		if shown[d.ID] == 0 {
			t.Errorf("no world shows the difference %s any more: take it off the list", d.ID)
		}
	}
}
