package scenarios

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// The limits that the CRD of ClusterNetworkPolicy sets,
// https://github.com/kubernetes-sigs/network-policy-api/blob/main/apis/v1alpha2/clusternetworkpolicy_types.go
const (
	lastPriority = 1000
	longestRule  = 100 // characters of a rule's name
	mostInList   = 25  // rules, peers, protocols, networks, domain names
)

// domainNameForm is the CRD's pattern, with letters where it writes the range A-z, which holds six signs besides.
var domainNameForm = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$`)

// clusterValidator holds ClusterNetworkPolicies to the rules of their CRD, so that what loads is also accepted by a cluster that serves the kind.
type clusterValidator struct {
	// written tells a required field whose value may be zero from one that is missing.
	written func(*field.Path) bool
	cidrs   policyValidator
}

func (v clusterValidator) policy(p *npav1alpha2.ClusterNetworkPolicy, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	const inCluster = false
	metadata, spec := at.Child("metadata"), at.Child("spec")
	if p.Name == "" {
		errs = append(errs, field.Required(metadata.Child("name"), ""))
	} else {
		errs = append(errs, apivalidation.ValidateObjectMeta(&p.ObjectMeta, inCluster, apivalidation.NameIsDNSSubdomain, metadata)...)
	}
	if len(p.Status.Conditions) > 0 {
		errs = append(errs, field.Forbidden(at.Child("status"), "belongs to the implementation"))
	}
	tiers := []npav1alpha2.Tier{npav1alpha2.AdminTier, npav1alpha2.BaselineTier}
	switch {
	case p.Spec.Tier == "":
		errs = append(errs, field.Required(spec.Child("tier"), "Admin or Baseline"))
	case !slices.Contains(tiers, p.Spec.Tier):
		errs = append(errs, field.NotSupported(spec.Child("tier"), p.Spec.Tier, tiers))
	}
	priority := spec.Child("priority")
	switch {
	case !v.written(priority):
		errs = append(errs, field.Required(priority, "a number from 0, which comes first, to 1000"))
	case p.Spec.Priority < 0 || p.Spec.Priority > lastPriority:
		errs = append(errs, field.Invalid(priority, p.Spec.Priority, validation.InclusiveRangeError(0, lastPriority)))
	}
	subject := spec.Child("subject")
	errs = append(errs, exactlyOne(subject, []string{"namespaces", "pods"}, p.Spec.Subject.Namespaces != nil, p.Spec.Subject.Pods != nil)...)
	errs = append(errs, v.selectors(p.Spec.Subject.Namespaces, p.Spec.Subject.Pods, subject)...)
	errs = append(errs, atMost(spec.Child("ingress"), len(p.Spec.Ingress))...)
	errs = append(errs, atMost(spec.Child("egress"), len(p.Spec.Egress))...)
	for i, r := range p.Spec.Ingress {
		rule := spec.Child("ingress").Index(i)
		errs = append(errs, v.rule(rule, "from", r.Name, r.Action, len(r.From), r.Protocols)...)
		for j, peer := range r.From {
			each := rule.Child("from").Index(j)
			errs = append(errs, exactlyOne(each, []string{"namespaces", "pods"}, peer.Namespaces != nil, peer.Pods != nil)...)
			errs = append(errs, v.selectors(peer.Namespaces, peer.Pods, each)...)
		}
	}
	for i, r := range p.Spec.Egress {
		errs = append(errs, v.egress(&r, spec.Child("egress").Index(i))...)
	}
	return errs
}

func (v clusterValidator) egress(r *npav1alpha2.ClusterNetworkPolicyEgressRule, at *field.Path) field.ErrorList {
	errs := v.rule(at, "to", r.Name, r.Action, len(r.To), r.Protocols)
	unnamed := ""
	for i := range r.To {
		peer, each := &r.To[i], at.Child("to").Index(i)
		errs = append(errs, exactlyOne(each, []string{"namespaces", "pods", "nodes", "networks", "domainNames"},
			peer.Namespaces != nil, peer.Pods != nil, peer.Nodes != nil, peer.Networks != nil, peer.DomainNames != nil)...)
		errs = append(errs, v.selectors(peer.Namespaces, peer.Pods, each)...)
		if peer.Nodes != nil {
			unnamed = "nodes"
			errs = append(errs, selector(peer.Nodes, each.Child("nodes"))...)
		}
		if peer.Networks != nil {
			unnamed = "networks"
			errs = append(errs, oneTo(each.Child("networks"), len(peer.Networks))...)
			for j, cidr := range peer.Networks {
				errs = append(errs, v.network(string(cidr), each.Child("networks").Index(j))...)
			}
		}
		if peer.DomainNames != nil {
			unnamed = "domainNames"
			errs = append(errs, domainNames(peer.DomainNames, r.Action, each.Child("domainNames"))...)
		}
	}
	for i, p := range r.Protocols {
		if p.DestinationNamedPort != "" && unnamed != "" {
			errs = append(errs, field.Forbidden(at.Child("protocols").Index(i).Child("destinationNamedPort"), "may not be specified with "+unnamed+", which have no named ports"))
		}
	}
	return errs
}

// network checks a CIDR as the CRD's isCIDR does, which takes bits beyond the prefix but no IPv4 address written as IPv6, or a placeholder.
func (v clusterValidator) network(s string, at *field.Path) field.ErrorList {
	if strings.Contains(s, placeholderStart) {
		errs, _ := v.cidrs.cidr(s, at)
		return errs
	}
	if p, err := netip.ParsePrefix(s); err != nil || p.Addr().Is4In6() {
		return field.ErrorList{field.Invalid(at, s, "must be a CIDR, such as 10.0.0.0/8 or fd00::/8")}
	}
	return nil
}

// rule is what rules of both directions have in common.
func (v clusterValidator) rule(at *field.Path, list, name string, a npav1alpha2.ClusterNetworkPolicyRuleAction, peers int, protocols []npav1alpha2.ClusterNetworkPolicyProtocol) field.ErrorList {
	var errs field.ErrorList
	if len(name) > longestRule {
		errs = append(errs, field.Invalid(at.Child("name"), name, validation.MaxLenError(longestRule)))
	}
	actions := []npav1alpha2.ClusterNetworkPolicyRuleAction{
		npav1alpha2.ClusterNetworkPolicyRuleActionAccept, npav1alpha2.ClusterNetworkPolicyRuleActionDeny, npav1alpha2.ClusterNetworkPolicyRuleActionPass,
	}
	switch {
	case a == "":
		errs = append(errs, field.Required(at.Child("action"), "Accept, Deny or Pass"))
	case !slices.Contains(actions, a):
		errs = append(errs, field.NotSupported(at.Child("action"), a, actions))
	}
	if peers == 0 {
		errs = append(errs, field.Required(at.Child(list), "every pod is namespaces: {}"))
	}
	errs = append(errs, atMost(at.Child(list), peers)...)
	if protocols != nil {
		errs = append(errs, oneTo(at.Child("protocols"), len(protocols))...)
	}
	for i, p := range protocols {
		errs = append(errs, v.protocol(&p, at.Child("protocols").Index(i))...)
	}
	return errs
}

func (v clusterValidator) protocol(p *npav1alpha2.ClusterNetworkPolicyProtocol, at *field.Path) field.ErrorList {
	errs := exactlyOne(at, []string{"tcp", "udp", "sctp", "destinationNamedPort"}, p.TCP != nil, p.UDP != nil, p.SCTP != nil, p.DestinationNamedPort != "")
	if p.TCP != nil {
		errs = append(errs, clusterPort(p.TCP.DestinationPort, at.Child("tcp", "destinationPort"))...)
	}
	if p.UDP != nil {
		errs = append(errs, clusterPort(p.UDP.DestinationPort, at.Child("udp", "destinationPort"))...)
	}
	if p.SCTP != nil {
		errs = append(errs, clusterPort(p.SCTP.DestinationPort, at.Child("sctp", "destinationPort"))...)
	}
	return errs
}

// clusterPort checks a destination port, which is the one property of a protocol, of which the CRD wants one at least.
func clusterPort(p *npav1alpha2.Port, at *field.Path) field.ErrorList {
	if p == nil {
		return field.ErrorList{field.Required(at, "every port of a protocol is range: {start: 1, end: 65535}")}
	}
	errs := exactlyOne(at, []string{"number", "range"}, p.Number != 0, p.Range != nil)
	inRange := func(n int32, at *field.Path) {
		for _, msg := range validation.IsValidPortNum(int(n)) {
			errs = append(errs, field.Invalid(at, n, msg))
		}
	}
	if p.Number != 0 {
		inRange(p.Number, at.Child("number"))
	}
	if r := p.Range; r != nil {
		inRange(r.Start, at.Child("range", "start"))
		inRange(r.End, at.Child("range", "end"))
		if r.Start >= r.End {
			errs = append(errs, field.Invalid(at.Child("range", "end"), r.End, fmt.Sprintf("must be greater than start, which is %d", r.Start)))
		}
	}
	return errs
}

// selectors checks what subjects and peers have in common; which of them is missing is told elsewhere.
func (v clusterValidator) selectors(namespaces *metav1.LabelSelector, pods *npav1alpha2.NamespacedPod, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if namespaces != nil {
		errs = append(errs, selector(namespaces, at.Child("namespaces"))...)
	}
	if pods == nil {
		return errs
	}
	for _, half := range []struct {
		name     string
		selector *metav1.LabelSelector
	}{{"namespaceSelector", &pods.NamespaceSelector}, {"podSelector", &pods.PodSelector}} {
		each := at.Child("pods", half.name)
		if !v.written(each) {
			errs = append(errs, field.Required(each, "all of them is {}"))
			continue
		}
		errs = append(errs, selector(half.selector, each)...)
	}
	return errs
}

func selector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	return metav1validation.ValidateLabelSelector(s, metav1validation.LabelSelectorValidationOptions{}, at)
}

func domainNames(names []npav1alpha2.DomainName, a npav1alpha2.ClusterNetworkPolicyRuleAction, at *field.Path) field.ErrorList {
	errs := oneTo(at, len(names))
	if a == npav1alpha2.ClusterNetworkPolicyRuleActionDeny || a == npav1alpha2.ClusterNetworkPolicyRuleActionPass {
		errs = append(errs, field.Forbidden(at, "go with action Accept only, the rule has "+string(a)))
	}
	for i, n := range names {
		if !domainNameForm.MatchString(string(n)) {
			errs = append(errs, field.Invalid(at.Index(i), string(n), "must be a domain name of two labels or more, which may begin with *."))
		}
	}
	return errs
}

// exactlyOne wants one of the named fields to be there.
func exactlyOne(at *field.Path, names []string, there ...bool) field.ErrorList {
	var written []string
	for i, is := range there {
		if is {
			written = append(written, names[i])
		}
	}
	switch len(written) {
	case 0:
		return field.ErrorList{field.Required(at, fmt.Sprintf("write one of %s", text(names)))}
	case 1:
		return nil
	default:
		return field.ErrorList{field.Forbidden(at, fmt.Sprintf("wants exactly one of %s, has %s", text(names), text(written)))}
	}
}

func text(names []string) string {
	out := ""
	for i, n := range names {
		switch {
		case i == 0:
		case i == len(names)-1:
			out += " and "
		default:
			out += ", "
		}
		out += n
	}
	return out
}

func atMost(at *field.Path, n int) field.ErrorList {
	if n <= mostInList {
		return nil
	}
	return field.ErrorList{field.Forbidden(at, fmt.Sprintf("has %d items, at most %d are allowed", n, mostInList))}
}

// oneTo is atMost for a list that is written but may not be empty.
func oneTo(at *field.Path, n int) field.ErrorList {
	if n == 0 {
		return field.ErrorList{field.Forbidden(at, "is empty: leave it out, or write an item")}
	}
	return atMost(at, n)
}
