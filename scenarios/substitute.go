package scenarios

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// placeholderStart begins a placeholder. No CIDR contains it.
const placeholderStart = "${"

// placeholder stands for a CIDR around an address that nobody knows when writing a scenario:
//
//	${pod:x/a}        the first address of pod a in namespace x alone
//	${pod:x/a}/24     the network of 24 bits that the address lies in
//	${pod:x/a}/0      every address of its family, which is the one that pods have first: 0.0.0.0/0 or ::/0
//	${pod:x/a:IPv6}   the pod's address of that family
//	${outside:b}      the address of the host b outside the cluster; with family and bits likewise
//
// It may stand in ipBlock.cidr and ipBlock.except, and in networks of a ClusterNetworkPolicy, nowhere else.
type placeholder struct {
	host Host
	bits int // -1: all of the address
}

// Host is whose address a placeholder stands for.
type Host struct {
	// Name is "namespace/pod" or "outside:NAME".
	Name string
	// Family is that of the address; empty for the host's first.
	Family corev1.IPFamily
}

var placeholderForm = regexp.MustCompile(`^\$\{(?:pod:([a-z0-9-]+/[a-z0-9-]+)|(outside:[a-z0-9-]+))(?::(IPv4|IPv6))?\}(?:/([0-9]{1,3}))?$`)

const longestPrefix = 128

func parsePlaceholder(s string) (placeholder, error) {
	m := placeholderForm.FindStringSubmatch(s)
	if m == nil {
		return placeholder{}, errors.New("a placeholder is ${pod:NAMESPACE/POD} or ${outside:NAME}, with :IPv4 or :IPv6 before the brace, or /BITS behind it, where wanted")
	}
	p := placeholder{host: Host{Name: m[1] + m[2], Family: corev1.IPFamily(m[3])}, bits: -1}
	if m[4] != "" {
		bits, err := strconv.Atoi(m[4])
		if err != nil || bits > longestPrefix {
			return placeholder{}, fmt.Errorf("a prefix has at most %d bits", longestPrefix)
		}
		p.bits = bits
	}
	return p, nil
}

func (p placeholder) prefix(address func(Host) (netip.Addr, bool)) (netip.Prefix, error) {
	a, known := address(p.host)
	switch {
	case !known && IsOutside(p.host.Name):
		return netip.Prefix{}, fmt.Errorf("host %s has no known address", p.host.Name)
	case !known:
		return netip.Prefix{}, fmt.Errorf("pod %s has no known address", p.host.Name)
	}
	bits := p.bits
	if bits < 0 {
		bits = a.BitLen()
	}
	return a.Prefix(bits) // masked, as the API server wants it; too many bits for the family are an error
}

// Substitute is a copy of the policy with every placeholder of its ipBlocks replaced: address gives the address of a pod or of an outside host
// of the scenario. A policy without placeholders comes back equal. The error tells of all placeholders that are malformed or whose host has no
// known address, and of every except that turns out not to lie within its cidr, which an API server would refuse.
func Substitute(policy networkingv1.NetworkPolicy, address func(Host) (netip.Addr, bool)) (networkingv1.NetworkPolicy, error) {
	out := *policy.DeepCopy()
	var errs []error
	for i := range out.Spec.Ingress {
		for j, peer := range out.Spec.Ingress[i].From {
			errs = append(errs, substituteBlock(peer.IPBlock, fmt.Sprintf("spec.ingress[%d].from[%d].ipBlock", i, j), address))
		}
	}
	for i := range out.Spec.Egress {
		for j, peer := range out.Spec.Egress[i].To {
			errs = append(errs, substituteBlock(peer.IPBlock, fmt.Sprintf("spec.egress[%d].to[%d].ipBlock", i, j), address))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return networkingv1.NetworkPolicy{}, fmt.Errorf("filling in the addresses of policy %s/%s: %w", policy.Namespace, policy.Name, err)
	}
	return out, nil
}

// SubstituteCluster is Substitute for the networks of a ClusterNetworkPolicy.
func SubstituteCluster(policy npav1alpha2.ClusterNetworkPolicy, address func(Host) (netip.Addr, bool)) (npav1alpha2.ClusterNetworkPolicy, error) {
	out := *policy.DeepCopy()
	var errs []error
	for i := range out.Spec.Egress {
		for j, peer := range out.Spec.Egress[i].To {
			for k, cidr := range peer.Networks {
				filled, _, err := substituteOne(string(cidr), fmt.Sprintf("spec.egress[%d].to[%d].networks[%d]", i, j, k), address)
				peer.Networks[k], errs = npav1alpha2.CIDR(filled), append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return npav1alpha2.ClusterNetworkPolicy{}, fmt.Errorf("filling in the addresses of policy %s: %w", policy.Name, err)
	}
	return out, nil
}

// substituteOne is the CIDR that s stands for, and whether that is another text than s.
func substituteOne(s, field string, address func(Host) (netip.Addr, bool)) (_ string, replaced bool, _ error) {
	p, err := parsePlaceholder(s)
	if err != nil {
		if strings.HasPrefix(s, placeholderStart) {
			return s, false, fmt.Errorf("%s: %q: %w", field, s, err)
		}
		return s, false, nil
	}
	prefix, err := p.prefix(address)
	if err != nil {
		return s, false, fmt.Errorf("%s: %q: %w", field, s, err)
	}
	return prefix.String(), true, nil
}

// substituteBlock replaces in place; a nil block has nothing to replace.
func substituteBlock(b *networkingv1.IPBlock, at string, address func(Host) (netip.Addr, bool)) error {
	if b == nil {
		return nil
	}
	var errs []error
	replaced := false
	fill := func(s *string, field string) {
		filled, is, err := substituteOne(*s, field, address)
		*s, replaced, errs = filled, replaced || is, append(errs, err)
	}
	fill(&b.CIDR, at+".cidr")
	for i := range b.Except {
		fill(&b.Except[i], fmt.Sprintf("%s.except[%d]", at, i))
	}
	if err := errors.Join(errs...); err != nil || !replaced {
		return err
	}
	cidr, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return fmt.Errorf("%s.cidr: %w", at, err)
	}
	for i, e := range b.Except {
		except, err := netip.ParsePrefix(e)
		switch {
		case err != nil:
		case except.Addr().Is4() != cidr.Addr().Is4():
			err = fmt.Errorf("%s is of another family than %s: a cidr such as ${pod:NAMESPACE/POD}/0 is of the family that the cluster has", except, cidr)
		case !strictlyWithin(except, cidr):
			err = fmt.Errorf("%s is not a strict subset of %s", except, cidr)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s.except[%d]: %w", at, i, err))
		}
	}
	return errors.Join(errs...)
}
