package dial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// doUDP sends one datagram from a connected socket and waits for the echo that carries its token.
//
// Datagrams without it are counted in Detail and otherwise ignored. An ICMP port unreachable is Refused. Where a netfilter rule of the
// source's own node drops the datagram on its way out, send answers EPERM: Unreachable.
func (d *Dialer) doUDP(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	s, err := connect(ctx, d.udp, udpSocket, a, deadline, o)
	if s != nil {
		defer s.close()
	}
	if err != nil {
		classify(ctx, o, s, err)
		return
	}
	if _, err := s.file.Write(wire.AppendRequest(nil, a.Token)); err != nil {
		classify(ctx, o, s, err)
		return
	}
	buf := make([]byte, wire.MaxLine+1) // a datagram that fills it is too long to be ours
	for strays := 0; ; strays++ {
		n, err := s.file.Read(buf)
		if err != nil && !errors.Is(err, io.EOF) { // an empty datagram reads as the end of a file
			classify(ctx, o, s, err)
			if strays > 0 && o.Detail == "" {
				o.Detail = fmt.Sprintf("%d datagrams came from the destination, none with the token", strays)
			}
			return
		}
		if token, identity, err := wire.ParseReply(buf[:n]); err == nil && token == a.Token {
			o.Kind, o.Responder = probes.Replied, identity
			return
		}
	}
}
