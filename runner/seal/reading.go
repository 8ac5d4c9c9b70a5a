package seal

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Reading is what the kernel's counters say at one moment.
type Reading struct {
	Packets map[Counter]uint64 `json:"packets"`
	// Tried is what was dropped and is no canary, sorted by source, destination, protocol and port.
	Tried []Tried `json:"tried,omitempty"`
}

// Tried is what one source tried to send to one destination, and the gate dropped.
type Tried struct {
	Source      netip.Addr `json:"source"`
	Destination netip.Addr `json:"destination"`
	Protocol    Protocol   `json:"protocol"`
	// Port is the destination's, 0 where the protocol has none.
	Port    uint16 `json:"port,omitempty"`
	Packets uint64 `json:"packets"`
	// From is the pod or node that has the source's address, where that is known. A pod's packets carry their node's where the CNI translates.
	From string `json:"from,omitempty"`
}

// String is one line for people.
func (t Tried) String() string {
	from := t.Source.String()
	if t.From != "" {
		from = t.From + " (" + from + ")"
	}
	to := t.Destination.String()
	if t.Port != 0 {
		to = netip.AddrPortFrom(t.Destination, t.Port).String()
	}
	packets := "packets"
	if t.Packets == 1 {
		packets = "packet"
	}
	return fmt.Sprintf("%s → %s %s, %d %s", from, to, t.Protocol, t.Packets, packets)
}

// String is the protocol's name, or its number where it has none here.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case ICMP:
		return "ICMP"
	case ICMPv6:
		return "ICMPv6"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// SortTried puts what was tried into a Reading's order.
func SortTried(all []Tried) {
	slices.SortFunc(all, func(a, b Tried) int {
		if c := a.Source.Compare(b.Source); c != 0 {
			return c
		}
		if c := a.Destination.Compare(b.Destination); c != 0 {
			return c
		}
		if a.Protocol != b.Protocol {
			return int(a.Protocol) - int(b.Protocol)
		}
		return int(a.Port) - int(b.Port)
	})
}

// Since is what was tried after an earlier reading of the same seal.
func (r Reading) Since(earlier Reading) []Tried {
	type key struct {
		from, to netip.Addr
		protocol Protocol
		port     uint16
	}
	was := map[key]uint64{}
	for _, t := range earlier.Tried {
		was[key{t.Source, t.Destination, t.Protocol, t.Port}] = t.Packets
	}
	var out []Tried
	for _, t := range r.Tried {
		if before := was[key{t.Source, t.Destination, t.Protocol, t.Port}]; t.Packets > before {
			t.Packets -= before
			out = append(out, t)
		}
	}
	return out
}

// Over is the reading with the counts of an earlier one for the counters that it lacks. It is what the next proof begins from: a rule that is
// gone now and comes back later then shows that it was made anew.
func (r Reading) Over(earlier Reading) Reading {
	packets := maps.Clone(r.Packets)
	if packets == nil {
		packets = map[Counter]uint64{}
	}
	for c, n := range earlier.Packets {
		if _, has := packets[c]; !has {
			packets[c] = n
		}
	}
	return Reading{Packets: packets, Tried: r.Tried}
}

// Balance says where the gate's account does not add up; nil when every packet it was handed ended in one rule. Packets that pass while the
// counters are read can upset it, so a reading that does not balance is repeated before it is believed.
func (s Spec) Balance(r Reading) error {
	var wrong []string
	for _, f := range []Family{IPv4, IPv6} {
		all := AllIPv4
		if f == IPv6 {
			all = AllIPv6
		}
		var sum uint64
		for _, rule := range s.Chains()[0].Rules {
			if rule.Match.Family == f && (rule.Do == Accept || rule.Do == Drop) {
				sum += r.Packets[rule.Counter]
			}
		}
		if sum != r.Packets[all] {
			wrong = append(wrong, fmt.Sprintf("%s: %d packets were handed to the gate, %d ended in its rules", f, r.Packets[all], sum))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	return fmt.Errorf("the gate's account does not balance: %s", strings.Join(wrong, "; "))
}

// Backwards says which counters are below what they were, or, for canaries, not what they were: only a proof sends canaries, and each leaves
// its reading behind.
func (s Spec) Backwards(last, now Reading) []string {
	out := s.fallen(last, now)
	for _, r := range s.canaries() {
		if was, is := last.Packets[r.Counter], now.Packets[r.Counter]; is > was {
			out = append(out, fmt.Sprintf("counter %s went from %d to %d between two proofs: somebody else has sent canaries", r.Counter, was, is))
		}
	}
	return out
}

// fallen says which counters are below what they were.
func (s Spec) fallen(earlier, now Reading) []string {
	var out []string
	for _, c := range s.Chains() {
		for _, r := range c.Rules {
			if was, is := earlier.Packets[r.Counter], now.Packets[r.Counter]; is < was {
				out = append(out, fmt.Sprintf("counter %s went back from %d to %d: it was reset, or the rule was made anew", r.Counter, was, is))
			}
		}
	}
	return out
}
