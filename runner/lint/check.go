package lint

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// IgnoreAnnotation names, on a policy, the rules it is exempt from, with commas between them; on nothing else has it a meaning.
const IgnoreAnnotation = "lint.gapproof.dev/ignore"

// Options say what is known beyond the set.
type Options struct {
	// PodRanges are the cluster's pod networks, for the rule about ipBlock. Default: the pods' own addresses where they are real.
	PodRanges []netip.Prefix
}

// Check holds the set against every rule. The findings are ordered by file and line. The error tells of policies that the API server would
// refuse, as [reach.Compile] has it.
func Check(set *manifest.Set, o Options) ([]Finding, error) {
	engine, err := set.Compile()
	if err != nil {
		return nil, fmt.Errorf("compiling the policies: %w", err)
	}
	c := checker{set: set, options: o, engine: engine, namespaces: map[string]labels.Set{}, members: map[string][]int{}}
	for _, ns := range set.World.Namespaces {
		l := maps.Clone(ns.Labels)
		if l == nil {
			l = map[string]string{}
		}
		l[corev1.LabelMetadataName] = ns.Name
		c.namespaces[ns.Name] = l
	}
	for i := range set.World.Pods {
		if p := &set.World.Pods[i]; !p.HostNetwork { // selectors never match those
			c.members[p.Namespace] = append(c.members[p.Namespace], i)
		}
	}
	for i := range set.Policies {
		c.policy(&set.Policies[i])
	}
	c.clusterPolicies()
	c.defaultDeny()
	c.dns()
	c.across()
	order(c.findings)
	return c.findings, nil
}

// CheckSteps checks a scenario: one set per step, in order. What a rule finds in one step but not in another where the same policy is in effect is no
// finding: the steps are there to change it.
func CheckSteps(steps []*manifest.Set, o Options) ([]Finding, error) {
	type key struct {
		rule, subject, field string
		place                manifest.Place
	}
	times := map[key]int{}
	var all []Finding
	for _, set := range steps {
		found, err := Check(set, o)
		if err != nil {
			return nil, err
		}
		here := map[key]struct{}{}
		for _, f := range found {
			k := key{f.Rule, f.Subject, f.Field, f.Place}
			if _, twice := here[k]; twice {
				continue
			}
			here[k] = struct{}{}
			if times[k]++; times[k] == 1 {
				all = append(all, f)
			}
		}
	}
	out := slices.DeleteFunc(all, func(f Finding) bool {
		n := 0
		for _, set := range steps {
			if inEffect(set, f) {
				n++
			}
		}
		return times[key{f.Rule, f.Subject, f.Field, f.Place}] < n
	})
	order(out)
	return out, nil
}

// inEffect tells whether what a finding is about is in the set; a replaced policy has another place than the one it replaces.
func inEffect(set *manifest.Set, f Finding) bool {
	name, isPolicy := strings.CutPrefix(f.Subject, "policy ")
	if !isPolicy {
		return true
	}
	p := set.Find(name)
	return p != nil && p.Place(f.Field) == f.Place
}

// checker is one call of Check.
type checker struct {
	set        *manifest.Set
	options    Options
	engine     *reach.Engine
	namespaces map[string]labels.Set // with the API server's own label
	members    map[string][]int      // pods that selectors can match, by namespace
	findings   []Finding
}

// add records a finding about a field of a policy.
func (c *checker) add(p *manifest.Policy, rule, field, message, hint string) {
	c.addAs(severityOf(rule), p, rule, field, message, hint)
}

func (c *checker) addAs(s Severity, p *manifest.Policy, rule, field, message, hint string) {
	if slices.Contains(exemptions(p.Spec.Annotations), rule) {
		return
	}
	c.findings = append(c.findings, Finding{
		Rule: rule, Severity: s, Place: p.Place(field), Subject: "policy " + p.Name(), Field: field, Message: message, Hint: hint,
	})
}

// exemptions are the rules that the annotation names.
func exemptions(annotations map[string]string) []string {
	var out []string
	for id := range strings.SplitSeq(annotations[IgnoreAnnotation], ",") {
		if id = strings.TrimSpace(id); id != "" {
			out = append(out, id)
		}
	}
	return out
}

// unknownExemptions calls found with what the annotation names that is no rule.
func unknownExemptions(annotations map[string]string, found func(field, message, hint string)) {
	var known []string
	for _, r := range Rules() {
		known = append(known, r.ID)
	}
	for _, id := range exemptions(annotations) {
		if slices.Contains(known, id) {
			continue
		}
		hint := "gapproof lint --rules"
		if near := nearest(id, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		found("metadata.annotations."+IgnoreAnnotation, fmt.Sprintf("there is no rule %q: the policy is exempt from nothing by it", id), hint)
	}
}

// knowsPods tells whether it means anything that a selector matches no pod.
func (c *checker) knowsPods() bool { return c.set.Pods == manifest.SomePods }

// direction is one direction of a policy's rules.
type direction struct {
	kind  networkingv1.PolicyType
	field string // of the spec
	list  string // of a rule: from or to
	other string // what its peers stand for
}

var (
	ingress = direction{networkingv1.PolicyTypeIngress, "ingress", "from", "source"}
	egress  = direction{networkingv1.PolicyTypeEgress, "egress", "to", "destination"}
)

// rule is one item of ingress or egress.
type rule struct {
	direction
	policy *manifest.Policy
	field  string // "spec.ingress[0]"
	peers  []networkingv1.NetworkPolicyPeer
	ports  []networkingv1.NetworkPolicyPort
}

// at is the path of the rule's peer i.
func (r *rule) at(i int) string { return fmt.Sprintf("%s.%s[%d]", r.field, r.list, i) }

func rulesOf(p *manifest.Policy) []rule {
	var out []rule
	for i, r := range p.Spec.Spec.Ingress {
		out = append(out, rule{ingress, p, fmt.Sprintf("spec.ingress[%d]", i), r.From, r.Ports})
	}
	for i, r := range p.Spec.Spec.Egress {
		out = append(out, rule{egress, p, fmt.Sprintf("spec.egress[%d]", i), r.To, r.Ports})
	}
	return out
}

// isolates tells whether the policy has a say in the direction, with the API server's default for policyTypes.
func isolates(p *manifest.Policy, d direction) bool {
	types := p.Spec.Spec.PolicyTypes
	if len(types) == 0 {
		return d.kind == networkingv1.PolicyTypeIngress || len(p.Spec.Spec.Egress) > 0
	}
	return slices.Contains(types, d.kind)
}

func (c *checker) policy(p *manifest.Policy) {
	unknownExemptions(p.Spec.Annotations, func(field, message, hint string) { c.add(p, ignoreUnknown, field, message, hint) })
	c.types(p)
	c.selection(p)
	rules := rulesOf(p)
	for i := range rules {
		r := &rules[i]
		c.lists(r)
		c.peers(r)
		c.ports(r)
	}
	c.covered(rules)
}

// types finds rules that policyTypes leaves out.
func (c *checker) types(p *manifest.Policy) {
	spec := p.Spec.Spec
	for _, d := range []struct {
		direction
		rules int
	}{{ingress, len(spec.Ingress)}, {egress, len(spec.Egress)}} {
		field := "spec." + d.direction.field
		switch {
		case len(spec.PolicyTypes) > 0 && d.rules > 0 && !slices.Contains(spec.PolicyTypes, d.kind):
			c.add(p, ignoredRules, field, fmt.Sprintf("policyTypes does not name %s: the %s rules are ignored", d.kind, d.direction.field),
				fmt.Sprintf("add %s to policyTypes, or remove the rules", d.kind))
		case len(spec.PolicyTypes) == 0 && d.rules == 0 && d.kind == networkingv1.PolicyTypeEgress && (spec.Egress != nil || p.Lines.Written(field)):
			c.add(p, ignoredRules, field, "egress is empty and policyTypes is missing: egress is not isolated",
				"to deny all egress write policyTypes: [Ingress, Egress]")
		}
	}
}

// selection finds a policy that selects no pod.
func (c *checker) selection(p *manifest.Policy) {
	const field = "spec.podSelector"
	if !c.knowsPods() {
		return
	}
	if _, known := c.namespaces[p.Spec.Namespace]; !known {
		hint := ""
		if near := nearest(p.Spec.Namespace, slices.Sorted(maps.Keys(c.namespaces))); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.add(p, namespaceMissing, "metadata.namespace", fmt.Sprintf("there is no namespace %s: the policy selects no pod", p.Spec.Namespace), hint)
		return
	}
	s := p.Spec.Spec.PodSelector
	if isEmpty(&s) {
		return
	}
	members := c.members[p.Spec.Namespace]
	matches := len(c.matching(members, s)) > 0
	typo := c.typos(p, field, s, c.podLabels(members), "pod of "+p.Spec.Namespace, matches)
	if matches || typo {
		return
	}
	if len(members) == 0 {
		c.addAs(Warning, p, selectsNothing, field, fmt.Sprintf("podSelector %s selects no pod: %s has none", text(&s), p.Spec.Namespace),
			"give the files that hold its workloads, too")
		return
	}
	c.add(p, selectsNothing, field, fmt.Sprintf("podSelector %s selects no pod of %s", text(&s), p.Spec.Namespace), inUse(c.podLabels(members), &s, "the pods have"))
}

// lists finds lists that are empty, and rules that admit everybody.
func (c *checker) lists(r *rule) {
	peersWritten := r.peers != nil || r.policy.Lines.Written(r.field+"."+r.list)
	portsWritten := r.ports != nil || r.policy.Lines.Written(r.field+".ports")
	if len(r.peers) == 0 && peersWritten {
		c.add(r.policy, emptyList, r.field+"."+r.list, fmt.Sprintf("%s is empty: every %s matches", r.list, r.other),
			fmt.Sprintf("to admit nobody, write no rule at all (%s: []); to admit everybody, leave %s out", r.direction.field, r.list))
	}
	if len(r.ports) == 0 && portsWritten {
		c.add(r.policy, emptyList, r.field+".ports", "ports is empty: every port matches", "name the ports, or leave ports out")
	}
	if len(r.peers) > 0 || peersWritten {
		return
	}
	if len(r.ports) == 0 && !portsWritten {
		c.add(r.policy, allowAll, r.field, fmt.Sprintf("the rule is empty: every %s matches, on every port", r.other), fmt.Sprintf("name the %ss in %s", r.other, r.list))
		return
	}
	c.addAs(Note, r.policy, allowAll, r.field, fmt.Sprintf("%s is missing: every %s matches, outside of the cluster too", r.list, r.other),
		fmt.Sprintf("name the %ss in %s unless everybody is meant", r.other, r.list))
}

func (c *checker) peers(r *rule) {
	explained := -1 // a peer that matches nothing because it was written as an item of its own
	for i := range r.peers {
		if at := c.union(r, i); at >= 0 {
			explained = at
		}
		peer := &r.peers[i]
		if peer.IPBlock != nil {
			c.block(r, i)
			continue
		}
		if peer.NamespaceSelector != nil && isEmpty(peer.NamespaceSelector) && isEmpty(peer.PodSelector) && !c.told(r, i, i-1) && !c.told(r, i, i+1) {
			c.add(r.policy, allowAll, r.at(i)+".namespaceSelector", "namespaceSelector {} matches every pod of every namespace",
				"name the namespaces, such as by the label "+corev1.LabelMetadataName)
		}
		if i != explained {
			c.peer(r, i)
		}
	}
}

// peer finds one that matches nothing.
func (c *checker) peer(r *rule, i int) {
	if !c.knowsPods() {
		return
	}
	peer, at := &r.peers[i], r.at(i)
	names := []string{r.policy.Spec.Namespace}
	if peer.NamespaceSelector != nil {
		names = c.matchingNamespaces(peer.NamespaceSelector)
		typo := c.typos(r.policy, at+".namespaceSelector", *peer.NamespaceSelector, c.namespaceLabels(), "namespace", len(names) > 0)
		if len(names) == 0 {
			if !typo {
				c.add(r.policy, peerNothing, at+".namespaceSelector", fmt.Sprintf("namespaceSelector %s matches no namespace", text(peer.NamespaceSelector)), c.namespaceHint(peer.NamespaceSelector))
			}
			return
		}
	} else if _, known := c.namespaces[r.policy.Spec.Namespace]; !known {
		return // told already
	}
	var members []int
	for _, n := range names {
		members = append(members, c.members[n]...)
	}
	if peer.PodSelector == nil {
		return // namespaces are there, though they may be empty still
	}
	if isEmpty(peer.PodSelector) {
		return
	}
	matches := len(c.matching(members, *peer.PodSelector)) > 0
	if typo := c.typos(r.policy, at+".podSelector", *peer.PodSelector, c.podLabels(members), "pod of "+few(names), matches); typo || matches {
		return
	}
	c.add(r.policy, peerNothing, at+".podSelector", fmt.Sprintf("podSelector %s matches no pod of %s", text(peer.PodSelector), few(names)),
		inUse(c.podLabels(members), peer.PodSelector, "the pods have"))
}

// namespaceHint says which namespaces there are, or that their labels are not known.
func (c *checker) namespaceHint(s *metav1.LabelSelector) string {
	if hint := inUse(c.namespaceLabels(), s, "the namespaces have"); hint != "" {
		return hint
	}
	for _, ns := range c.set.World.Namespaces {
		if _, written := c.set.Places[ns.Name]; !written && len(ns.Labels) == 0 {
			return "give the files that hold the Namespace objects, too: labels of " + ns.Name + " are not known"
		}
	}
	return ""
}

// union finds a namespaceSelector and a podSelector in neighbouring items, i and the next, where both in one were likely meant. It is surely so when the
// podSelector matches something in those namespaces and nothing in the policy's own; then the index of that peer comes back, else -1.
func (c *checker) union(r *rule, i int) (explained int) {
	if i+1 >= len(r.peers) {
		return -1
	}
	namespaces, pods, podsAt := &r.peers[i], &r.peers[i+1], i+1
	if namespaces.NamespaceSelector == nil {
		namespaces, pods, podsAt = pods, namespaces, i
	}
	if !onlyNamespaces(namespaces) || !onlyPods(pods) || isEmpty(pods.PodSelector) {
		return -1
	}
	severity := severityOf(selectorUnion)
	explained = -1
	message := fmt.Sprintf("%s[%d] and %s[%d] are two peers and either is enough: every pod of namespaces %s, and pods %s of %s", r.list, i, r.list, i+1,
		text(namespaces.NamespaceSelector), text(pods.PodSelector), r.policy.Spec.Namespace)
	if isEmpty(namespaces.NamespaceSelector) {
		message = fmt.Sprintf("%s[%d] and %s[%d] are two peers and either is enough: every pod of every namespace matches, whatever podSelector %s says", r.list, i, r.list, i+1,
			text(pods.PodSelector))
	}
	if c.knowsPods() {
		var there []int
		for _, n := range c.matchingNamespaces(namespaces.NamespaceSelector) {
			there = append(there, c.members[n]...)
		}
		both := c.matching(there, *pods.PodSelector)
		here := c.matching(c.members[r.policy.Spec.Namespace], *pods.PodSelector)
		either := slices.Concat(there, here)
		slices.Sort(either)
		either = slices.Compact(either)
		switch {
		case len(here) == 0 && len(both) > 0: // even where no other pod is in those namespaces yet
			severity, explained = Error, podsAt
			message += fmt.Sprintf("; the pods %s are there and not in %s", text(pods.PodSelector), r.policy.Spec.Namespace)
		case len(either) == len(both):
			return -1 // the union is no wider than the intersection
		}
		message += fmt.Sprintf(" (pods that match: %d; with both selectors in one item: %d)", len(either), len(both))
	}
	second := "podSelector"
	if r.peers[i+1].NamespaceSelector != nil {
		second = "namespaceSelector"
	}
	c.addAs(severity, r.policy, selectorUnion, r.at(i+1), message, fmt.Sprintf("if both must match, remove the \"-\" before %s", second))
	return explained
}

func onlyNamespaces(p *networkingv1.NetworkPolicyPeer) bool {
	return p.IPBlock == nil && p.NamespaceSelector != nil && p.PodSelector == nil
}

func onlyPods(p *networkingv1.NetworkPolicyPeer) bool {
	return p.IPBlock == nil && p.NamespaceSelector == nil && p.PodSelector != nil
}
