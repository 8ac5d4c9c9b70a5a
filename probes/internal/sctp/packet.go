// Package sctp is the part of SCTP (RFC 9260) that a probe speaks by itself where the kernel has none: one association, one line each way.
//
// [Packet] and [Chunk] are what travels, with [Parse] and [Packet.Append]. [Source] is the end that makes one attempt, [Listeners] the end
// that answers for the ports of a pod. Both are state machines without a socket: they are given packets and return what to send, so
// that a raw socket, a test or another implementation can be put between them. The exchange is the standard one, which every kernel and
// every connection tracking on the way takes for what it is:
//
//	source      INIT                    →
//	            ←                       INIT ACK (state cookie)       listener
//	            COOKIE ECHO, DATA       →
//	            ←                       COOKIE ACK, SACK, DATA
//	            SACK, ABORT             →
//
// The lines are those of package wire. The source's INIT also carries the attempt's token, in a parameter that RFC 9260, 3.2.1 has any
// other receiver skip: so the first packet alone is an arrival, as a SYN cannot be. The listener keeps nothing for an INIT: what it must
// know is in the cookie, under a key of its own. The source ends with an ABORT, as TCP attempts do with a reset.
//
// The trap: nothing is ever sent again. An attempt is one INIT, and a lost packet ends it; that is for the deadline to say. Streams,
// fragments, path management and graceful ends beyond an answer to SHUTDOWN are not here.
package sctp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ProtocolNumber is SCTP's in the IP header (RFC 9260, section 1).
const ProtocolNumber = 132

// ChunkType is the kind of a chunk (RFC 9260, 3.2).
type ChunkType uint8

// The chunk types that this package sends or acts on.
const (
	Data        ChunkType = 0
	Init        ChunkType = 1
	InitAck     ChunkType = 2
	Sack        ChunkType = 3
	Abort       ChunkType = 6
	Shutdown    ChunkType = 7
	ShutdownAck ChunkType = 8
	CookieEcho  ChunkType = 10
	CookieAck   ChunkType = 11
)

// flagReflected is the T bit of an ABORT: its tag is the one that the packet it answers had, because the sender knows no other.
const flagReflected = 1

// flagsWhole are the B and E bits of DATA: the first and the last fragment of its message, which is the whole of it.
const flagsWhole = 3

// The parameters of INIT and INIT ACK.
const (
	paramCookie = 7
	// paramToken is a probe's own. The upper bits 10 of an unknown parameter mean: skip it and go on, and do not report it.
	paramToken = 0x8000 | 0x3e70
)

// Sizes of the parts of a packet.
const (
	headerSize = 12
	chunkHead  = 4
	paramHead  = 4
	initSize   = 16 // of the fixed fields of INIT and INIT ACK
	dataSize   = 12 // of those of DATA, before the payload
	alignment  = 4
)

// MaxPacket is the largest packet this package builds or reads: more than the longest line with its headers, less than any link's MTU.
const MaxPacket = 1200

// ErrMalformed is a packet that does not follow RFC 9260, its checksum included.
var ErrMalformed = errors.New("not a packet of SCTP")

// Packet is one SCTP packet.
type Packet struct {
	// Source and Destination are ports.
	Source, Destination uint16
	// Tag is the verification tag: the one that the receiver has asked for; zero with an INIT.
	Tag    uint32
	Chunks []Chunk
}

// Chunk is one chunk of a packet; Value is what follows its length, without padding.
type Chunk struct {
	Type  ChunkType
	Flags uint8
	Value []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the packet with its checksum.
func (p Packet) Append(b []byte) []byte {
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, p.Source)
	b = binary.BigEndian.AppendUint16(b, p.Destination)
	b = binary.BigEndian.AppendUint32(b, p.Tag)
	b = append(b, 0, 0, 0, 0) // the checksum, over itself as zero
	for _, c := range p.Chunks {
		b = append(b, byte(c.Type), c.Flags)
		b = binary.BigEndian.AppendUint16(b, uint16(chunkHead+len(c.Value)))
		b = pad(append(b, c.Value...), start)
	}
	// The only field in little-endian order (RFC 9260, appendix A).
	binary.LittleEndian.PutUint32(b[start+8:], crc32.Checksum(b[start:], castagnoli))
	return b
}

// pad fills b with zeros up to a multiple of four bytes from start.
func pad(b []byte, start int) []byte {
	for (len(b)-start)%alignment != 0 {
		b = append(b, 0)
	}
	return b
}

// Parse reads a packet; the values of its chunks are parts of b. Anything but a whole packet with the right checksum is [ErrMalformed].
func Parse(b []byte) (Packet, error) {
	if len(b) < headerSize || len(b) > MaxPacket {
		return Packet{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	sum := crc32.Checksum(b[:8], castagnoli)
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	sum = crc32.Update(sum, castagnoli, b[headerSize:])
	if got := binary.LittleEndian.Uint32(b[8:]); got != sum {
		return Packet{}, fmt.Errorf("%w: checksum %08x, want %08x", ErrMalformed, got, sum)
	}
	p := Packet{Source: binary.BigEndian.Uint16(b), Destination: binary.BigEndian.Uint16(b[2:]), Tag: binary.BigEndian.Uint32(b[4:])}
	for rest := b[headerSize:]; len(rest) > 0; {
		value, after, err := item(rest)
		if err != nil {
			return Packet{}, fmt.Errorf("%w: chunk %d: %w", ErrMalformed, len(p.Chunks), err)
		}
		p.Chunks = append(p.Chunks, Chunk{Type: ChunkType(rest[0]), Flags: rest[1], Value: value})
		rest = after
	}
	return p, nil
}

// item is the value of the chunk or parameter at the head of b, both of which have their length in the third and fourth byte, and what
// follows its padding. The padding of the last one may be missing (RFC 9260, 3.2).
func item(b []byte) (value, after []byte, err error) {
	if len(b) < chunkHead {
		return nil, nil, fmt.Errorf("%d bytes are left for it", len(b))
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if length < chunkHead || length > len(b) {
		return nil, nil, fmt.Errorf("length %d of %d bytes", length, len(b))
	}
	end := min((length+alignment-1)/alignment*alignment, len(b))
	return b[chunkHead:length:length], b[end:], nil
}

// initiation is the value of an INIT or INIT ACK.
type initiation struct {
	tag uint32 // that the sender wants in packets to it
	tsn uint32 // of its first DATA
	// params by type; of two of one type the first.
	params map[uint16][]byte
}

// window is the receiver's window that we announce: far more than one line.
const window = 64 << 10

// value is what parseInitiation reads; one stream each way. Parameters follow in the order given.
func (i initiation) value(order ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, i.tag)
	b = binary.BigEndian.AppendUint32(b, window)
	b = append(b, 0, 1, 0, 1) // outbound and inbound streams
	b = binary.BigEndian.AppendUint32(b, i.tsn)
	for _, kind := range order {
		b = pad(b, 0) // the padding of the one before; the chunk's length does not count that of the last
		b = binary.BigEndian.AppendUint16(b, kind)
		b = binary.BigEndian.AppendUint16(b, uint16(paramHead+len(i.params[kind])))
		b = append(b, i.params[kind]...)
	}
	return b
}

func parseInitiation(value []byte) (initiation, error) {
	if len(value) < initSize {
		return initiation{}, fmt.Errorf("%w: an INIT of %d bytes", ErrMalformed, len(value))
	}
	i := initiation{tag: binary.BigEndian.Uint32(value), tsn: binary.BigEndian.Uint32(value[12:]), params: map[uint16][]byte{}}
	if i.tag == 0 || binary.BigEndian.Uint16(value[8:]) == 0 || binary.BigEndian.Uint16(value[10:]) == 0 {
		return initiation{}, fmt.Errorf("%w: an INIT without a tag or streams", ErrMalformed)
	}
	for rest := value[initSize:]; len(rest) > 0; {
		param, after, err := item(rest)
		if err != nil {
			return initiation{}, fmt.Errorf("%w: a parameter: %w", ErrMalformed, err)
		}
		kind := binary.BigEndian.Uint16(rest)
		if _, twice := i.params[kind]; !twice {
			i.params[kind] = param
		}
		rest = after
	}
	return i, nil
}

// data is a DATA chunk with a whole message on the first stream.
func data(tsn uint32, message []byte) Chunk {
	b := binary.BigEndian.AppendUint32(nil, tsn)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // stream, its sequence number, payload protocol: none
	return Chunk{Type: Data, Flags: flagsWhole, Value: append(b, message...)}
}

// message reads a DATA chunk; ok is false for a fragment and for what is no DATA chunk.
func message(c Chunk) (tsn uint32, text []byte, ok bool) {
	if len(c.Value) <= dataSize || c.Flags&flagsWhole != flagsWhole {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(c.Value), c.Value[dataSize:], true
}

// sack acknowledges everything up to tsn.
func sack(tsn uint32) Chunk {
	b := binary.BigEndian.AppendUint32(nil, tsn)
	b = binary.BigEndian.AppendUint32(b, window)
	return Chunk{Type: Sack, Value: append(b, 0, 0, 0, 0)} // no gaps, no duplicates
}
