package differential

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/mattfenwick/cyclonus/pkg/generator"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/runner/reach"
)

// wantGenerated is how many cases cyclonus v0.5.6 generates.
const wantGenerated = 230

// state is the cluster as a case of cyclonus leaves it, step after step.
type state struct {
	world    reach.World
	policies []networkingv1.NetworkPolicy
}

// newState is cyclonus' default world: three namespaces of three pods that serve 80 and 81 by three protocols.
func newState() *state {
	s := &state{}
	for _, ns := range []string{"x", "y", "z"} {
		s.world.Namespaces = append(s.world.Namespaces, reach.Namespace{Name: ns, Labels: map[string]string{"ns": ns}})
		for _, pod := range []string{"a", "b", "c"} {
			s.addPod(ns, pod, map[string]string{"pod": pod})
		}
	}
	return s
}

// podAddress is where cyclonus is told that pod z/c is, which its ipBlock cases are about.
const podAddress = "10.0.0.9"

func (s *state) addPod(namespace, name string, labels map[string]string) {
	p := reach.Pod{Namespace: namespace, Name: name, Labels: maps.Clone(labels), IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(len(s.world.Pods) + 1)})}}
	for _, port := range []uint16{80, 81} {
		for protocol, suffix := range map[corev1.Protocol]string{corev1.ProtocolTCP: "tcp", corev1.ProtocolUDP: "udp", corev1.ProtocolSCTP: "sctp"} {
			p.Ports = append(p.Ports, reach.Port{Name: fmt.Sprintf("serve-%d-%s", port, suffix), Protocol: protocol, Port: port})
		}
	}
	s.world.Pods = append(s.world.Pods, p)
}

func (s *state) apply(t *testing.T, a *generator.Action) {
	t.Helper()
	same := func(p *networkingv1.NetworkPolicy) func(networkingv1.NetworkPolicy) bool {
		return func(o networkingv1.NetworkPolicy) bool { return o.Namespace == p.Namespace && o.Name == p.Name }
	}
	switch {
	case a.CreatePolicy != nil:
		s.policies = append(s.policies, *a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		i := slices.IndexFunc(s.policies, same(a.UpdatePolicy.Policy))
		if i < 0 {
			t.Fatalf("the case updates policy %s, which is not there", a.UpdatePolicy.Policy.Name)
		}
		s.policies[i] = *a.UpdatePolicy.Policy
	case a.DeletePolicy != nil:
		s.policies = slices.DeleteFunc(s.policies, same(&networkingv1.NetworkPolicy{ObjectMeta: meta(a.DeletePolicy.Namespace, a.DeletePolicy.Name)}))
	case a.CreateNamespace != nil:
		s.world.Namespaces = append(s.world.Namespaces, reach.Namespace{Name: a.CreateNamespace.Namespace, Labels: a.CreateNamespace.Labels})
	case a.SetNamespaceLabels != nil:
		for i := range s.world.Namespaces {
			if s.world.Namespaces[i].Name == a.SetNamespaceLabels.Namespace {
				s.world.Namespaces[i].Labels = a.SetNamespaceLabels.Labels
			}
		}
	case a.DeleteNamespace != nil:
		s.world.Namespaces = slices.DeleteFunc(s.world.Namespaces, func(n reach.Namespace) bool { return n.Name == a.DeleteNamespace.Namespace })
		s.world.Pods = slices.DeleteFunc(s.world.Pods, func(p reach.Pod) bool { return p.Namespace == a.DeleteNamespace.Namespace })
		s.policies = slices.DeleteFunc(s.policies, func(p networkingv1.NetworkPolicy) bool { return p.Namespace == a.DeleteNamespace.Namespace })
	case a.ReadNetworkPolicies != nil:
	case a.CreatePod != nil:
		s.addPod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels)
	case a.SetPodLabels != nil:
		for i := range s.world.Pods {
			if p := &s.world.Pods[i]; p.Namespace == a.SetPodLabels.Namespace && p.Name == a.SetPodLabels.Pod {
				p.Labels = a.SetPodLabels.Labels
			}
		}
	case a.DeletePod != nil:
		s.world.Pods = slices.DeleteFunc(s.world.Pods, func(p reach.Pod) bool {
			return p.Namespace == a.DeletePod.Namespace && p.Name == a.DeletePod.Pod
		})
	default:
		t.Fatal("the case has an action of no kind")
	}
}

func TestEveryGeneratedCaseOfCyclonusIsAgreedOnOrExplained(t *testing.T) {
	cases := generator.NewTestCaseGenerator(true, podAddress, []string{"x", "y", "z"}, nil, nil).GenerateTestCases()
	if len(cases) != wantGenerated {
		t.Errorf("want %d cases, got %d", wantGenerated, len(cases))
	}
	verdicts, steps := 0, 0
	explainedBy := map[string]int{}
	for i, c := range cases {
		s := newState()
		for j, step := range c.Steps {
			steps++
			for _, a := range step.Actions {
				s.apply(t, a)
			}
			both := newPair(t, Case{World: s.world, Policies: s.policies})
			for _, q := range queries(s.world) {
				verdicts++
				if !both.disagree(t, q) {
					continue
				}
				small := Shrink(Case{s.world, s.policies, q}, Case.Disagree)
				d, ok := explained(small)
				if !ok {
					t.Fatalf("case %d %q, step %d: nothing explains\n%s", i+1, c.Description, j+1, small)
				}
				explainedBy[d.ID]++
			}
		}
	}
	t.Logf("%d cases, %d steps, %d verdicts; differences: %v", len(cases), steps, verdicts, explainedBy)
}

// queries are all pairs of pods over the ports that cyclonus attempts and one that nobody serves.
func queries(w reach.World) []reach.Query {
	var out []reach.Query
	for _, s := range w.Pods {
		for _, d := range w.Pods {
			for _, port := range []uint16{79, 80, 81} {
				for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
					out = append(out, reach.Query{Source: reach.Endpoint{Namespace: s.Namespace, Pod: s.Name}, Destination: reach.Endpoint{Namespace: d.Namespace, Pod: d.Name}, Protocol: protocol, Port: port})
				}
			}
		}
	}
	return out
}
