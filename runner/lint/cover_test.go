package lint_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/runner/lint"
	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomSelector(r *rand.Rand) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	for range r.IntN(3) {
		if r.IntN(2) == 0 {
			s.MatchLabels = map[string]string{pick(r, "k", "l"): pick(r, "a", "b")}
			continue
		}
		e := metav1.LabelSelectorRequirement{
			Key:      pick(r, "k", "l"),
			Operator: pick(r, metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist),
		}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = pick(r, []string{"a"}, []string{"b"}, []string{"a", "b"}, []string{"c"})
		}
		s.MatchExpressions = append(s.MatchExpressions, e)
	}
	return s
}

func randomPeer(r *rand.Rand) networkingv1.NetworkPolicyPeer {
	switch r.IntN(4) {
	case 0:
		b := &networkingv1.IPBlock{CIDR: pick(r, "203.0.113.0/30", "203.0.113.0/31", "203.0.113.0/29")}
		if r.IntN(2) == 0 {
			b.Except = []string{pick(r, "203.0.113.0/32", "203.0.113.1/32", "203.0.113.2/31", "203.0.113.4/30")}
		}
		return networkingv1.NetworkPolicyPeer{IPBlock: b}
	case 1:
		return networkingv1.NetworkPolicyPeer{PodSelector: randomSelector(r)}
	case 2:
		return networkingv1.NetworkPolicyPeer{NamespaceSelector: randomSelector(r)}
	default:
		return networkingv1.NetworkPolicyPeer{PodSelector: randomSelector(r), NamespaceSelector: randomSelector(r)}
	}
}

func randomPort(r *rand.Rand) networkingv1.NetworkPolicyPort {
	p := networkingv1.NetworkPolicyPort{}
	if r.IntN(3) > 0 {
		p.Protocol = new(pick(r, corev1.ProtocolTCP, corev1.ProtocolUDP))
	}
	switch r.IntN(4) {
	case 0:
		p.Port = new(intstr.FromString("http"))
	case 1:
		p.Port = new(intstr.FromInt32(int32(79 + r.IntN(3))))
	case 2:
		p.Port, p.EndPort = new(intstr.FromInt32(int32(79+r.IntN(2)))), new(int32(80+r.IntN(2)))
	}
	return p
}

func randomPolicy(r *rand.Rand) manifest.Policy {
	p := policy(nil)
	for range 1 + r.IntN(3) {
		var rule networkingv1.NetworkPolicyIngressRule
		for range r.IntN(3) {
			rule.From = append(rule.From, randomPeer(r))
		}
		for range r.IntN(3) {
			rule.Ports = append(rule.Ports, randomPort(r))
		}
		p.Spec.Spec.Ingress = append(p.Spec.Spec.Ingress, rule)
	}
	return p
}

// coverWorld has one pod per combination of labels, in namespaces with each of them.
func coverWorld() reach.World {
	var w reach.World
	labels := []map[string]string{nil, {"k": "a"}, {"k": "b"}, {"k": "c", "l": "a"}, {"k": "a", "l": "b"}}
	ports := []reach.Port{{Name: "http", Protocol: "TCP", Port: 80}, {Name: "http-udp", Protocol: "UDP", Port: 81}}
	next := netip.MustParseAddr("198.18.0.0")
	for i, l := range labels {
		ns := "x"
		if i > 0 {
			ns = fmt.Sprintf("n%d", i)
		}
		w.Namespaces = append(w.Namespaces, reach.Namespace{Name: ns, Labels: l})
		for j, m := range labels {
			next = next.Next()
			w.Pods = append(w.Pods, reach.Pod{Namespace: ns, Name: fmt.Sprintf("p%d", j), Labels: m, IPs: []netip.Addr{next}, Ports: ports})
		}
	}
	return w
}

// verdicts are those of every source in the world and around the ipBlocks on every port, to pod x/p0.
func verdicts(t *testing.T, w reach.World, p manifest.Policy) []reach.Verdict {
	t.Helper()
	engine, err := reach.Compile(w, []reach.Policy{p.Policy})
	if err != nil {
		t.Fatal(err)
	}
	var sources []reach.Endpoint
	for i := range w.Pods {
		sources = append(sources, reach.Endpoint{Namespace: w.Pods[i].Namespace, Pod: w.Pods[i].Name})
	}
	for last := range 9 {
		sources = append(sources, reach.Endpoint{Addr: netip.AddrFrom4([4]byte{203, 0, 113, byte(last)})})
	}
	var out []reach.Verdict
	for _, s := range sources {
		for _, protocol := range []corev1.Protocol{"TCP", "UDP", "SCTP"} {
			for _, port := range []uint16{78, 79, 80, 81, 82} {
				d, err := engine.Decide(reach.Query{Source: s, Destination: reach.Endpoint{Namespace: "x", Pod: "p0"}, Protocol: protocol, Port: port})
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, d.Verdict)
			}
		}
	}
	return out
}

var coveredField = regexp.MustCompile(`^spec\.ingress\[(\d+)\](?:\.(from|ports)\[(\d+)\])?$`)

func without[T any](list []T, i int) []T {
	out := append([]T{}, list[:i]...)
	return append(out, list[i+1:]...)
}

func TestWhatIsCoveredCanBeTakenAwayWithoutChangingAnyVerdict(t *testing.T) {
	const seed, rounds = 20261123, 400
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	w := coverWorld()
	seen := map[string]int{}
	for range rounds {
		p := randomPolicy(r)
		set := &manifest.Set{World: w, Policies: []manifest.Policy{p}}
		found, err := lint.Check(set, lint.Options{})
		if err != nil {
			continue // an endPort below its port
		}
		want := verdicts(t, w, p)
		for _, f := range found {
			m := coveredField.FindStringSubmatch(f.Field)
			if f.Rule != "rule-covered" {
				continue
			}
			if m == nil {
				t.Fatalf("rule-covered points at %q", f.Field)
			}
			i, _ := strconv.Atoi(m[1])
			j, _ := strconv.Atoi(m[3]) // no item: the whole rule
			less := p
			less.Spec = *p.Spec.DeepCopy()
			rules := less.Spec.Spec.Ingress
			switch seen[m[2]]++; m[2] {
			case "from":
				rules[i].From = without(rules[i].From, j)
			case "ports":
				rules[i].Ports = without(rules[i].Ports, j)
			default:
				less.Spec.Spec.Ingress = without(rules, i)
			}
			got := verdicts(t, w, less)
			for k := range want {
				if want[k] != got[k] {
					t.Fatalf("%s: %s, yet without it verdict %d is %s and not %s\n%+v", f.Field, f.Message, k, got[k], want[k], p.Spec.Spec.Ingress)
				}
			}
		}
	}
	for _, kind := range []string{"", "from", "ports"} {
		if seen[kind] < 20 {
			t.Errorf("only %d findings of kind %q: the test shows little", seen[kind], kind)
		}
	}
}
