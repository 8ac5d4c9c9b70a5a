package reach

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// addressOf is the pod's address that a query about the family is asked with; ok is false when there is none.
func addressOf(p Pod, f Family) (addr netip.Addr, ok bool) {
	for _, a := range p.IPs {
		if f == FirstAddress || a.Is4() == (f == IPv4) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// diffMatrix holds every verdict of the matrices against Decide, and describes the first that differs.
func diffMatrix(t testing.TB, e *Engine, w World) string {
	t.Helper()
	for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
		for port := uint16(79); port <= 83; port++ {
			for _, family := range []Family{FirstAddress, IPv4, IPv6} {
				c := Channel{Protocol: protocol, Port: port, Family: family}
				rows, err := e.Matrix(c)
				if err != nil {
					t.Fatal(err)
				}
				next := 0
				for row := range rows {
					if row.Source != next {
						return fmt.Sprintf("row %d has source %d", next, row.Source)
					}
					next++
					s := w.Pods[row.Source]
					from, hasFrom := addressOf(s, family)
					for i, d := range w.Pods {
						want := Unknown
						if to, hasTo := addressOf(d, family); hasFrom && hasTo {
							want = mustDecide(t, e, Query{Source: Endpoint{s.Namespace, s.Name, from}, Destination: Endpoint{d.Namespace, d.Name, to}, Protocol: protocol, Port: port}).Verdict
						}
						if got := row.Verdict(i); got != want {
							return fmt.Sprintf("%s/%s to %s/%s %s: want %s, got %s", s.Namespace, s.Name, d.Namespace, d.Name, c, want, got)
						}
					}
				}
				if next != len(w.Pods) {
					return fmt.Sprintf("want %d rows, got %d", len(w.Pods), next)
				}
			}
		}
	}
	return ""
}

func TestMatrixAgreesWithDecideOnRandomWorlds(t *testing.T) {
	g := generator{newRandom(t)}
	for range 100 {
		w, policies, cluster := g.world(), g.policies(), g.clusterPolicies()
		if len(w.Pods) > wordBits+8 {
			w.Pods = w.Pods[:wordBits+8]
		}
		e := mustCompile(t, w, policies, cluster...)
		if diff := diffMatrix(t, e, w); diff != "" {
			t.Fatalf("%s\nworld:\n%s\npolicies:\n%s\nof the cluster:\n%s", diff, asYAML(t, w), asYAML(t, policies), asYAML(t, cluster))
		}
	}
}

func TestMatrixRefusesChannelsThatAreNone(t *testing.T) {
	e := mustCompile(t, threeByThree(), nil)
	for want, c := range map[string]Channel{
		`deriving the matrix of ICMP/1: protocol "ICMP" is not one of TCP, UDP, SCTP`: {Protocol: "ICMP", Port: 1},
		`deriving the matrix of TCP/0: port 0 is no destination port`:                 {Protocol: corev1.ProtocolTCP},
		`deriving the matrix of TCP/1 invalid(9): family 9 has no name`:               {Protocol: corev1.ProtocolTCP, Port: 1, Family: 9},
	} {
		if _, err := e.Matrix(c); err == nil || err.Error() != want {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestMatrixStopsWhenTheLoopDoes(t *testing.T) {
	rows, err := mustCompile(t, threeByThree(), nil).Matrix(Channel{Protocol: corev1.ProtocolTCP, Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	turns := 0
	for range rows {
		turns++
		break
	}
	if turns != 1 {
		t.Errorf("want 1 turn, got %d", turns)
	}
}

func TestPartitionTellsApartExactlyWhatTheSetsTellApart(t *testing.T) {
	r := newRandom(t)
	for range 200 {
		n := r.IntN(150)
		sets := make([]bitset, r.IntN(8))
		for i := range sets {
			sets[i] = newBitset(n)
			for j := range n {
				if r.IntN(3) == 0 {
					sets[i].add(j)
				}
			}
		}
		class, classes := partition(n, sets)
		seen := map[int]bool{}
		for i := range n {
			seen[class[i]] = true
			for j := range n {
				same := true
				for _, s := range sets {
					same = same && s.has(i) == s.has(j)
				}
				if same != (class[i] == class[j]) {
					t.Fatalf("%d and %d of %d: same is %t, classes are %d and %d", i, j, n, same, class[i], class[j])
				}
			}
		}
		if len(seen) != classes {
			t.Fatalf("want %d classes, got %d", len(seen), classes)
		}
	}
}

// cityWorld is a world of the size of a cluster: a namespace for every 50 pods, apps and tiers as labels, three nodes for every hundred pods.
func cityWorld(pods int) World {
	const perNamespace, apps = 50, 10
	var w World
	for i := range pods {
		ns := i / perNamespace
		if i%perNamespace == 0 {
			w.Namespaces = append(w.Namespaces, Namespace{Name: fmt.Sprintf("ns%d", ns), Labels: map[string]string{"team": fmt.Sprintf("t%d", ns%7)}})
		}
		w.Pods = append(w.Pods, Pod{
			Namespace: fmt.Sprintf("ns%d", ns), Name: fmt.Sprintf("p%d", i), Node: fmt.Sprintf("n%d", i%(1+pods*3/100)),
			Labels: map[string]string{"app": fmt.Sprintf("a%d", i%apps), "tier": fmt.Sprintf("r%d", i%3)},
			IPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})},
			Ports:  []Port{{Name: "http", Protocol: corev1.ProtocolTCP, Port: uint16(80 + i%2)}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}},
		})
	}
	return w
}

// cityPolicies are policies as they are found in clusters: default deny, apps that admit tiers or teams on ports, egress to blocks.
func cityPolicies(n, namespaces int) []Policy {
	g := rand.New(rand.NewPCG(1, 1)) // the same policies in every run: figures are compared
	tcp, udp := corev1.ProtocolTCP, corev1.ProtocolUDP
	label := func(key, prefix string, n int) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: fmt.Sprintf("%s%d", prefix, g.IntN(n))}}
	}
	out := make([]Policy, n)
	for i := range out {
		p := &out[i].Spec
		p.Namespace, p.Name = fmt.Sprintf("ns%d", i%namespaces), fmt.Sprintf("np%d", i)
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		switch i % 4 {
		case 0: // default deny
		case 1:
			p.Spec.PodSelector = *label("app", "a", 10)
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{PodSelector: label("tier", "r", 3)}, {NamespaceSelector: label("team", "t", 7)}},
				Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: new(intstr.FromString("http"))}},
			}}
		case 2:
			p.Spec.PodSelector = *label("app", "a", 10)
			p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
				From:  []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &metav1.LabelSelector{}, PodSelector: label("app", "a", 10)}},
				Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: new(intstr.FromInt32(80)), EndPort: new(int32(81))}, {Protocol: &udp, Port: new(intstr.FromInt32(53))}},
			}}
		default:
			p.Spec.PodSelector = *label("tier", "r", 3)
			p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeEgress}
			p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{
				{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: label("team", "t", 7)}}},
				{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.0.%d.0/24", g.IntN(16)), Except: []string{"10.0.0.0/30"}}}}, Ports: []networkingv1.NetworkPolicyPort{{Protocol: &tcp, Port: new(intstr.FromInt32(80))}}},
			}
		}
	}
	return out
}

func cityChannels() []Channel {
	return []Channel{
		{Protocol: corev1.ProtocolTCP, Port: 80}, {Protocol: corev1.ProtocolTCP, Port: 81},
		{Protocol: corev1.ProtocolUDP, Port: 53}, {Protocol: corev1.ProtocolTCP, Port: 443},
	}
}

func BenchmarkMatrix(b *testing.B) {
	for _, size := range []struct{ pods, policies int }{{100, 50}, {1000, 200}, {5000, 500}, {10000, 500}} {
		b.Run(fmt.Sprintf("pods=%d/policies=%d/ports=%d", size.pods, size.policies, len(cityChannels())), func(b *testing.B) {
			w := cityWorld(size.pods)
			e := mustCompile(b, w, cityPolicies(size.policies, len(w.Namespaces)))
			var allowed, denied int
			b.ReportAllocs()
			for b.Loop() {
				allowed, denied = 0, 0
				for _, c := range cityChannels() {
					rows, err := e.Matrix(c)
					if err != nil {
						b.Fatal(err)
					}
					for row := range rows {
						a, d := row.Counts()
						allowed, denied = allowed+a, denied+d
					}
				}
			}
			if want := size.pods * size.pods * len(cityChannels()); allowed+denied != want || allowed == 0 || denied == 0 {
				b.Fatalf("want %d verdicts of both kinds, got %d allowed and %d denied", want, allowed, denied)
			}
			b.ReportMetric(float64((allowed+denied)*b.N)/b.Elapsed().Seconds(), "verdicts/s")
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-from-system")
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	w := cityWorld(5000)
	policies := cityPolicies(500, len(w.Namespaces))
	for b.Loop() {
		mustCompile(b, w, policies)
	}
}
