package seal

import (
	"net/netip"
)

// Family is an address family. The zero value is any.
type Family uint8

// The families.
const (
	FamilyAny Family = 0
	IPv4      Family = 4
	IPv6      Family = 6
)

// String is "IPv4", "IPv6" or "any".
func (f Family) String() string {
	switch f {
	case IPv4:
		return "IPv4"
	case IPv6:
		return "IPv6"
	}
	return "any"
}

// Protocol is what a packet carries, by its number (https://www.iana.org/assignments/protocol-numbers). The zero value is any.
type Protocol uint8

// The protocols that have counters of their own.
const (
	ProtocolAny Protocol = 0
	ICMP        Protocol = 1
	TCP         Protocol = 6
	UDP         Protocol = 17
	ICMPv6      Protocol = 58
	SCTP        Protocol = 132
)

// Types of ICMP messages (RFC 792, 4443, 4861).
const (
	EchoRequest           = 8
	EchoRequest6          = 128
	neighborSolicitation  = 135
	neighborAdvertisement = 136
	// linkHops is the hop limit that neighbor messages must have, so that no router can have passed them on (RFC 4861, section 7.1).
	linkHops = 255
)

// Hook is where a chain stands in a packet's way. The zero value is unknown.
type Hook uint8

// The hooks.
const (
	HookUnknown Hook = iota
	// HookIngress is where the bridge hands a packet to the host, before routing and before any rule of somebody else.
	HookIngress
	// HookForward is where the host passes a packet on, HookInput where it takes one for itself.
	HookForward
	HookInput
)

// Chain is one chain of the table.
type Chain struct {
	Name  string
	Hook  Hook
	Rules []Rule
}

// Action is what becomes of a packet that matches.
type Action uint8

// The actions. The zero value is unknown.
const (
	ActionUnknown Action = iota
	// Count goes on with the next rule.
	Count
	// Note goes on too, and keeps source, destination, protocol and destination port in the set of the packet's family.
	Note
	Accept
	Drop
)

// Counter names one counter, and so one rule: no two rules share one.
type Counter string

// Rule counts the packets that match and does something with them.
type Rule struct {
	Counter Counter
	Match   Match
	Do      Action
}

// Match says which packets. What is zero matches any.
type Match struct {
	Family Family
	// In is the interface a packet came in by, NotOut one that it must not leave by.
	In, NotOut           string
	Source, Destination  netip.Prefix
	Protocol             Protocol
	SourcePort, DestPort uint16
	// ICMPType is the type of an ICMP message of either family.
	ICMPType uint8
	// HopLimit is IPv6's.
	HopLimit uint8
	// Opens is whether a TCP segment may be one that opens a connection: SYN without ACK.
	Opens Opening
}

// Opening is what a rule says of segments that open a TCP connection.
type Opening uint8

// What a rule may say. The zero value is that it makes no difference.
const (
	OpeningAny Opening = iota
	// OpeningNot matches all other segments only.
	OpeningNot
)

// The counters.
const (
	// AllIPv4 and AllIPv6 count every packet that the bridge hands to the host: the sum of all other counters of the gate.
	AllIPv4, AllIPv6 Counter = "all-ipv4", "all-ipv6"
	// AllowedAPI and AllowedMirror count what answers this host: segments of connections that this host has opened.
	AllowedAPI, AllowedMirror Counter = "allowed-api", "allowed-mirror"
	// AllowedSolicitation and AllowedAdvertisement count how IPv6 neighbors find each other on the link.
	AllowedSolicitation, AllowedAdvertisement Counter = "allowed-neighbor-solicitation", "allowed-neighbor-advertisement"
	// The canaries' counters count nothing but canaries.
	CanaryTCP, CanaryUDP, CanaryICMP    Counter = "canary-tcp-ipv4", "canary-udp-ipv4", "canary-icmp-ipv4"
	CanaryTCP6, CanaryUDP6, CanaryICMP6 Counter = "canary-tcp-ipv6", "canary-udp-ipv6", "canary-icmp-ipv6"
	// CanaryHost counts canaries to the host itself, CanaryResolver those to the address at which the engine's resolver answers nodes.
	CanaryHost, CanaryResolver Counter = "canary-host", "canary-resolver"
	// Link counters count what no router passes on: multicast and broadcast.
	LinkMulticast, LinkBroadcast, LinkMulticast6 Counter = "link-multicast-ipv4", "link-broadcast-ipv4", "link-multicast-ipv6"
	// The beyond counters are the second line: they count what has passed the gate all the same, and drop it.
	BeyondForward4, BeyondForward6 Counter = "beyond-forward-ipv4", "beyond-forward-ipv6"
	BeyondInput4, BeyondInput6     Counter = "beyond-input-ipv4", "beyond-input-ipv6"
)

// TriedSet is the name of the set that keeps what was dropped of a family and is no canary.
func TriedSet(f Family) string {
	if f == IPv6 {
		return "tried-ipv6"
	}
	return "tried-ipv4"
}

// Names of the chains.
const (
	GateChain    = "gate"
	ForwardChain = "beyond-forward"
	InputChain   = "beyond-input"
)

// Chains are the table's chains with their rules in order. Every packet ends in exactly one rule that accepts or drops it.
func (s Spec) Chains() []Chain {
	gate := []Rule{
		{AllIPv4, Match{Family: IPv4}, Count},
		{AllIPv6, Match{Family: IPv6}, Count},
	}
	gate = append(gate, s.allowed()...)
	gate = append(gate, s.canaries()...)
	gate = append(gate,
		Rule{LinkMulticast, Match{Family: IPv4, Destination: netip.MustParsePrefix("224.0.0.0/4")}, Drop},
		Rule{LinkBroadcast, Match{Family: IPv4, Destination: netip.MustParsePrefix("255.255.255.255/32")}, Drop},
		Rule{LinkMulticast6, Match{Family: IPv6, Destination: netip.MustParsePrefix("ff00::/8")}, Drop},
	)
	gate = append(gate, tried(IPv4, ICMP)...)
	gate = append(gate, tried(IPv6, ICMPv6)...)
	input := s.allowed()
	for i := range input {
		input[i].Counter += "-input"
		input[i].Match.In = s.Bridge
	}
	return []Chain{
		{Name: GateChain, Hook: HookIngress, Rules: gate},
		{Name: ForwardChain, Hook: HookForward, Rules: []Rule{
			{BeyondForward4, Match{Family: IPv4, In: s.Bridge, NotOut: s.Bridge}, Drop},
			{BeyondForward6, Match{Family: IPv6, In: s.Bridge, NotOut: s.Bridge}, Drop},
		}},
		{Name: InputChain, Hook: HookInput, Rules: append(input,
			Rule{BeyondInput4, Match{Family: IPv4, In: s.Bridge}, Drop},
			Rule{BeyondInput6, Match{Family: IPv6, In: s.Bridge}, Drop},
		)},
	}
}

// allowed is what may pass. The runner opens connections to the API servers and to the mirror; nothing may open one to the host.
func (s Spec) allowed() []Rule {
	host, mirror := single(s.Gateway), single(s.Mirror.Addr())
	rules := []Rule{
		{AllowedAPI, Match{Family: IPv4, Source: s.Subnet, Destination: host, Protocol: TCP, SourcePort: s.API, Opens: OpeningNot}, Accept},
		{AllowedMirror, Match{Family: IPv4, Source: mirror, Destination: host, Protocol: TCP, SourcePort: s.Mirror.Port(), Opens: OpeningNot}, Accept},
	}
	if s.DualStack() { // without these no node finds the gateway, and no canary could be sent to it
		rules = append(rules,
			Rule{AllowedSolicitation, Match{Family: IPv6, Protocol: ICMPv6, ICMPType: neighborSolicitation, HopLimit: linkHops}, Accept},
			Rule{AllowedAdvertisement, Match{Family: IPv6, Protocol: ICMPv6, ICMPType: neighborAdvertisement, HopLimit: linkHops}, Accept})
	}
	return rules
}

// canaries are the rules that count canaries and nothing else.
func (s Spec) canaries() []Rule {
	to, to6, host := single(s.Canary.Address), single(s.Canary.Address6), single(s.Gateway)
	return []Rule{
		{CanaryTCP, Match{Family: IPv4, Destination: to, Protocol: TCP, DestPort: s.Canary.Port}, Drop},
		{CanaryUDP, Match{Family: IPv4, Destination: to, Protocol: UDP, DestPort: s.Canary.Port}, Drop},
		{CanaryICMP, Match{Family: IPv4, Destination: to, Protocol: ICMP, ICMPType: EchoRequest}, Drop},
		{CanaryTCP6, Match{Family: IPv6, Destination: to6, Protocol: TCP, DestPort: s.Canary.Port}, Drop},
		{CanaryUDP6, Match{Family: IPv6, Destination: to6, Protocol: UDP, DestPort: s.Canary.Port}, Drop},
		{CanaryICMP6, Match{Family: IPv6, Destination: to6, Protocol: ICMPv6, ICMPType: EchoRequest6}, Drop},
		{CanaryHost, Match{Family: IPv4, Destination: host, Protocol: UDP, DestPort: s.Canary.Port}, Drop},
		{CanaryResolver, Match{Family: IPv4, Destination: host, Protocol: UDP, SourcePort: s.Canary.Port, DestPort: resolverPort}, Drop},
	}
}

// resolverPort is that of DNS.
const resolverPort = 53

// tried notes and drops whatever of a family is left, with a counter for each protocol.
func tried(f Family, icmp Protocol) []Rule {
	name := func(rest string) Counter { return Counter(rest + "-" + familySuffix(f)) }
	return []Rule{
		{name("note-tcp"), Match{Family: f, Protocol: TCP}, Note},
		{name("tried-tcp"), Match{Family: f, Protocol: TCP}, Drop},
		{name("note-udp"), Match{Family: f, Protocol: UDP}, Note},
		{name("tried-udp"), Match{Family: f, Protocol: UDP}, Drop},
		{name("note-icmp"), Match{Family: f, Protocol: icmp}, Note},
		{name("tried-icmp"), Match{Family: f, Protocol: icmp}, Drop},
		{name("note-other"), Match{Family: f}, Note},
		{name("tried-other"), Match{Family: f}, Drop},
	}
}

func familySuffix(f Family) string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
