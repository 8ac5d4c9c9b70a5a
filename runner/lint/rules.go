package lint

// Rule describes one rule.
type Rule struct {
	ID string
	// Title is what a finding of it shows, in a few words.
	Title string
	// Why says what goes wrong where the rule does not hold.
	Why string
	// Severity is that of its findings, unless one knows better.
	Severity Severity
}

// The identifiers of the rules.
const (
	allowAll             = "allow-all"
	egressWithoutDNS     = "egress-without-dns"
	emptyList            = "empty-list"
	exceptUseless        = "except-useless"
	halfOpen             = "half-open"
	ignoreUnknown        = "ignore-unknown"
	ignoredRules         = "ignored-rules"
	ipBlockPods          = "ipblock-covers-pods"
	labelTypo            = "label-typo"
	namespaceMissing     = "namespace-missing"
	noDenyEgress         = "no-default-deny-egress"
	noDenyIngress        = "no-default-deny-ingress"
	peerNothing          = "peer-matches-nothing"
	policyShadowed       = "policy-shadowed"
	portName             = "port-name-unknown"
	portSilent           = "port-not-listened"
	priorityShared       = "priority-shared"
	ruleCovered          = "rule-covered"
	ruleCoveredElsewhere = "rule-covered-elsewhere"
	ruleUnreachable      = "rule-unreachable"
	selectorUnion        = "selector-union"
	selectsNothing       = "selects-no-pod"
)

// Rules are all rules, in the order of their identifiers.
func Rules() []Rule {
	return []Rule{
		{allowAll, "a rule or peer admits everybody", "A rule without from or to admits every source or destination, outside of the cluster too; an empty namespaceSelector admits every pod of every namespace.", Warning},
		{egressWithoutDNS, "restricted egress without DNS", "A pod whose egress is restricted can resolve no name unless a rule admits UDP and TCP 53 to the resolver; what it is allowed to reach it then does not find.", Warning},
		{emptyList, "an empty list admits everything", "An empty from, to or ports means the same as a missing one: everything matches. It reads like the opposite.", Error},
		{exceptUseless, "an except without effect", "An except takes addresses out of its own cidr alone. One that is covered by another, or is admitted again by the next peer, changes nothing.", Warning},
		{halfOpen, "a connection that only one end admits", "A connection needs egress at its source and ingress at its destination. A rule whose every connection is refused at the other end admits nothing.", Warning},
		{ignoreUnknown, "an exemption from a rule that there is not", "A policy is exempt from the rules that its annotation " + IgnoreAnnotation + " names. A name that no rule has exempts it from nothing.", Error},
		{ignoredRules, "rules that policyTypes leaves out", "Rules of a direction that policyTypes does not name are ignored, and an empty egress without policyTypes isolates nothing.", Error},
		{ipBlockPods, "an ipBlock covers pod addresses", "ipBlock is meant for addresses outside of the cluster. Some CNIs match pods by it and some never do, so the same policy admits different pods.", Warning},
		{labelTypo, "a label that is nearly one in use", "Nothing has the label that a selector wants, but something has one that differs by a letter or two.", Error},
		{namespaceMissing, "a policy in a namespace that is not there", "A policy acts on the pods of its own namespace alone.", Error},
		{noDenyEgress, "a namespace without default deny for egress", "Pods that no policy isolates for egress may connect to everything. A policy with an empty podSelector isolates every pod, those of tomorrow included.", Warning},
		{noDenyIngress, "a namespace without default deny for ingress", "Pods that no policy isolates for ingress accept connections from everywhere. A policy with an empty podSelector isolates every pod, those of tomorrow included.", Warning},
		{peerNothing, "a peer that matches nothing", "A peer whose selectors match no pod, or whose excepts take out all of its cidr, admits nobody.", Warning},
		{policyShadowed, "a policy beside one that admits everything", "Policies add up. Where another policy admits everything to the same pods, neither the rules of this one nor its denial have an effect.", Warning},
		{portName, "a named port that nobody has", "A named port means the number that the destination pod gives it. Where no pod has the name, nothing is admitted.", Error},
		{portSilent, "a port that nobody listens on", "Policies see the pod's port, behind a Service's translation. A rule for a port that no destination declares admits nothing that works.", Warning},
		{priorityShared, "two policies of one priority about one pod", "Of two ClusterNetworkPolicies of one tier and one priority an implementation may apply either, and nobody can tell which.", Warning},
		{ruleCovered, "a rule that another covers", "Rules add up. What a wider rule of the same policy admits already, a narrower one cannot restrict.", Warning},
		{ruleCoveredElsewhere, "a rule that another policy's covers", "Policies add up. What a wider rule of another policy admits to the same pods already, a narrower one cannot restrict.", Note},
		{ruleUnreachable, "a rule that is never asked", "The first matching rule of a ClusterNetworkPolicy decides. One behind a rule that matches the same traffic and more has no effect.", Error},
		{selectorUnion, "two peers where one was likely meant", "Selectors in one list item must both match; in two list items either is enough. One \"-\" too many turns AND into OR.", Warning},
		{selectsNothing, "a policy that selects no pod", "A policy whose podSelector matches no pod of its namespace protects nothing; a ClusterNetworkPolicy whose subject matches no pod decides nothing.", Error},
	}
}

func severityOf(id string) Severity {
	for _, r := range Rules() {
		if r.ID == id {
			return r.Severity
		}
	}
	return Unknown
}
