package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/sctp"
)

// doSCTP makes an association, sends the token and reads the listener's identity, as a TCP attempt does: with the kernel's SCTP where it has
// it, which then is no different from a TCP socket, else over a raw socket. Both send a single INIT within three seconds (RFC 9260, 16).
//
// Over a raw socket Connected is an INIT that was answered; like TCP, it is never TimedOut after that.
func (d *Dialer) doSCTP(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	o.Socket = probes.KernelSocket
	s, err := connect(ctx, d.sctp, socketType{kind: syscall.SOCK_STREAM, protocol: sctp.ProtocolNumber}, a, deadline, o)
	if s == nil && (errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.ESOCKTNOSUPPORT)) {
		d.doRawSCTP(ctx, a, deadline, o)
		return
	}
	if s != nil {
		defer s.close()
	}
	exchange(ctx, a, o, s, err)
}

// doRawSCTP is doSCTP where the kernel has no SCTP. Its stack would answer what comes back with an ICMP protocol unreachable, if the raw
// socket were not there to take it.
func (d *Dialer) doRawSCTP(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	o.Socket = probes.RawSocket
	s, err := connect(ctx, d.sctp, socketType{kind: syscall.SOCK_RAW, protocol: sctp.ProtocolNumber}, a, deadline, o)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		if s == nil && errors.Is(err, syscall.EPERM) {
			err = fmt.Errorf("%w: the kernel has no SCTP, and a raw socket needs the capability NET_RAW", err)
		}
		classify(ctx, o, s, err)
		return
	}
	source := sctp.NewSource(s.port, a.Destination.Port(), a.Token)
	if _, err := s.file.Write(source.Init()); err != nil {
		classify(ctx, o, s, err)
		return
	}
	s.associate(ctx, a, source, o)
	if end := source.End(); end != nil {
		_, _ = s.file.Write(end) // the outcome is known; the listener forgets the association by itself
	}
}

// associate reads until the listener's message comes, the association ends, or the deadline passes.
func (s *socket) associate(ctx context.Context, a probes.Attempt, source *sctp.Source, o *probes.Outcome) {
	stood := false // the destination has answered
	buf := make([]byte, maxIPHeader+sctp.MaxPacket)
	for {
		n, err := s.file.Read(buf)
		if err != nil {
			who, ours := s.rejectionOf(func(quoted []byte) bool {
				return len(quoted) >= quotedSize && binary.BigEndian.Uint16(quoted) == s.port
			})
			switch {
			case !ours && fromNetwork(err) && !errors.Is(err, os.ErrDeadlineExceeded):
				continue // a raw socket hears of the errors to every packet of SCTP that the pod sends to the address
			case stood:
				afterHandshake(ctx, o, s, err)
			default:
				classify(ctx, o, nil, err)
				o.Rejecter = who
			}
			return
		}
		packet := buf[:n]
		if a.Destination.Addr().Unmap().Is4() {
			packet = withoutHeader(packet)
		}
		event, text, send := source.Receive(packet)
		if send != nil {
			if _, err := s.file.Write(send); err != nil {
				afterHandshake(ctx, o, s, err)
				return
			}
		}
		switch event {
		case sctp.Answered, sctp.Established:
			stood = true
		case sctp.Message:
			identified(o, a.Token, text)
			return
		case sctp.Refused:
			o.Kind, o.Detail = probes.Refused, "the INIT was answered with an ABORT"
			return
		case sctp.Aborted:
			o.Kind, o.Detail = probes.Reset, "the destination aborted the association before its identity came"
			return
		}
	}
}

// maxIPHeader is an IPv4 header with all the options it can have; a raw socket for IPv4 reads it too.
const maxIPHeader = 60
