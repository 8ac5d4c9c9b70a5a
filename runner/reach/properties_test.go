package reach

import (
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/yaml"
)

// propertyWorlds is how many random worlds each property is held against.
const propertyWorlds = 60

// eachChange compares every verdict before and after a change of the policies or the world, on random worlds.
func eachChange(t *testing.T, change func(g generator, w *World, policies *[]Policy, cluster *[]ClusterPolicy), holds func(q Query, before, after Decision) string) {
	t.Helper()
	g := generator{newRandom(t)}
	for range propertyWorlds {
		w, policies, cluster := g.world(), g.policies(), g.clusterPolicies()
		w2 := World{Namespaces: slices.Clone(w.Namespaces), Pods: slices.Clone(w.Pods), Nodes: slices.Clone(w.Nodes)}
		policies2, cluster2 := slices.Clone(policies), slices.Clone(cluster)
		change(g, &w2, &policies2, &cluster2)
		before, after := mustCompile(t, w, policies, cluster...), mustCompile(t, w2, policies2, cluster2...)
		everyQuery(w, func(_, _ Pod, q Query) {
			if fault := holds(q, mustDecide(t, before, q), mustDecide(t, after, q)); fault != "" {
				t.Fatalf("%s to %s %s/%d: %s\nworld:\n%s\npolicies:\n%s\nof the cluster:\n%s\nafter:\n%s\n%s", q.Source, q.Destination, q.Protocol, q.Port, fault,
					asYAML(t, w), asYAML(t, policies), asYAML(t, cluster), asYAML(t, policies2), asYAML(t, cluster2))
			}
		})
	}
}

func sameVerdict(_ Query, before, after Decision) string {
	if before.Verdict != after.Verdict {
		return "was " + before.Verdict.String() + ", is " + after.Verdict.String()
	}
	return ""
}

func TestRelabellingToEqualLabelsChangesNothing(t *testing.T) {
	eachChange(t, func(_ generator, w *World, _ *[]Policy, _ *[]ClusterPolicy) {
		for i := range w.Pods {
			w.Pods[i].Labels = maps.Clone(w.Pods[i].Labels)
		}
		for i := range w.Namespaces {
			labels := maps.Clone(w.Namespaces[i].Labels)
			labels[corev1.LabelMetadataName] = w.Namespaces[i].Name // what the API server sets anyway
			w.Namespaces[i].Labels = labels
		}
	}, sameVerdict)
}

func TestALabelThatNoSelectorNamesChangesNothing(t *testing.T) {
	eachChange(t, func(_ generator, w *World, _ *[]Policy, _ *[]ClusterPolicy) {
		for i := range w.Pods {
			labels := maps.Clone(w.Pods[i].Labels)
			labels["unheard-of"] = "a"
			w.Pods[i].Labels = labels
		}
	}, sameVerdict)
}

func TestAnEgressRuleNeverRemovesReachability(t *testing.T) {
	eachChange(t, func(g generator, _ *World, policies *[]Policy, _ *[]ClusterPolicy) {
		for i := range *policies {
			p := (*policies)[i].Spec.DeepCopy()
			if len(p.Spec.PolicyTypes) == 0 { // else the first egress rule would isolate what was not
				continue
			}
			p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: g.peers(), Ports: g.ports()})
			(*policies)[i].Spec = *p
		}
	}, func(_ Query, before, after Decision) string {
		if before.Verdict == Allow && after.Verdict != Allow {
			return "was allowed before the rule was added"
		}
		return ""
	})
}

func TestWhatTheAdminTierDecidesNoNetworkPolicyAndNoBaselineChanges(t *testing.T) {
	eachChange(t, func(g generator, _ *World, policies *[]Policy, cluster *[]ClusterPolicy) {
		*policies = g.policies()
		*cluster = slices.DeleteFunc(*cluster, func(p ClusterPolicy) bool { return p.Spec.Spec.Tier == npav1alpha2.BaselineTier })
	}, func(_ Query, before, after Decision) string {
		for name, sides := range map[string][2]Side{"egress": {before.Egress, after.Egress}, "ingress": {before.Ingress, after.Ingress}} {
			was, is := sides[0], sides[1]
			if decidedBy(was) == string(npav1alpha2.AdminTier) && (is.Verdict != was.Verdict || decidedBy(is) != string(npav1alpha2.AdminTier)) {
				return name + " was decided by the Admin tier and is no longer"
			}
		}
		return ""
	})
}

// decidedBy is the tier whose rule decided the side, empty when none of a ClusterNetworkPolicy did.
func decidedBy(s Side) string {
	switch {
	case s.Denying != nil:
		return s.Denying.Tier
	case s.Allowing != nil:
		return s.Allowing.Tier
	default:
		return ""
	}
}

func TestTheBaselineTierOnlyTouchesPodsThatNoNetworkPolicySelects(t *testing.T) {
	eachChange(t, func(_ generator, _ *World, _ *[]Policy, cluster *[]ClusterPolicy) {
		*cluster = slices.DeleteFunc(*cluster, func(p ClusterPolicy) bool { return p.Spec.Spec.Tier == npav1alpha2.BaselineTier })
	}, func(_ Query, before, after Decision) string {
		if len(before.Egress.Isolating) > 0 && before.Egress.Verdict != after.Egress.Verdict {
			return "egress of an isolated pod depends on the Baseline tier"
		}
		if len(before.Ingress.Isolating) > 0 && before.Ingress.Verdict != after.Ingress.Verdict {
			return "ingress of an isolated pod depends on the Baseline tier"
		}
		return ""
	})
}

func TestAPassRuleAtTheEndOfATierChangesNothing(t *testing.T) {
	all := npav1alpha2.ClusterNetworkPolicyIngressPeer{Pods: &npav1alpha2.NamespacedPod{}}
	eachChange(t, func(g generator, _ *World, _ *[]Policy, cluster *[]ClusterPolicy) {
		var p npav1alpha2.ClusterNetworkPolicy
		p.Name = "last"
		p.Spec.Tier, p.Spec.Priority = npav1alpha2.Tier(g.oneOf("Admin", "Baseline")), lastPriority
		p.Spec.Subject.Pods = &npav1alpha2.NamespacedPod{}
		p.Spec.Ingress = []npav1alpha2.ClusterNetworkPolicyIngressRule{{Action: "Pass", From: []npav1alpha2.ClusterNetworkPolicyIngressPeer{all}}}
		p.Spec.Egress = []npav1alpha2.ClusterNetworkPolicyEgressRule{{Action: "Pass", To: []npav1alpha2.ClusterNetworkPolicyEgressPeer{{Pods: all.Pods}}}}
		*cluster = append(*cluster, ClusterPolicy{Spec: p})
	}, sameVerdict)
}

func TestSwappingAcceptAndDenyOfADecidingRuleSwapsItsVerdict(t *testing.T) {
	swapped := map[npav1alpha2.ClusterNetworkPolicyRuleAction]npav1alpha2.ClusterNetworkPolicyRuleAction{"Accept": "Deny", "Deny": "Accept", "Pass": "Pass"}
	eachChange(t, func(_ generator, _ *World, _ *[]Policy, cluster *[]ClusterPolicy) {
		for i := range *cluster {
			p := (*cluster)[i].Spec.DeepCopy()
			for j := range p.Spec.Ingress {
				p.Spec.Ingress[j].Action = swapped[p.Spec.Ingress[j].Action]
			}
			for j := range p.Spec.Egress {
				p.Spec.Egress[j].Action = swapped[p.Spec.Egress[j].Action]
			}
			(*cluster)[i].Spec = *p
		}
	}, func(_ Query, before, after Decision) string {
		for name, sides := range map[string][2]Side{"egress": {before.Egress, after.Egress}, "ingress": {before.Ingress, after.Ingress}} {
			byCluster := decidedBy(sides[0]) != ""
			if byCluster == (sides[0].Verdict == sides[1].Verdict) {
				return name + ": want the verdict swapped exactly where a ClusterNetworkPolicy decided"
			}
		}
		return ""
	})
}

func TestVerdictsDoNotDependOnTheOrderOfClusterPolicies(t *testing.T) {
	eachChange(t, func(_ generator, _ *World, _ *[]Policy, cluster *[]ClusterPolicy) { slices.Reverse(*cluster) }, sameVerdict)
}

func FuzzClusterPolicies(f *testing.F) {
	f.Add(`{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{pods: {podSelector: {}}}], protocols: [{tcp: {destinationPort: {range: {start: 1, end: 99}}}}]}]}`, uint16(80))
	f.Add(`{tier: Baseline, subject: {pods: {}}, egress: [{action: Pass, to: [{networks: [10.0.0.0/8, "::/0"]}, {nodes: {}}]}, {action: Accept, to: [{domainNames: [a.b]}]}]}`, uint16(0))
	w := threeNodes()
	f.Fuzz(func(t *testing.T, spec string, port uint16) {
		var p npav1alpha2.ClusterNetworkPolicy
		if yaml.Unmarshal([]byte(spec), &p.Spec) != nil {
			t.Skip("not a policy")
		}
		e, err := Compile(w, nil, ClusterPolicy{Spec: p})
		if err != nil {
			return
		}
		e.Classes()
		for _, c := range []Channel{{corev1.ProtocolTCP, port, FirstAddress}, {corev1.ProtocolUDP, port, IPv4}, {corev1.ProtocolSCTP, port, IPv6}} {
			rows, err := e.Matrix(c)
			if err != nil {
				return
			}
			for row := range rows {
				s := w.Pods[row.Source]
				for i, d := range w.Pods {
					got := row.Verdict(i)
					from, hasFrom := addressOf(s, c.Family)
					to, hasTo := addressOf(d, c.Family)
					want := Unknown
					if hasFrom && hasTo {
						want = mustDecide(t, e, Query{Endpoint{s.Namespace, s.Name, from}, Endpoint{d.Namespace, d.Name, to}, c.Protocol, c.Port}).Verdict
					}
					if got != want {
						t.Fatalf("%s/%s to %s/%s %s: want %s, got %s", s.Namespace, s.Name, d.Namespace, d.Name, c, want, got)
					}
				}
			}
		}
	})
}
