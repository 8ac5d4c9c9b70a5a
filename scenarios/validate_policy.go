package scenarios

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePolicy holds a policy to the rules of the API server (k8s.io/kubernetes/pkg/apis/networking/validation, which cannot be imported), so
// that what loads is also accepted by a cluster. Beyond them a namespace must be written: nothing here has a default namespace.
// hosts tells which "namespace/pod" or "outside:NAME" a placeholder may name.
func validatePolicy(p *networkingv1.NetworkPolicy, at *field.Path, hosts func(string) bool) field.ErrorList {
	var errs field.ErrorList
	metadata := at.Child("metadata")
	switch {
	case p.Name == "":
		errs = append(errs, field.Required(metadata.Child("name"), ""))
	case p.Namespace == "":
		errs = append(errs, field.Required(metadata.Child("namespace"), "a policy acts on the pods of its own namespace"))
	default:
		errs = append(errs, apivalidation.ValidateObjectMeta(&p.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, metadata)...)
	}
	v := policyValidator{hosts: hosts}
	spec := at.Child("spec")
	errs = append(errs, metav1validation.ValidateLabelSelector(&p.Spec.PodSelector, metav1validation.LabelSelectorValidationOptions{}, spec.Child("podSelector"))...)
	for i, r := range p.Spec.Ingress {
		errs = append(errs, v.rule(spec.Child("ingress").Index(i), "from", r.From, r.Ports)...)
	}
	for i, r := range p.Spec.Egress {
		errs = append(errs, v.rule(spec.Child("egress").Index(i), "to", r.To, r.Ports)...)
	}
	return append(errs, validatePolicyTypes(p.Spec.PolicyTypes, spec.Child("policyTypes"))...)
}

func validatePolicyTypes(types []networkingv1.PolicyType, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	known := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	if len(types) > len(known) {
		return field.ErrorList{field.Invalid(at, len(types), "may not hold more than two policyTypes")}
	}
	for i, t := range types {
		if t != networkingv1.PolicyTypeIngress && t != networkingv1.PolicyTypeEgress {
			errs = append(errs, field.NotSupported(at.Index(i), t, known))
		}
	}
	return errs
}

type policyValidator struct{ hosts func(string) bool }

func (v policyValidator) rule(at *field.Path, list string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) field.ErrorList {
	var errs field.ErrorList
	for i := range ports {
		errs = append(errs, validatePolicyPort(&ports[i], at.Child("ports").Index(i))...)
	}
	for i := range peers {
		errs = append(errs, v.peer(&peers[i], at.Child(list).Index(i))...)
	}
	return errs
}

func validatePolicyPort(p *networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil && !isProtocol(*p.Protocol) {
		errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, protocols()))
	}
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when port is not specified"))
		}
	case p.Port.Type == intstr.String:
		for _, msg := range validation.IsValidPortName(p.Port.StrVal) {
			errs = append(errs, field.Invalid(at.Child("port"), p.Port.StrVal, msg))
		}
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when port is a name"))
		}
	default:
		for _, msg := range validation.IsValidPortNum(int(p.Port.IntVal)) {
			errs = append(errs, field.Invalid(at.Child("port"), p.Port.IntVal, msg))
		}
		if p.EndPort == nil {
			break
		}
		if *p.EndPort < p.Port.IntVal {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, fmt.Sprintf("must not be less than port, which is %d", p.Port.IntVal)))
		}
		for _, msg := range validation.IsValidPortNum(int(*p.EndPort)) {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, msg))
		}
	}
	return errs
}

func (v policyValidator) peer(p *networkingv1.NetworkPolicyPeer, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	var options metav1validation.LabelSelectorValidationOptions
	if p.PodSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(p.PodSelector, options, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(p.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	}
	selectors := p.PodSelector != nil || p.NamespaceSelector != nil
	switch {
	case p.IPBlock == nil && !selectors:
		errs = append(errs, field.Required(at, "must specify a peer: podSelector, namespaceSelector or ipBlock"))
	case p.IPBlock != nil:
		if selectors {
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
		errs = append(errs, v.ipBlock(p.IPBlock, at.Child("ipBlock"))...)
	}
	return errs
}

func (v policyValidator) ipBlock(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs, cidr := v.cidr(b.CIDR, at.Child("cidr"))
	for i, e := range b.Except {
		exceptErrs, except := v.cidr(e, at.Child("except").Index(i))
		errs = append(errs, exceptErrs...)
		if !cidr.IsValid() || !except.IsValid() { // wrong, or known only once placeholders have addresses: see Substitute
			continue
		}
		if !strictlyWithin(except, cidr) {
			errs = append(errs, field.Invalid(at.Child("except").Index(i), e, "must be a strict subset of cidr, which is "+b.CIDR))
		}
	}
	return errs
}

func strictlyWithin(inner, outer netip.Prefix) bool {
	return outer.Contains(inner.Addr()) && outer.Bits() < inner.Bits()
}

// cidr checks a CIDR or a placeholder for one. The prefix is invalid when it is wrong or not known yet.
func (v policyValidator) cidr(s string, at *field.Path) (field.ErrorList, netip.Prefix) {
	if strings.Contains(s, placeholderStart) {
		p, err := parsePlaceholder(s)
		switch {
		case err != nil:
			return field.ErrorList{field.Invalid(at, s, err.Error())}, netip.Prefix{}
		case !v.hosts(p.host.Name):
			what := "pod "
			if IsOutside(p.host.Name) {
				what = "host "
			}
			return field.ErrorList{field.Invalid(at, s, "the world has no "+what+p.host.Name)}, netip.Prefix{}
		}
		return nil, netip.Prefix{}
	}
	// Strict since Kubernetes 1.36 (StrictIPCIDRValidation): no leading zeros, no bits beyond the prefix.
	const strict = true
	if errs := validation.IsValidCIDRForLegacyField(at, s, strict, nil); len(errs) > 0 {
		return errs, netip.Prefix{}
	}
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return field.ErrorList{field.Invalid(at, s, err.Error())}, netip.Prefix{}
	}
	return nil, prefix
}

func isProtocol(p corev1.Protocol) bool {
	return p == corev1.ProtocolTCP || p == corev1.ProtocolUDP || p == corev1.ProtocolSCTP
}

func protocols() []corev1.Protocol {
	return []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
}

// fieldErrors records the errors of apimachinery's validation as faults.
func (d *document) fieldErrors(errs field.ErrorList) {
	for _, e := range errs {
		detail := e.Detail
		switch e.Type {
		case field.ErrorTypeRequired:
			d.fault(e.Field, nil, detail, "is missing")
		case field.ErrorTypeForbidden:
			d.fault(e.Field, nil, "", "%s", detail)
		case field.ErrorTypeNotSupported:
			d.fault(e.Field, e.BadValue, detail, "%q is not supported", fmt.Sprint(e.BadValue))
		default:
			d.fault(e.Field, e.BadValue, invalidHint(e), "%s: %s", quoted(e.BadValue), withoutRegexp(detail))
		}
	}
}

// quoted is a value as it may be typed.
func quoted(v any) string {
	if reflect.ValueOf(v).Kind() == reflect.String {
		return fmt.Sprintf("%q", v)
	}
	return fmt.Sprint(v)
}

// withoutRegexp leaves out the examples and the regular expression that apimachinery puts behind what it says in words.
func withoutRegexp(detail string) string {
	if strings.Contains(detail, "regex used for validation") {
		detail, _, _ = strings.Cut(detail, " (e.g. ")
	}
	return detail
}

// invalidHint knows the mistakes that people make most.
func invalidHint(e *field.Error) string {
	s, isString := e.BadValue.(string)
	if isString && strings.HasSuffix(e.Field, ".port") && s != "" && strings.Trim(s, "0123456789") == "" {
		return "a number is written without quotes: " + s
	}
	return ""
}
