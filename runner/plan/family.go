package plan

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/scenarios"
)

// families are those that the world asks for, IPv4 first; the unknown one, which stands for the cluster's first, where it asks for none.
func (b *builder) families() []probes.Family {
	asked := b.scenario.World.Reach.Families
	if len(asked) == 0 {
		return []probes.Family{probes.FamilyUnknown}
	}
	var out []probes.Family
	for _, f := range asked {
		out = append(out, probeFamily(f))
	}
	slices.Sort(out)
	return out
}

func probeFamily(f corev1.IPFamily) probes.Family {
	switch f {
	case corev1.IPv4Protocol:
		return probes.IPv4
	case corev1.IPv6Protocol:
		return probes.IPv6
	default:
		return probes.FamilyUnknown
	}
}

// apiFamily is the family as rules have it; empty for the unknown one.
func apiFamily(f probes.Family) corev1.IPFamily {
	if f == probes.FamilyUnknown {
		return ""
	}
	return corev1.IPFamily(f.String())
}

// pick is the first address of the family, or the first of all for the unknown one; invalid where there is none.
func pick(addresses []netip.Addr, f probes.Family) netip.Addr {
	for _, a := range addresses {
		if f == probes.FamilyUnknown || f == familyOf(a) {
			return a
		}
	}
	return netip.Addr{}
}

func familyOf(a netip.Addr) probes.Family {
	switch {
	case !a.IsValid():
		return probes.FamilyUnknown
	case a.Unmap().Is4():
		return probes.IPv4
	default:
		return probes.IPv6
	}
}

// notation is the protocol in an attempt's ID.
func notation(p probes.Protocol, f probes.Family) string {
	if f == probes.IPv6 {
		return p.String() + "6"
	}
	return p.String()
}

// records end the ID of a lookup that asks for those of IPv6.
func records(f probes.Family) string {
	if f == probes.IPv6 {
		return ":AAAA"
	}
	return ""
}

// lacking says what keeps p from being made; empty where source and destination have an address of its family.
func (b *builder) lacking(p Planned, to netip.Addr) string {
	switch {
	case !to.IsValid():
		return fmt.Sprintf("the cluster gave %s no %s address", p.Destination, p.Family)
	case !pick(b.addresses(p.Source), p.Family).IsValid():
		return fmt.Sprintf("the cluster gave %s no %s address", p.Source, p.Family)
	default:
		return ""
	}
}

// addresses are those of a pod or a host outside, by its name in attempts.
func (b *builder) addresses(name string) []netip.Addr {
	if scenarios.IsOutside(name) {
		return b.facts.Outside[name]
	}
	if facts, known := b.facts.Pods[name]; known {
		return facts.Addresses()
	}
	return nil
}

// Addresses that are set aside for documentation, so that no packet carries them (RFC 5737, RFC 3849).
var (
	nobody4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	nobody6 = netip.MustParseAddr("2001:db8::1")
)

// address is what a placeholder stands for. Where the host has no address of a family that is written out, it is one that nobody has: such a
// block matches nothing, as it would if it could be left out, while the rule that holds it stays what it is.
func (b *builder) address(h scenarios.Host) (netip.Addr, bool) {
	all := b.addresses(h.Name)
	a := pick(all, probeFamily(h.Family))
	switch {
	case a.IsValid():
		return a, true
	case len(all) == 0:
		return netip.Addr{}, false
	case h.Family == corev1.IPv6Protocol:
		return nobody6, true
	default:
		return nobody4, true
	}
}
