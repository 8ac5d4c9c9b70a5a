package reach

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go4.org/netipx"
	corev1 "k8s.io/api/core/v1"
)

// miss records what has no probe, once.
func (c *chooser) miss(p *compiledPolicy, field, reason string) {
	if u := (Uncovered{p.name, field, reason}); !slices.Contains(c.uncovered, u) {
		c.uncovered = append(c.uncovered, u)
	}
}

// span is what an item of ports comes to: a range of numbers, and the destinations at which it does.
type span struct {
	protocol    corev1.Protocol
	first, last uint16
	// at is nil for a number, which is the same at every destination.
	at bitset
}

// spans are the item's own range, or the numbers that the pods give its name, each with the pods that do.
func (e *Engine) spans(m portMatch) []span {
	if m.name == "" {
		return []span{{m.protocol, m.first, m.last, nil}}
	}
	var out []span
	for i := range e.pods {
		for _, p := range e.pods[i].Ports {
			if p.Port == 0 || !m.matches(p.Protocol, p.Port, &e.pods[i]) || p.Name != m.name {
				continue
			}
			at := slices.IndexFunc(out, func(s span) bool { return s.protocol == p.Protocol && s.first == p.Port })
			if at < 0 {
				at = len(out)
				out = append(out, span{p.Protocol, p.Port, p.Port, newBitset(len(e.pods))})
			}
			out[at].at.add(i)
		}
	}
	return out
}

// boundaries gives, for every item of a rule's ports, the ends of its range and the ports beside them, in every family: between a pair of pods that
// the rule is about, and between a pod and an address outside where its peers are such. A named port stands for the number that
// the destination gives it, so its neighbours are as wrong as those of a number; where destinations differ, each number has its own pair.
func (c *chooser) boundaries() bool {
	more := true
	c.engine.eachRule(func(p *compiledPolicy, d direction, r *rule) {
		var s *sides
		for i, m := range r.ports {
			if s == nil { // worked out once for the rule, and only for one that has ports
				s = c.sides(p, d, r)
			}
			field := fmt.Sprintf("%s.%s[%d]", r.field, r.portList, i)
			known := false
			for _, span := range c.engine.spans(m) {
				if span.at != nil && !s.destined(span.at) {
					continue // no destination of this rule gives it that number
				}
				known = true
				pairs := s.pairs(span)
				if len(pairs) == 0 {
					c.miss(p, field, fmt.Sprintf("%s/%d: no two ends that the rule is about, of one address family", span.protocol, span.first))
				}
				for _, pair := range pairs {
					for _, port := range []int{int(span.first) - 1, int(span.first), int(span.last), int(span.last) + 1} {
						if port < 1 || port > lastPort || !more {
							continue
						}
						more = c.give(Query{pair.source, pair.destination, span.protocol, uint16(port)}, pair.placement, ForPortBoundary, pair.family)
					}
				}
			}
			if !known {
				c.miss(p, field, fmt.Sprintf("%s: no pod that the rule is about gives a port that name", m))
			}
		}
	})
	return more
}

// sides are the two sides of one rule: the pods that the policy selects, and what its peers match in each family.
type sides struct {
	chooser  *chooser
	d        direction
	rule     *rule
	subjects bitset
	others   [IPv6 + 1]bitset
}

func (c *chooser) sides(p *compiledPolicy, d direction, r *rule) *sides {
	s := &sides{chooser: c, d: d, rule: r, subjects: p.isolated[d]}
	for f := range s.others {
		if len(r.peers) == 0 {
			s.others[f] = fullBitset(len(c.engine.pods))
			continue
		}
		s.others[f] = newBitset(len(c.engine.pods))
		for i := range r.peers {
			if peer := &r.peers[i]; peer.byAddress() {
				s.others[f].or(c.engine.covered(peer, Family(f)))
			} else {
				s.others[f].or(peer.pods)
			}
		}
	}
	return s
}

// destined tells whether one of the pods is a destination of the rule.
func (s *sides) destined(at bitset) bool {
	if s.d == ingress {
		return !s.subjects.and(at).empty()
	}
	return slices.ContainsFunc(s.others[:], func(o bitset) bool { return !o.and(at).empty() })
}

// pair are the two ends of a probe.
type pair struct {
	source, destination Endpoint
	placement           Placement
	family              Family
}

// pairs are, per family, the first two pods that the rule is about and the first pod with an address outside; of pods without an address a pair where
// there is no other.
func (s *sides) pairs(of span) []pair {
	var out []pair
	for _, f := range []Family{IPv4, IPv6} {
		having := s.chooser.having[f]
		if subject, other, ok := s.pods(s.subjects.and(having), s.others[f].and(having), of); ok {
			out = append(out, s.pair(subject, other, f))
		}
		if outside, ok := s.outside(f); ok && !(s.d == egress && of.at != nil) {
			subjects := s.subjects.and(having)
			if s.d == ingress && of.at != nil {
				subjects.intersect(of.at)
			}
			if subject := subjects.first(); subject >= 0 {
				source, destination := s.chooser.endpoint(subject, f), Endpoint{Addr: outside}
				if s.d == ingress {
					source, destination = destination, source
				}
				out = append(out, pair{source, destination, UnknownPlacement, f})
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	without := s.chooser.having[FirstAddress]
	subject, other, ok := s.pods(s.subjects.and(without), s.others[FirstAddress], of)
	if !ok {
		subject, other, ok = s.pods(s.subjects, s.others[FirstAddress].and(without), of)
	}
	if ok {
		out = append(out, s.pair(subject, other, FirstAddress))
	}
	return out
}

func (s *sides) pair(subject, other int, f Family) pair {
	source, destination := subject, other
	if s.d == ingress {
		source, destination = other, subject
	}
	c := s.chooser
	return pair{c.endpoint(source, f), c.endpoint(destination, f), c.engine.placement(source, destination), f}
}

// pods are the first two different ones, a subject and one of others, whose destination is within the span. A hostNetwork source on the
// destination's own node is none: it is allowed whatever a rule says.
func (s *sides) pods(subjects, others bitset, of span) (subject, other int, ok bool) {
	if of.at != nil {
		if s.d == ingress {
			subjects = subjects.and(of.at)
		} else {
			others = others.and(of.at)
		}
	}
	e := s.chooser.engine
	local := func(subject, other int) bool {
		return s.d == ingress && e.pods[other].HostNetwork && e.placement(subject, other) == SameNode
	}
	subject, other = -1, -1
	subjects.each(func(i int) {
		if subject >= 0 { // found
			return
		}
		if o := others.firstBeside(i); o >= 0 && !local(i, o) {
			subject, other = i, o
			return
		}
		others.each(func(o int) {
			if subject < 0 && o != i && !local(i, o) {
				subject, other = i, o
			}
		})
	})
	return subject, other, subject >= 0
}

// The addresses that stand for the outside where every end of a block is a pod's or nobody's: set aside for documentation (RFC 5737, RFC 3849).
var (
	exampleIPv4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	exampleIPv6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
)

// outside is an address of the family that a peer of the rule matches and no pod has: at the end of a block, or of a node.
func (s *sides) outside(f Family) (netip.Addr, bool) {
	for i := range s.rule.peers {
		p := &s.rule.peers[i]
		if !p.byAddress() {
			continue
		}
		var candidates []netip.Addr
		if p.block != nil {
			for _, prefix := range append([]netip.Prefix{p.block.cidr}, p.block.except...) {
				candidates = append(candidates, edgesOf(prefix)...)
			}
			candidates = append(candidates, exampleIPv4, exampleIPv6)
		} else {
			candidates = slices.SortedFunc(maps.Keys(p.cluster.nodes), netip.Addr.Compare)
		}
		for _, a := range candidates {
			if _, podsOwn := s.chooser.engine.byAddr[a]; a.Is4() == (f == IPv4) && a.IsGlobalUnicast() && p.covers(a) && !podsOwn {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// edges gives, for every address block of a rule, its ends and those of its excepts, and the addresses beside them: to or from the first pod that the
// policy selects and that has an address of that family, over a port that the rule admits.
func (c *chooser) edges() bool {
	more := true
	c.engine.eachRule(func(p *compiledPolicy, d direction, r *rule) {
		for i := range r.peers {
			b := r.peers[i].block
			if b == nil {
				continue
			}
			for _, prefix := range append([]netip.Prefix{b.cidr}, b.except...) {
				for _, a := range edgesOf(prefix) {
					q, f, why := c.edge(p, d, r, a)
					switch {
					case why != "":
						c.miss(p, r.peers[i].field, why)
					case more:
						more = c.give(q, UnknownPlacement, ForBlockEdge, f)
					}
				}
			}
		}
	})
	return more
}

// edge is the probe of one address; why says what there is instead.
func (c *chooser) edge(p *compiledPolicy, d direction, r *rule, a netip.Addr) (q Query, f Family, why string) {
	e := c.engine
	f = IPv6
	if a.Is4() {
		f = IPv4
	}
	own, isPod := e.byAddr[a]
	subjects := p.isolated[d].and(c.having[f])
	if subjects.empty() {
		subjects = p.isolated[d].and(c.having[FirstAddress])
	}
	if subjects.empty() {
		return q, f, fmt.Sprintf("no pod that the policy selects has an address of %s", f)
	}
	if isPod && subjects.has(own) { // a pod reaches itself whatever the rule says
		subjects.remove(own)
	}
	if subjects.empty() {
		return q, f, fmt.Sprintf("%s is the address of the only pod that the policy selects", a)
	}
	if d == egress {
		var destination *pod
		if isPod {
			destination = &e.pods[own]
		}
		protocol, port, ok := r.admits(destination)
		if !ok {
			return q, f, r.portList + " has names alone, which an address outside of the cluster gives no number"
		}
		return Query{c.endpoint(subjects.first(), f), Endpoint{Addr: a}, protocol, port}, f, ""
	}
	why = "no pod that the policy selects gives a port one of the names in " + r.portList
	subjects.each(func(i int) {
		if protocol, port, ok := r.admits(&e.pods[i]); ok && why != "" {
			q, why = Query{Endpoint{Addr: a}, c.endpoint(i, f), protocol, port}, ""
		}
	})
	return q, f, why
}

// admits is a port that the rule admits at the destination, one that it has if there is such; nil is an address outside. ok is false when the rule has
// names alone and the destination none of them.
func (r *rule) admits(destination *pod) (protocol corev1.Protocol, port uint16, ok bool) {
	if destination != nil {
		for _, p := range destination.Ports {
			if p.Port != 0 && (len(r.ports) == 0 || slices.ContainsFunc(r.ports, func(m portMatch) bool { return m.matches(p.Protocol, p.Port, destination) })) {
				return p.Protocol, p.Port, true
			}
		}
	}
	if len(r.ports) == 0 {
		return corev1.ProtocolTCP, 1, true
	}
	if i := slices.IndexFunc(r.ports, func(m portMatch) bool { return m.name == "" }); i >= 0 {
		return r.ports[i].protocol, r.ports[i].first, true
	}
	return "", 0, false
}

// edgesOf are the first and the last address of the block and their neighbours outside of it, as far as there are. No address twice.
func edgesOf(p netip.Prefix) []netip.Addr {
	first := p.Masked().Addr()
	last := netipx.PrefixLastIP(p)
	var out []netip.Addr
	for _, a := range []netip.Addr{first.Prev(), first, last, last.Next()} {
		if a.IsValid() && !a.IsUnspecified() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
