package sctp

import (
	"crypto/rand"
	"encoding/binary"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// Event is what a packet meant to a [Source].
type Event uint8

// The events. Ignored is a packet that is not of this association, or changes nothing.
const (
	Ignored Event = iota
	// Answered: the destination answered the INIT; a cookie goes back.
	Answered
	// Established: the handshake has ended.
	Established
	// Message: the destination sent a whole message.
	Message
	// Refused: an ABORT in answer to the INIT.
	Refused
	// Aborted: an ABORT later than that.
	Aborted
)

// Source is the end of one association that makes an attempt. It is not for concurrent use.
type Source struct {
	source, destination uint16
	token               probes.Token
	own, peer           uint32 // verification tags: in packets to us, in packets to the destination; peer is zero before the INIT ACK
	tsn                 uint32
	established         bool
}

// NewSource is the source of an association between the two ports for the attempt's token.
func NewSource(source, destination uint16, token probes.Token) *Source {
	return &Source{source: source, destination: destination, token: token, own: newTag(), tsn: newTag()}
}

// newTag is a random number other than zero, which no tag may be.
func newTag() uint32 {
	var b [4]byte
	for {
		rand.Read(b[:]) // never fails: crypto/rand ends the program instead
		if n := binary.NativeEndian.Uint32(b[:]); n != 0 {
			return n
		}
	}
}

// Init is the packet that begins the association.
func (s *Source) Init() []byte {
	i := initiation{tag: s.own, tsn: s.tsn, params: map[uint16][]byte{paramToken: s.token[:]}}
	return s.packet(Chunk{Type: Init, Value: i.value(paramToken)})
}

// End is the packet that ends it at once: nil before the destination has answered, when it holds nothing that could be ended.
func (s *Source) End() []byte {
	if s.peer == 0 {
		return nil
	}
	return s.packet(Chunk{Type: Abort})
}

func (s *Source) packet(chunks ...Chunk) []byte {
	return Packet{Source: s.source, Destination: s.destination, Tag: s.peer, Chunks: chunks}.Append(nil)
}

// Receive takes one packet from the destination's address and says what it meant, the last event of several. Text is the message of a
// Message, a part of b; send is the answer, nil for none.
func (s *Source) Receive(b []byte) (event Event, text, send []byte) {
	p, err := Parse(b)
	if err != nil || p.Source != s.destination || p.Destination != s.source {
		return Ignored, nil, nil
	}
	for _, c := range p.Chunks {
		if c.Type == Abort {
			return s.aborted(p.Tag, c), nil, nil
		}
		if p.Tag != s.own {
			return Ignored, nil, nil
		}
		switch c.Type {
		case InitAck:
			return s.answered(c)
		case CookieAck:
			s.established, event = true, Established
		case Data:
			tsn, message, whole := message(c)
			if s.established && whole {
				event, text, send = Message, message, s.packet(sack(tsn))
			}
		}
	}
	return event, text, send
}

// aborted tells whether an ABORT is of this association: it carries our tag, or with the T bit the one that our last packet had.
func (s *Source) aborted(tag uint32, c Chunk) Event {
	want := s.own
	if c.Flags&flagReflected != 0 {
		want = s.peer
	}
	switch {
	case tag != want:
		return Ignored
	case s.peer == 0:
		return Refused
	default:
		return Aborted
	}
}

// answered takes the INIT ACK and sends its cookie back, with the line.
func (s *Source) answered(c Chunk) (Event, []byte, []byte) {
	i, err := parseInitiation(c.Value)
	cookie := i.params[paramCookie]
	if err != nil || s.peer != 0 || len(cookie) == 0 {
		return Ignored, nil, nil
	}
	s.peer = i.tag
	return Answered, nil, s.packet(Chunk{Type: CookieEcho, Value: cookie}, data(s.tsn, wire.AppendRequest(nil, s.token)))
}
