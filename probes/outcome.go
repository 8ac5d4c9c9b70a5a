package probes

import (
	"net/netip"
	"time"
)

// OutcomeKind is what the source's socket saw. The zero value is unknown: no outcome came back.
type OutcomeKind uint8

// The kinds of outcome.
const (
	OutcomeUnknown OutcomeKind = iota
	// Connected is a finished TCP or SCTP handshake after which no identity came back; over a raw SCTP socket, an answered INIT.
	Connected
	// Replied is a listener's identity (TCP, UDP, SCTP), an echo reply (ICMP) or an answer (DNS, also NXDOMAIN) received.
	Replied
	// Refused is ECONNREFUSED: a TCP reset in answer to the SYN, an SCTP ABORT in answer to the INIT, or an ICMP port unreachable.
	Refused
	// Reset is ECONNRESET or an early end after the handshake.
	Reset
	// TimedOut is the deadline passing with no answer.
	TimedOut
	// Unreachable is an ICMP unreachable other than port unreachable, or no route on the source itself; Errno tells which.
	Unreachable
	// Error is a fault of the instrument, not of the network: no socket, no memory, a malformed attempt, agent shutting down.
	Error
)

var outcomeNames = [...]string{"unknown", "connected", "replied", "refused", "reset", "timedOut", "unreachable", "error"}

// String is the kind's name as reports print it.
func (k OutcomeKind) String() string { return enumName(outcomeNames[:], int(k)) }

// MarshalText writes the name.
func (k OutcomeKind) MarshalText() ([]byte, error) {
	return marshalEnum("outcome kind", outcomeNames[:], int(k))
}

// UnmarshalText reads the name; anything else is an error.
func (k *OutcomeKind) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("outcome kind", outcomeNames[:], b)
	*k = OutcomeKind(n)
	return err
}

// SocketKind is whose implementation of the protocol made an attempt. The zero value is unknown: TCP, UDP and DNS, whose sockets are always
// the kernel's, leave it out.
type SocketKind uint8

// The kinds of socket.
const (
	SocketUnknown SocketKind = iota
	// KernelSocket: the kernel's own, with its state machine. SCTP.
	KernelSocket
	// PingSocket: the kernel's for echo requests (icmp(7), net.ipv4.ping_group_range), which needs no capability. ICMP.
	PingSocket
	// RawSocket: the probe's own, over raw IP packets with the capability NET_RAW, because the kernel has none or grants none. SCTP, ICMP.
	RawSocket
)

var socketKindNames = [...]string{"unknown", "kernel", "ping", "raw"}

// String is the kind's name as reports print it.
func (k SocketKind) String() string { return enumName(socketKindNames[:], int(k)) }

// MarshalText writes the name.
func (k SocketKind) MarshalText() ([]byte, error) {
	return marshalEnum("kind of socket", socketKindNames[:], int(k))
}

// UnmarshalText reads the name; anything else is an error.
func (k *SocketKind) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("kind of socket", socketKindNames[:], b)
	*k = SocketKind(n)
	return err
}

// Outcome is what came of one attempt at its source. A fact; never judged here.
type Outcome struct {
	// AttemptID is the attempt's ID.
	AttemptID string `json:"attemptID"`
	// Kind is what the socket saw.
	Kind OutcomeKind `json:"kind"`
	// Responder is the identity that came back in the reply, empty unless Kind is Replied. Whether it is the right one is
	// for the runner to say.
	Responder string `json:"responder,omitempty"`
	// ReplyFrom is the address that an ICMP echo reply with the attempt's token came from. The destination's kernel answers echoes, so
	// there is no identity: an address is all that tells who answered. ICMP only.
	ReplyFrom netip.Addr `json:"replyFrom,omitzero"`
	// Socket is whose implementation made the attempt; SCTP and ICMP only.
	Socket SocketKind `json:"socket,omitzero"`
	// Local and Remote are the socket's own addresses, as far as it got one. For ICMP the port of Local is the echo identifier.
	Local  netip.AddrPort `json:"local,omitzero"`
	Remote netip.AddrPort `json:"remote,omitzero"`
	// Addresses are the A and AAAA records of a DNS answer; empty for NXDOMAIN, with Detail saying so.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Rejecter is the address that sent the ICMP error behind Refused or Unreachable: the destination's own, or that of
	// something on the way. It is zero for a TCP reset, for a refusal inside the source's own stack, and for DNS.
	Rejecter netip.Addr `json:"rejecter,omitzero"`
	// Errno is the symbolic kernel error, such as "ECONNREFUSED" or "EHOSTUNREACH", where there was one.
	Errno string `json:"errno,omitempty"`
	// Detail says in words what happened where Kind alone does not.
	Detail string `json:"detail,omitempty"`
	// Started is the agent's wall clock at the first system call; Took is measured by its monotonic clock.
	Started time.Time     `json:"started"`
	Took    time.Duration `json:"took"`
}

// Arrival is one token that a destination's listener received.
type Arrival struct {
	Token    Token    `json:"token"`
	Protocol Protocol `json:"protocol"`
	// Source and Destination are as the listener's socket saw them, after any NAT.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Listener is the identity of the listener.
	Listener string `json:"listener"`
	// At is the destination agent's wall clock.
	At time.Time `json:"at"`
	// Count is how many datagrams or connections carried this token; more than one is reported, never hidden.
	Count int `json:"count"`
}

// Health is one answer of an agent about itself.
type Health struct {
	// Identity is the agent's "namespace/pod".
	Identity string `json:"identity"`
	// BootID is random per process start: two answers with different ones mean that the agent restarted in between.
	BootID string `json:"bootID"`
	// At is the agent's wall clock.
	At time.Time `json:"at"`
	// Listeners holds one entry per configured listener, self-checked over the pod's own stack for this answer.
	Listeners []ListenerHealth `json:"listeners"`
	// ArrivalsLost is how many recorded arrivals have had to make room for newer ones since the agent started, and
	// ArrivalsLostUntil the time of the newest of them: a missing arrival proves nothing for an attempt that is older.
	ArrivalsLost      uint64    `json:"arrivalsLost,omitempty"`
	ArrivalsLostUntil time.Time `json:"arrivalsLostUntil,omitzero"`
	// NetNS is the inode number of the agent's network namespace, for matching kernel sightings.
	NetNS uint64 `json:"netns,omitempty"`
	// Version is the probe's build version.
	Version string `json:"version"`
}

// ListenerHealth is the self-check of one listener.
type ListenerHealth struct {
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	// Fault is empty when the listener answered its own check with its own identity.
	Fault string `json:"fault,omitempty"`
}

// Control proves, or fails to prove, that both ends of an attempt were alive while it ran.
type Control struct {
	// SourceFault and DestinationFault are empty when that end answered before and after the attempt with one BootID and
	// healthy listeners; else they say what was missing. For a lookup, whose destination has no agent, DestinationFault says why the
	// resolver was not proven alive; it stays empty for other destinations without one.
	SourceFault      string `json:"sourceFault,omitempty"`
	DestinationFault string `json:"destinationFault,omitempty"`
	// Baseline is the kind of the outcome of the same attempt before any policy; OutcomeUnknown when there was none.
	Baseline OutcomeKind `json:"baseline"`
	// BaselineFault is empty when the baseline was delivered by the right responder; else it says what happened.
	BaselineFault string `json:"baselineFault,omitempty"`
	// Instead says what proved the path in place of the baseline, which was of a pod that has been made again since, or of another backend.
	Instead string `json:"instead,omitempty"`
	// WitnessFault says why no witness watched the attempt in a run that rests on witnesses; empty when one did, when none was required, and
	// for attempts that no witness can see.
	WitnessFault string `json:"witnessFault,omitempty"`
}

// Observation is everything known about one attempt: facts only.
type Observation struct {
	Attempt  Attempt   `json:"attempt"`
	Outcome  Outcome   `json:"outcome"`
	Arrivals []Arrival `json:"arrivals,omitempty"`
	Control  Control   `json:"control"`
	// Sightings are the kernel's, and Level is how strong they are: the weakest of the witnesses on the way.
	Sightings []Sighting `json:"sightings,omitempty"`
	Level     Level      `json:"level,omitzero"`
}
