package probes

import (
	"net/netip"
	"time"
)

// Level is how much of the kernel a witness could watch, and so how strong its sightings are. The zero value is unwitnessed: there was
// no witness, and nothing can be concluded from a missing sighting. Higher is stronger.
type Level uint8

// The levels of evidence.
const (
	// Unwitnessed: no witness; outcomes and arrivals only.
	Unwitnessed Level = iota
	// TapsOnly: packets are seen leaving and arriving, drops are not seen.
	TapsOnly
	// NoDropReason: drops are seen, the kernel does not give their reason.
	NoDropReason
	// Full: packets are seen leaving and arriving, and drops with the reason the kernel gives.
	Full
)

var levelNames = [...]string{"unwitnessed", "taps only", "no drop reason", "full"}

// String is the level's name as reports print it.
func (l Level) String() string { return enumName(levelNames[:], int(l)) }

// MarshalText writes the name.
func (l Level) MarshalText() ([]byte, error) {
	return marshalEnum("level of evidence", levelNames[:], int(l))
}

// UnmarshalText reads the name; anything else is an error.
func (l *Level) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("level of evidence", levelNames[:], b)
	*l = Level(n)
	return err
}

// Packet is which packet of an attempt the kernel saw. The zero value is unknown and invalid to send.
type Packet uint8

// The packets of an attempt.
const (
	PacketUnknown Packet = iota
	// Request travels from the source's socket: SYN, datagram, INIT or echo request, and what follows them.
	Request
	// Reply travels back and is no refusal.
	Reply
	// ResetPacket travels back and is a TCP segment with RST, or an SCTP ABORT.
	ResetPacket
	// ICMPError travels back and is an ICMP destination unreachable that quotes the request; Sighting.Code has its code.
	ICMPError
)

var packetNames = [...]string{"unknown", "request", "reply", "reset", "icmpError"}

// String is the packet's name.
func (p Packet) String() string { return enumName(packetNames[:], int(p)) }

// MarshalText writes the name.
func (p Packet) MarshalText() ([]byte, error) { return marshalEnum("packet", packetNames[:], int(p)) }

// UnmarshalText reads the name; anything else is an error.
func (p *Packet) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("packet", packetNames[:], b)
	*p = Packet(n)
	return err
}

// Point is where on its way the kernel saw a packet. The zero value is unknown and invalid to send.
type Point uint8

// The points.
const (
	PointUnknown Point = iota
	// Left: out of the network namespace of the pod that sent it.
	Left
	// Reached: into the network namespace of the pod it was for.
	Reached
	// Dropped: freed by the kernel before it got there. The other fields of the sighting say why and where.
	Dropped
)

var pointNames = [...]string{"unknown", "left", "reached", "dropped"}

// String is the point's name.
func (p Point) String() string { return enumName(pointNames[:], int(p)) }

// MarshalText writes the name.
func (p Point) MarshalText() ([]byte, error) { return marshalEnum("point", pointNames[:], int(p)) }

// UnmarshalText reads the name; anything else is an error.
func (p *Point) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("point", pointNames[:], b)
	*p = Point(n)
	return err
}

// Flow is what a witness must know to attribute packets to an attempt: the source's address and port, which no two attempts of a run
// share within a protocol while both are fresh. Address translation on the way changes the other end of a request, never this one.
type Flow struct {
	// AttemptID is the attempt's.
	AttemptID string `json:"attemptID"`
	// Protocol is TCP, UDP, SCTP or ICMP. For ICMP the port of Source is the echo identifier.
	Protocol Protocol `json:"protocol"`
	// Source is the address of the source pod and the bound port.
	Source netip.AddrPort `json:"source"`
}

// Sighting is one fact of the kernel about the packets of one attempt: which packet was seen at which point, how often, and for a drop
// why and where. Sightings of the same packet, point, reason and interface are one Sighting with a count.
type Sighting struct {
	AttemptID string `json:"attemptID"`
	Packet    Packet `json:"packet"`
	Point     Point  `json:"point"`
	// Count is how many packets; at least 1.
	Count uint64 `json:"count"`
	// After is when the first of them was seen, from the moment the attempt's first packet was seen anywhere by this witness.
	After time.Duration `json:"after"`
	// Node is the witness that saw it.
	Node string `json:"node,omitempty"`
	// Pod is the identity of the probe pod in whose network namespace it was seen; empty for the node's own.
	Pod string `json:"pod,omitempty"`
	// Interface is the device's name inside that namespace, where the kernel told it.
	Interface string `json:"interface,omitempty"`
	// Local is true for a drop of a packet that was made in that namespace and had not left it.
	Local bool `json:"local,omitempty"`
	// Reason is the drop reason's name from the running kernel's BTF, such as "NETFILTER_DROP", or its number in hexadecimal where the
	// BTF has no name for it; empty unless Dropped with one.
	Reason string `json:"reason,omitempty"`
	// Peer is the other address of the packet as it was at this point: who answered, reset, or sent the ICMP error.
	Peer netip.AddrPort `json:"peer,omitzero"`
	// Code is the ICMP code (RFC 792, RFC 4443) of an ICMPError.
	Code uint8 `json:"code,omitempty"`
}

// Accounting adds up the requests of one attempt: Sent = Arrived + Dropped + Unaccounted always holds. The unaccounted never prove a policy.
type Accounting struct {
	Sent        uint64 `json:"sent"`
	Arrived     uint64 `json:"arrived"`
	Dropped     uint64 `json:"dropped"`
	Unaccounted uint64 `json:"unaccounted"`
}
