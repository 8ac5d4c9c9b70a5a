package probes

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Protocol is what an attempt speaks. The zero value is unknown and invalid to send.
type Protocol uint8

// The protocols of attempts. DNS is a name lookup through the pod's own resolver: an attempt of its own, so that a failing
// lookup never reads as a deny of the connection that would have followed.
const (
	ProtocolUnknown Protocol = iota
	TCP
	UDP
	SCTP
	ICMP
	DNS
)

var protocolNames = [...]string{"unknown", "TCP", "UDP", "SCTP", "ICMP", "DNS"}

// String is the protocol's name as the NetworkPolicy API spells it.
func (p Protocol) String() string { return enumName(protocolNames[:], int(p)) }

// MarshalText writes the name.
func (p Protocol) MarshalText() ([]byte, error) {
	return marshalEnum("protocol", protocolNames[:], int(p))
}

// UnmarshalText reads the name; anything else is an error.
func (p *Protocol) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("protocol", protocolNames[:], b)
	*p = Protocol(n)
	return err
}

// Family is an address family. The zero value is unknown; only a DNS attempt needs one, all others have it in their destination.
type Family uint8

// The address families.
const (
	FamilyUnknown Family = iota
	IPv4
	IPv6
)

var familyNames = [...]string{"unknown", "IPv4", "IPv6"}

// String is the family's name as the Kubernetes API spells it.
func (f Family) String() string { return enumName(familyNames[:], int(f)) }

// MarshalText writes the name.
func (f Family) MarshalText() ([]byte, error) {
	return marshalEnum("address family", familyNames[:], int(f))
}

// UnmarshalText reads the name; anything else is an error.
func (f *Family) UnmarshalText(b []byte) error {
	n, err := unmarshalEnum("address family", familyNames[:], b)
	*f = Family(n)
	return err
}

// Token marks the packets of one attempt. Its text form is 32 lower-case hexadecimal digits.
type Token [16]byte

// NewToken returns a random token from the system's source of randomness.
func NewToken() Token {
	var t Token
	rand.Read(t[:]) // never fails: crypto/rand ends the program instead
	return t
}

// String is the text form.
func (t Token) String() string { return hex.EncodeToString(t[:]) }

// MarshalText writes the text form.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads the text form.
func (t *Token) UnmarshalText(b []byte) error {
	if hex.DecodedLen(len(b)) != len(t) {
		return fmt.Errorf("reading a token: %d characters, want %d", len(b), hex.EncodedLen(len(t)))
	}
	if _, err := hex.Decode(t[:], b); err != nil {
		return fmt.Errorf("reading a token: %w", err)
	}
	return nil
}

// Attempt is one try: single shot, no retry, no fallback, no second address family.
type Attempt struct {
	// ID is unique in its run; the outcome carries it back.
	ID string `json:"id"`
	// Protocol decides which of Destination and Name is used.
	Protocol Protocol `json:"protocol"`
	// Destination is the address and port to reach; the port is zero for ICMP; the whole is zero for DNS.
	Destination netip.AddrPort `json:"destination,omitzero"`
	// Name is the fully qualified name to look up, with or without the final dot; with Authority that of the server.
	Name string `json:"name,omitempty"`
	// Authority are PEM certificates, at most [MaxAuthority] bytes. With them the other end is no listener of ours but a TLS server, which is to
	// prove by its certificate that it is Name. TCP only; nothing but the handshake is sent.
	Authority string `json:"authority,omitempty"`
	// Family is the family of the records to look up: A for IPv4, AAAA for IPv6. DNS only; unknown means IPv4.
	Family Family `json:"family,omitzero"`
	// SourcePort is bound explicitly when not zero; zero lets the agent choose one that is unique per protocol.
	SourcePort uint16 `json:"sourcePort,omitempty"`
	// Token travels in the payload and comes back in the arrival.
	Token Token `json:"token"`
	// Deadline bounds the whole attempt, from the first system call to the reply. More than zero, at most [MaxDeadline].
	Deadline time.Duration `json:"deadline"`
}

// MaxDeadline bounds one attempt, so that a wrong unit in a request cannot hold an agent's slot for hours.
const MaxDeadline = time.Minute

// MaxAuthority is how many bytes of certificates an attempt may carry: two or three of the usual ones.
const MaxAuthority = 3 << 10

// Validate reports every fault of the attempt at once, each with its field.
func (a Attempt) Validate() error {
	var faults []error
	if a.ID == "" {
		faults = append(faults, errors.New("id: is required"))
	}
	switch a.Protocol {
	case TCP, UDP, SCTP:
		if !a.Destination.IsValid() || a.Destination.Port() == 0 {
			faults = append(faults, fmt.Errorf("destination: %s needs an address and a port", a.Protocol))
		}
	case ICMP:
		if !a.Destination.Addr().IsValid() {
			faults = append(faults, errors.New("destination: ICMP needs an address"))
		}
	case DNS:
		if a.Name == "" {
			faults = append(faults, errors.New("name: is required for DNS"))
		}
	default:
		faults = append(faults, fmt.Errorf("protocol: %d is not one of TCP, UDP, SCTP, ICMP, DNS", a.Protocol))
	}
	switch {
	case a.Authority == "":
	case a.Protocol != TCP || a.Name == "":
		faults = append(faults, errors.New("authority: is for TCP, with the name of a server"))
	case len(a.Authority) > MaxAuthority:
		faults = append(faults, fmt.Errorf("authority: has %d bytes, want at most %d", len(a.Authority), MaxAuthority))
	}
	if a.Deadline <= 0 || a.Deadline > MaxDeadline {
		faults = append(faults, fmt.Errorf("deadline: %s is not above zero and at most %s", a.Deadline, MaxDeadline))
	}
	return errors.Join(faults...)
}
