package reach

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Family says which of a pod's addresses the address blocks of policies are held against.
type Family uint8

// The families. The zero value is what Decide does with an endpoint that names no address.
const (
	// FirstAddress: of every pod its first address, whatever its family.
	FirstAddress Family = iota
	// IPv4: of every pod its first IPv4 address; a pod without one has no verdict.
	IPv4
	// IPv6: of every pod its first IPv6 address; a pod without one has no verdict.
	IPv6
)

var familyNames = [...]string{FirstAddress: "first address", IPv4: "IPv4", IPv6: "IPv6"}

// String is "first address", "IPv4" or "IPv6".
func (f Family) String() string {
	if int(f) >= len(familyNames) {
		return fmt.Sprintf("invalid(%d)", uint8(f))
	}
	return familyNames[f]
}

// Channel is what the verdicts of one matrix have in common: protocol, destination port and address family.
type Channel struct {
	Protocol corev1.Protocol
	// Port is the destination port, 1–65535.
	Port   uint16
	Family Family
}

// String is "TCP/80", with the family behind it when one is asked for.
func (c Channel) String() string {
	out := fmt.Sprintf("%s/%d", c.Protocol, c.Port)
	if c.Family != FirstAddress {
		out += " " + c.Family.String()
	}
	return out
}

// Row is what one source may reach. Its sets are reused for the next row: copy what must outlive the loop's turn.
type Row struct {
	// Source is the index of the source in World.Pods, as every destination below is an index there.
	Source  int
	allowed bitset
	known   bitset
}

// Verdict is the verdict towards the destination; Unknown when either end has no address of the channel's family, or the world has no
// pod of that index.
func (r Row) Verdict(destination int) Verdict {
	switch {
	case destination < 0 || destination >= len(r.known)*wordBits || !r.known.has(destination):
		return Unknown
	case r.allowed.has(destination):
		return Allow
	default:
		return Deny
	}
}

// Counts are the numbers of destinations allowed and denied.
func (r Row) Counts() (allowed, denied int) {
	allowed = r.allowed.count()
	return allowed, r.known.count() - allowed
}

// Words are the destinations allowed, destination i at bit i%64 of word i/64. They must not be changed.
func (r Row) Words() []uint64 { return r.allowed }

// Matrix derives the verdict of every pod towards every pod over one channel, by word operations on the sets of pods that selectors were
// compiled to. Rows come in the order of World.Pods, one at a time: memory stays at a few sets per distinct selector plus
// at most maxKeptRows bytes of rows, whatever the size of the world. The verdicts are those of Decide; Decide gives the reasons.
//
// The sequence may be consumed several times and by several goroutines, each working it out anew. The error names what is wrong with the channel.
func (e *Engine) Matrix(c Channel) (iter.Seq[Row], error) {
	switch {
	case !isProtocol(c.Protocol):
		return nil, fmt.Errorf("deriving the matrix of %s: protocol %q is not one of TCP, UDP, SCTP", c, c.Protocol)
	case c.Port == 0:
		return nil, fmt.Errorf("deriving the matrix of %s: %w", c, errors.New("port 0 is no destination port"))
	case c.Family > IPv6:
		return nil, fmt.Errorf("deriving the matrix of %s: family %d has no name", c, c.Family)
	}
	return func(yield func(Row) bool) { newPlane(e, c).rows(yield) }, nil
}

// maxKeptRows bounds, in bytes, the rows kept for sources that share them: all of them in a cluster of 20 000 pods, and a small part of the
// 2 GiB that 10 000 pods may cost. Rows beyond it are worked out again.
const maxKeptRows = 64 << 20

// plane is the engine's policies seen through one channel: every rule is a set of sources and a set of destinations.
type plane struct {
	engine *Engine
	// all are the pods that exist, known those with an address of the family.
	all, known bitset
	isolated   [directions]bitset
	network    [directions][]grant
	tiers      [directions][tiers][]grant
	// local are the pods of a node, which a hostNetwork pod there always reaches.
	local map[string]bitset
}

// grant is one rule, or several that allow the same sources: flows from one of sources to one of destinations.
type grant struct {
	action                action
	sources, destinations bitset
	// low and high bound the words of destinations that have members: a policy mostly speaks about the pods of one namespace, which mostly
	// stand together.
	low, high int
}

func newGrant(a action, sources, destinations bitset) grant {
	g := grant{action: a, sources: sources, destinations: destinations, low: len(destinations)}
	for i, w := range destinations {
		if w != 0 {
			g.low = min(g.low, i)
			g.high = i + 1
		}
	}
	return g
}

func newPlane(e *Engine, c Channel) *plane {
	n := len(e.pods)
	p := &plane{engine: e, all: fullBitset(n), known: newBitset(n), local: map[string]bitset{}}
	for i := range e.pods {
		pod := &e.pods[i]
		if c.Family == FirstAddress || pod.address(c.Family).IsValid() {
			p.known.add(i)
		}
		if pod.Node == "" {
			continue
		}
		if p.local[pod.Node] == nil {
			p.local[pod.Node] = newBitset(n)
		}
		p.local[pod.Node].add(i)
	}
	sets := planeSets{plane: p, channel: c, named: map[string]bitset{}, covered: map[*peer]bitset{}, narrowed: newBitset(n)}
	for d := range directions {
		p.isolated[d] = newBitset(n)
		merged := merger{}
		for i := range e.network {
			policy := &e.network[i]
			if policy.isolated[d] == nil || policy.isolated[d].empty() {
				continue
			}
			p.isolated[d].or(policy.isolated[d])
			for j := range policy.rules[d] {
				if sources, destinations, any := sets.rule(d, policy.isolated[d], &policy.rules[d][j]); any {
					merged.add(sources, destinations)
				}
			}
		}
		p.network[d] = merged.grants()
		for t := range tiers {
			for i := range e.cluster[t] {
				policy := &e.cluster[t][i]
				for j := range policy.rules[d] {
					r := &policy.rules[d][j]
					if sources, destinations, any := sets.rule(d, policy.isolated[d], r); any {
						p.tiers[d][t] = append(p.tiers[d][t], newGrant(r.action, sources, slices.Clone(destinations)))
					}
				}
			}
		}
	}
	return p
}

// planeSets evaluates rules for one channel and remembers what rules share.
type planeSets struct {
	plane   *plane
	channel Channel
	named   map[string]bitset
	covered map[*peer]bitset
	// narrowed is what rule returns destinations in.
	narrowed bitset
}

// rule is the set of sources and of destinations of a rule for the pods that its policy selects. Nothing matches when any is false. The next call
// reuses the destinations.
func (s *planeSets) rule(d direction, subjects bitset, r *rule) (sources, destinations bitset, any bool) {
	ports, any := s.ports(r)
	if !any {
		return nil, nil, false
	}
	peers := s.peers(r)
	sources, destinations = peers, subjects
	if d == egress {
		sources, destinations = subjects, peers
	}
	if ports != nil {
		copy(s.narrowed, destinations)
		s.narrowed.intersect(ports)
		destinations = s.narrowed
	}
	return sources, destinations, !sources.empty() && !destinations.empty()
}

// peers are the pods that some peer of the rule matches.
func (s *planeSets) peers(r *rule) bitset {
	switch {
	case len(r.peers) == 0:
		return s.plane.all
	case s.channel.Family == FirstAddress || !slices.ContainsFunc(r.peers, func(p peer) bool { return p.byAddress() }):
		return r.pods
	}
	out := newBitset(len(s.plane.engine.pods))
	for i := range r.peers {
		out.or(s.peer(&r.peers[i]))
	}
	return out
}

// peer are the pods that a peer matches by their addresses of the channel's family.
func (s *planeSets) peer(p *peer) bitset {
	if s.channel.Family == FirstAddress || !p.byAddress() {
		return p.pods
	}
	known, ok := s.covered[p]
	if !ok {
		known = s.plane.engine.covered(p, s.channel.Family)
		s.covered[p] = known
	}
	return known
}

// ports are the destinations whose port the rule matches, nil for all of them; any is false when it matches at no pod.
func (s *planeSets) ports(r *rule) (destinations bitset, any bool) {
	if len(r.ports) == 0 {
		return nil, true
	}
	for _, m := range r.ports {
		if m.name == "" {
			if m.matches(s.channel.Protocol, s.channel.Port, nil) {
				return nil, true
			}
			continue
		}
		if m.protocol != anyProtocol && m.protocol != s.channel.Protocol {
			continue
		}
		named := s.havingPort(m)
		if destinations == nil { // mostly the only one
			destinations = named
			continue
		}
		destinations = slices.Clone(destinations)
		destinations.or(named)
	}
	return destinations, destinations != nil
}

// havingPort are the pods whose port of that name is the channel's.
func (s *planeSets) havingPort(m portMatch) bitset {
	known, ok := s.named[m.name]
	if !ok {
		known = newBitset(len(s.plane.engine.pods))
		for i := range s.plane.engine.pods {
			if m.matches(s.channel.Protocol, s.channel.Port, &s.plane.engine.pods[i]) {
				known.add(i)
			}
		}
		s.named[m.name] = known
	}
	return known
}

// merger joins grants with the same sources: NetworkPolicies only add up, so their order means nothing.
type merger struct {
	index                 map[string]int
	key                   []byte // scratch
	sources, destinations []bitset
}

func (m *merger) add(sources, destinations bitset) {
	if m.index == nil {
		m.index = map[string]int{}
	}
	m.key = sources.appendKey(m.key[:0])
	i, known := m.index[string(m.key)]
	if !known {
		i = len(m.sources)
		m.index[string(m.key)] = i
		m.sources = append(m.sources, sources)
		m.destinations = append(m.destinations, make(bitset, len(destinations)))
	}
	m.destinations[i].or(destinations)
}

func (m *merger) grants() []grant {
	out := make([]grant, len(m.sources))
	for i := range out {
		out[i] = newGrant(accept, m.sources[i], m.destinations[i])
	}
	return out
}

// sourceSets are all sets that can tell two sources apart.
func (p *plane) sourceSets() []bitset {
	out := []bitset{p.isolated[egress]}
	for d := range directions {
		for _, g := range p.network[d] {
			out = append(out, g.sources)
		}
		for t := range tiers {
			for _, g := range p.tiers[d][t] {
				out = append(out, g.sources)
			}
		}
	}
	return out
}

// rows works out one row per class of sources and hands out one per source.
func (p *plane) rows(yield func(Row) bool) {
	n := len(p.engine.pods)
	class, classes := partition(n, p.sourceSets())
	left := make([]int, classes) // members still to come
	for _, c := range class {
		left[c]++
	}
	kept, budget := make([]bitset, classes), maxKeptRows
	work := newWork(n)
	out := newBitset(n)
	for source := range n {
		c := class[source]
		left[c]--
		row := kept[c]
		if row == nil {
			row = p.row(source, out, work)
			if bytes := len(row) * wordBits / 8; left[c] > 0 && bytes <= budget {
				budget -= bytes
				kept[c] = append(bitset(nil), row...)
			}
		} else if left[c] == 0 {
			kept[c], budget = nil, budget+len(row)*wordBits/8
		}
		if !p.yield(source, row, out, work, yield) {
			return
		}
	}
}

// yield hands out the row of a source: that of its class, with what holds for this one source alone.
func (p *plane) yield(source int, row, out bitset, work *work, yield func(Row) bool) bool {
	copy(out, row)
	pod := &p.engine.pods[source]
	if pod.HostNetwork && pod.Node != "" {
		// ingress from the own node is always allowed; what is left is egress, which does not bind a hostNetwork pod's class to fewer
		p.direction(egress, source, work.egress, work)
		for i, w := range p.local[pod.Node] {
			out[i] |= w & work.egress[i]
		}
	}
	out.add(source) // a pod cannot block access to itself
	known := p.known
	if !known.has(source) {
		known = work.none
	}
	for i, w := range known {
		out[i] &= w
	}
	return yield(Row{Source: source, allowed: out, known: known})
}

// row is what both directions allow a source, as far as its class decides.
func (p *plane) row(source int, out bitset, work *work) bitset {
	p.direction(egress, source, out, work)
	p.direction(ingress, source, work.ingress, work)
	for i, w := range work.ingress {
		out[i] &= w
	}
	return out
}

// work is scratch space of one pass over the rows.
type work struct {
	egress, ingress             bitset
	open, passed, granted, none bitset
}

func newWork(n int) *work {
	return &work{newBitset(n), newBitset(n), newBitset(n), newBitset(n), newBitset(n), newBitset(n)}
}

// direction sets allow to the destinations that one direction allows the source: Admin tier, then NetworkPolicies where they
// isolate, then Baseline tier, then the default, which allows.
func (p *plane) direction(d direction, source int, allow bitset, w *work) {
	clear(allow)
	copy(w.open, p.all)
	w.tier(p.tiers[d][adminTier], source, allow)
	isolated := p.isolated[d]
	if d == egress { // one source, isolated towards all or none
		isolated = nil
		if p.isolated[d].has(source) {
			isolated = p.all
		}
	}
	if isolated != nil {
		clear(w.granted)
		for i := range p.network[d] {
			g := &p.network[d][i]
			if !g.sources.has(source) {
				continue
			}
			granted := w.granted[g.low:g.high]
			for j, word := range g.destinations[g.low:g.high] {
				granted[j] |= word
			}
		}
		for i, word := range isolated {
			allow[i] |= w.open[i] & word & w.granted[i]
			w.open[i] &^= word
		}
	}
	w.tier(p.tiers[d][baselineTier], source, allow)
	allow.or(w.open)
}

// tier lets the first matching rule decide over what is still open. What was passed is open again afterwards, to the next tier.
func (w *work) tier(rules []grant, source int, allow bitset) {
	if len(rules) == 0 {
		return
	}
	clear(w.passed)
	for i := range rules {
		g := &rules[i]
		if !g.sources.has(source) {
			continue
		}
		for j := g.low; j < g.high; j++ {
			hit := g.destinations[j] & w.open[j]
			w.open[j] &^= hit
			switch g.action {
			case accept:
				allow[j] |= hit
			case pass:
				w.passed[j] |= hit
			}
		}
	}
	w.open.or(w.passed)
}

// address is the pod's first address of the family; invalid when it has none.
func (p *pod) address(f Family) netip.Addr {
	if f == FirstAddress {
		return p.addr
	}
	for _, a := range p.IPs {
		if a.Is4() == (f == IPv4) {
			return a
		}
	}
	return netip.Addr{}
}

// covered are the pods whose address of the family the peer covers.
func (e *Engine) covered(p *peer, f Family) bitset {
	out := newBitset(len(e.pods))
	for i := range e.pods {
		if a := e.pods[i].address(f); a.IsValid() && p.covers(a) {
			out.add(i)
		}
	}
	return out
}
