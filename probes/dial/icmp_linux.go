package dial

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// The types of echo messages (RFC 792, RFC 4443) and the layout they share: type, code, checksum, identifier, sequence number.
const (
	echoRequest4 = 8
	echoReply4   = 0
	echoRequest6 = 128
	echoReply6   = 129
	echoHead     = 8
	// echoSequence is the number of an attempt's only request.
	echoSequence = 1
)

// maxEcho is more than a reply to our request has: an IPv4 header with options, the echo's head and the line.
const maxEcho = maxIPHeader + echoHead + wire.MaxLine

// doICMP sends one echo request with the token and waits for the reply that brings it back.
//
// The source port is the echo identifier. Replied is a reply with the identifier, sequence number and payload that were sent; it may come
// from an address that was not asked, so ReplyFrom tells which. The kernel of whoever has the address answers, no process of the pod's: there is
// neither an identity nor an arrival. An ICMP port unreachable is Refused, any other unreachable Unreachable, as with UDP.
func (d *Dialer) doICMP(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	a.Destination = netip.AddrPortFrom(a.Destination.Addr(), 0)
	protocol := syscall.IPPROTO_ICMPV6
	if a.Destination.Addr().Unmap().Is4() {
		protocol = syscall.IPPROTO_ICMP
	}
	of := socketType{kind: syscall.SOCK_DGRAM, protocol: protocol}
	o.Socket = probes.PingSocket
	s, err := connect(ctx, d.icmp, of, a, deadline, o)
	if s == nil && (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)) && !fromNetwork(err) {
		of.kind, o.Socket = syscall.SOCK_RAW, probes.RawSocket
		if s, err = connect(ctx, d.icmp, of, a, deadline, o); s == nil && errors.Is(err, syscall.EPERM) {
			err = fmt.Errorf("%w: echo requests need the pod's group in net.ipv4.ping_group_range, or the capability NET_RAW", err)
		}
	}
	if s != nil {
		defer s.close()
	}
	if err != nil {
		classify(ctx, o, s, err)
		return
	}
	e := echo{six: protocol == syscall.IPPROTO_ICMPV6, raw: of.isRaw(), id: s.port, payload: wire.AppendRequest(nil, a.Token)}
	if _, err := s.file.Write(e.request()); err != nil {
		classify(ctx, o, s, err)
		return
	}
	s.awaitEcho(ctx, e, o)
}

// awaitEcho reads until the reply comes, an ICMP error to the request does, or the deadline passes.
func (s *socket) awaitEcho(ctx context.Context, e echo, o *probes.Outcome) {
	buf := make([]byte, maxEcho)
	for {
		n, from, err := s.receive(buf)
		if err != nil {
			if !e.raw { // the kernel gives a ping socket the errors to its own identifier alone
				classify(ctx, o, s, err)
				return
			}
			who, ours := s.rejectionOf(e.quoted)
			if !ours && fromNetwork(err) && !errors.Is(err, os.ErrDeadlineExceeded) {
				continue // a raw socket hears of the errors to every echo that the pod sends to the address
			}
			classify(ctx, o, nil, err)
			o.Rejecter = who
			return
		}
		if e.answers(buf[:n]) {
			o.Kind, o.ReplyFrom = probes.Replied, from
			return
		}
	}
}

// receive reads one packet and tells the address it came from.
func (s *socket) receive(buf []byte) (n int, from netip.Addr, err error) {
	waited := s.raw.Read(func(fd uintptr) bool {
		var sa syscall.Sockaddr
		n, sa, err = syscall.Recvfrom(int(fd), buf, 0)
		if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINTR) {
			return false
		}
		if err == nil {
			from = addrPort(sa).Addr()
		}
		return true
	})
	if waited != nil {
		return 0, netip.Addr{}, waited
	}
	return n, from, os.NewSyscallError("recvfrom", err)
}

// rejectionOf takes entries off the error queue until one quotes a packet that ours takes for its own, and says who sent it.
func (s *socket) rejectionOf(ours func(quoted []byte) bool) (who netip.Addr, found bool) {
	for {
		who, quoted, ok := s.rejection()
		if !ok {
			return netip.Addr{}, false
		}
		if ours(quoted) {
			return who, true
		}
	}
}

// echo is the one request of an attempt.
type echo struct {
	six, raw bool
	id       uint16
	payload  []byte
}

// request is the message to send. A ping socket writes its own identifier and checksum over it, and so does IPv6 with the checksum.
func (e echo) request() []byte {
	kind := byte(echoRequest4)
	if e.six {
		kind = echoRequest6
	}
	b := []byte{kind, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, e.id)
	b = binary.BigEndian.AppendUint16(b, echoSequence)
	b = append(b, e.payload...)
	if !e.six {
		binary.BigEndian.PutUint16(b[2:], internetChecksum(b))
	}
	return b
}

// answers tells whether a packet that was read is the reply. A raw socket for IPv4 reads the IP header too (raw(7)).
func (e echo) answers(b []byte) bool {
	kind := byte(echoReply6)
	if !e.six {
		kind = echoReply4
		if e.raw {
			b = withoutHeader(b)
		}
	}
	return len(b) >= echoHead && b[0] == kind && b[1] == 0 && e.isOurs(b) && bytes.Equal(b[echoHead:], e.payload)
}

// quoted tells whether the packet that an ICMP error quotes is the request.
func (e echo) quoted(b []byte) bool { return len(b) >= echoHead && e.isOurs(b) }

func (e echo) isOurs(b []byte) bool {
	return binary.BigEndian.Uint16(b[4:]) == e.id && binary.BigEndian.Uint16(b[6:]) == echoSequence
}

// withoutHeader is what follows the IPv4 header of a packet, empty when it is cut short.
func withoutHeader(b []byte) []byte {
	const unit, lengthBits = 4, 0x0f // the length is the lower half of the first byte, in words of 4 bytes (RFC 791)
	if len(b) == 0 || len(b) < int(b[0]&lengthBits)*unit {
		return nil
	}
	return b[int(b[0]&lengthBits)*unit:]
}

// internetChecksum is the checksum of a message whose own field is zero (RFC 1071).
func internetChecksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
