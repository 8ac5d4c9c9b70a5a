package differential

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/runner/reach"
)

// benchCase is a cluster of so many pods, 50 in a namespace, under so many policies: default deny, apps that admit tiers, egress to teams.
func benchCase(pods, policies int) Case {
	const perNamespace = 50
	g := rand.New(rand.NewPCG(1, 1)) // the same case in every run: figures are compared
	label := func(key, prefix string, n int) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{key: fmt.Sprintf("%s%d", prefix, g.IntN(n))}}
	}
	var c Case
	for i := range pods {
		ns := fmt.Sprintf("ns%d", i/perNamespace)
		if i%perNamespace == 0 {
			c.World.Namespaces = append(c.World.Namespaces, reach.Namespace{Name: ns, Labels: map[string]string{"team": fmt.Sprintf("t%d", i/perNamespace%7)}})
		}
		c.World.Pods = append(c.World.Pods, reach.Pod{
			Namespace: ns, Name: fmt.Sprintf("p%d", i), Labels: map[string]string{"app": fmt.Sprintf("a%d", i%10), "tier": fmt.Sprintf("r%d", i%3)},
			IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, Ports: []reach.Port{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		})
	}
	for i := range policies {
		p := networkingv1.NetworkPolicy{ObjectMeta: meta(fmt.Sprintf("ns%d", i%len(c.World.Namespaces)), fmt.Sprintf("np%d", i))}
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		tier, team := label("tier", "r", 3), label("team", "t", 7)
		switch i % 3 {
		case 1:
			p.Spec.PodSelector = label("app", "a", 10)
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: &tier}, {NamespaceSelector: &team}},
				Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("http"))}, {Port: new(intstr.FromInt32(8000)), EndPort: new(int32(8080))}},
			}}
		case 2:
			p.Spec.PodSelector = tier
			p.Spec.PolicyTypes[0] = networkingv1.PolicyTypeEgress
			p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &team}, {IPBlock: &networkingv1.IPBlock{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.0/30"}}}}}}
		}
		c.Policies = append(c.Policies, p)
	}
	return c
}

func benchPorts() []uint16 { return []uint16{80, 81, 8000, 8081} }

// BenchmarkMatrix derives one matrix by both matchers, compiled before. Ours does all of it; of cyclonus' we take as many rows as a
// measurement can wait for. The metric is comparable; cyclonus' other users pay the same price for each verdict.
func BenchmarkMatrix(b *testing.B) {
	type grid struct{ pods, policies int }
	var sizes []grid
	for _, pods := range []int{100, 1000, 5000} {
		for _, policies := range []int{50, 200, 500} {
			sizes = append(sizes, grid{pods, policies})
		}
	}
	for _, size := range sizes {
		c := benchCase(size.pods, size.policies)
		name := fmt.Sprintf("pods=%d/policies=%d/ports=%d", size.pods, size.policies, len(benchPorts()))
		e, err := Engine(c)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("matcher=reach/"+name, func(b *testing.B) {
			verdicts := 0
			for b.Loop() {
				for _, port := range benchPorts() {
					rows, err := e.Matrix(reach.Channel{Protocol: corev1.ProtocolTCP, Port: port})
					if err != nil {
						b.Fatal(err)
					}
					for row := range rows {
						allowed, denied := row.Counts()
						verdicts += allowed + denied
					}
				}
			}
			b.ReportMetric(float64(verdicts)/b.Elapsed().Seconds(), "verdicts/s")
		})
		b.Run("matcher=cyclonus/"+name, func(b *testing.B) {
			theirs := NewCyclonus(c.World, c.Policies)
			verdicts, source := 0, 0
			for b.Loop() { // one row over all ports a turn, the rows one after the other
				from := c.World.Pods[source%len(c.World.Pods)]
				source++
				for _, port := range benchPorts() {
					for _, to := range c.World.Pods {
						theirs.Decide(reach.Query{Source: reach.Endpoint{Namespace: from.Namespace, Pod: from.Name}, Destination: reach.Endpoint{Namespace: to.Namespace, Pod: to.Name}, Protocol: corev1.ProtocolTCP, Port: port})
						verdicts++
					}
				}
			}
			b.ReportMetric(float64(verdicts)/b.Elapsed().Seconds(), "verdicts/s")
		})
	}
}

func TestTheBenchmarkedMatrixIsTheSameForBoth(t *testing.T) {
	c := benchCase(100, 50)
	e, err := Engine(c)
	if err != nil {
		t.Fatal(err)
	}
	theirs := NewCyclonus(c.World, c.Policies)
	seen := map[reach.Verdict]int{}
	for _, port := range benchPorts() {
		rows, err := e.Matrix(reach.Channel{Protocol: corev1.ProtocolTCP, Port: port})
		if err != nil {
			t.Fatal(err)
		}
		for row := range rows {
			from := c.World.Pods[row.Source]
			for i, to := range c.World.Pods {
				if i == row.Source { // the difference self-traffic
					continue
				}
				want := theirs.Decide(reach.Query{Source: reach.Endpoint{Namespace: from.Namespace, Pod: from.Name}, Destination: reach.Endpoint{Namespace: to.Namespace, Pod: to.Name}, Protocol: corev1.ProtocolTCP, Port: port})
				seen[want]++
				if got := row.Verdict(i); got != want {
					t.Fatalf("%s to %s TCP/%d: cyclonus says %s, the matrix %s", from.Name, to.Name, port, want, got)
				}
			}
		}
	}
	if seen[reach.Allow] == 0 || seen[reach.Deny] == 0 {
		t.Errorf("want verdicts of both kinds, got %v", seen)
	}
}
