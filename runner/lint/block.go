package lint

import (
	"fmt"
	"net/netip"
	"slices"

	"go4.org/netipx"

	"github.com/gapproof/gapproof/runner/manifest"
)

// prefix reads a CIDR that the engine took already.
func prefix(s string) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{} // covers nothing
	}
	return p.Masked()
}

// within tells whether all of inner is in outer.
func within(inner, outer netip.Prefix) bool {
	return inner.IsValid() && outer.IsValid() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// block checks the ipBlock of peer i. Every except lies within its cidr and leaves some of it: the API server refuses any other.
func (c *checker) block(r *rule, i int) {
	b := r.peers[i].IPBlock
	at := r.at(i) + ".ipBlock"
	cidr := prefix(b.CIDR)
	excepts := make([]netip.Prefix, len(b.Except))
	for j, e := range b.Except {
		excepts[j] = prefix(e)
	}
	for j, e := range excepts {
		field := fmt.Sprintf("%s.except[%d]", at, j)
		if k := slices.IndexFunc(excepts, func(o netip.Prefix) bool { return within(e, o) }); k != j {
			c.add(r.policy, exceptUseless, field, fmt.Sprintf("except %s is covered by except[%d] %s", e, k, excepts[k]), "remove it")
			continue
		}
		if k := readmits(r, i, e); k >= 0 {
			c.add(r.policy, exceptUseless, field, fmt.Sprintf("except %s is admitted again by %s[%d] %s", e, r.list, k, r.peers[k].IPBlock.CIDR),
				fmt.Sprintf("add the except to %s[%d], too", r.list, k))
		}
	}
	if takenOut(cidr, excepts) {
		c.addAs(Error, r.policy, peerNothing, at+".except", fmt.Sprintf("the excepts together take out all of cidr %s: the peer matches nothing", cidr), "remove the peer, or the except that should not be there")
		return
	}
	c.coversPods(r, at, cidr, excepts)
}

// takenOut tells whether the excepts together cover all of cidr.
func takenOut(cidr netip.Prefix, excepts []netip.Prefix) bool {
	var left netipx.IPSetBuilder
	left.AddPrefix(cidr)
	for _, e := range excepts {
		left.RemovePrefix(e)
	}
	set, err := left.IPSet()
	return err == nil && len(set.Ranges()) == 0
}

// readmits is the index of another ipBlock of the rule that admits all of e; -1 when none does.
func readmits(r *rule, i int, e netip.Prefix) int {
	return slices.IndexFunc(r.peers, func(p peerType) bool {
		if p.IPBlock == nil || p.IPBlock == r.peers[i].IPBlock || !within(e, prefix(p.IPBlock.CIDR)) {
			return false
		}
		return !slices.ContainsFunc(p.IPBlock.Except, func(s string) bool { return prefix(s).Overlaps(e) })
	})
}

// coversPods finds an ipBlock that holds addresses of pods.
func (c *checker) coversPods(r *rule, at string, cidr netip.Prefix, excepts []netip.Prefix) {
	const hint = "select pods by podSelector and namespaceSelector, and take the pod network out with except"
	for _, pods := range c.options.PodRanges {
		if !cidr.Overlaps(pods) || slices.ContainsFunc(excepts, func(e netip.Prefix) bool { return within(pods, e) }) {
			continue
		}
		c.add(r.policy, ipBlockPods, at, fmt.Sprintf("ipBlock %s covers addresses of the pod network %s: whether pods match depends on the CNI", cidr, pods), hint)
		return
	}
	if len(c.options.PodRanges) > 0 {
		return
	}
	if c.set.Addresses == manifest.Invented && cidr.Bits() == 0 {
		if len(excepts) > 0 {
			return // the excepts may well take out the pod network; nobody knows it here
		}
		c.add(r.policy, ipBlockPods, at, fmt.Sprintf("ipBlock %s covers every address, those of pods too: whether pods match depends on the CNI", cidr), hint)
		return
	}
	var names []string
	for i := range c.set.World.Pods {
		p := &c.set.World.Pods[i]
		if !p.HostNetwork && slices.ContainsFunc(p.IPs, func(a netip.Addr) bool {
			return cidr.Contains(a) && !slices.ContainsFunc(excepts, func(e netip.Prefix) bool { return e.Contains(a) })
		}) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	if len(names) > 0 {
		c.add(r.policy, ipBlockPods, at, fmt.Sprintf("ipBlock %s covers addresses of pods (%s): whether they match depends on the CNI", cidr, few(names)), hint)
	}
}
