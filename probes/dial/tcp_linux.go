package dial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// maxQuoted is how much of a foreign answer an outcome quotes: enough to know a banner by.
const maxQuoted = 48

// doTCP connects once, sends the token and reads the listener's identity, or has a server that is not ours prove its own.
func (d *Dialer) doTCP(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	s, err := connect(ctx, d.tcp, tcpSocket, a, deadline, o)
	if s != nil {
		defer s.close()
	}
	if err == nil && a.Authority != "" {
		handshake(ctx, a, o, s)
		return
	}
	exchange(ctx, a, o, s, err)
}

// exchange sends the token over a stream socket and reads the listener's identity; err is how connecting ended.
//
// After the handshake the outcome is Replied, Reset (the destination ended the connection without an identity) or Connected (the
// deadline passed, an ICMP error came, or what answered was not a listener of ours; Detail says which). It is never TimedOut or
// Unreachable then: the handshake is a fact that must not be lost.
func exchange(ctx context.Context, a probes.Attempt, o *probes.Outcome, s *socket, err error) {
	if err != nil {
		classify(ctx, o, s, err)
		return
	}
	if _, err := s.file.Write(wire.AppendRequest(nil, a.Token)); err != nil {
		afterHandshake(ctx, o, s, err)
		return
	}
	line, err := readLine(s.file)
	if err != nil {
		afterHandshake(ctx, o, s, err)
		if len(line) > 0 {
			o.Detail += fmt.Sprintf(", after %q", line[:min(len(line), maxQuoted)])
		}
		return
	}
	identified(o, a.Token, line)
}

// identified fills the outcome for what came back over an association or connection that stood.
func identified(o *probes.Outcome, sent probes.Token, line []byte) {
	token, identity, err := wire.ParseReply(line)
	switch {
	case err != nil:
		o.Kind, o.Detail = probes.Connected, fmt.Sprintf("the answer is not a listener's: %q", line[:min(len(line), maxQuoted)])
	case token != sent:
		o.Kind, o.Detail = probes.Connected, fmt.Sprintf("%s answered with token %s", identity, token)
	default:
		o.Kind, o.Responder = probes.Replied, identity
	}
}

// afterHandshake is classify for a connection that stood.
func afterHandshake(ctx context.Context, o *probes.Outcome, s *socket, err error) {
	switch {
	case errors.Is(err, io.EOF) && ctx.Err() == nil:
		o.Kind, o.Detail = probes.Reset, "the destination ended the connection before its identity came"
	default:
		classify(ctx, o, s, err)
		switch o.Kind {
		case probes.TimedOut:
			o.Kind, o.Detail = probes.Connected, "no identity came before the deadline"
		case probes.Refused, probes.Unreachable:
			o.Kind, o.Detail = probes.Connected, "after the handshake: "+err.Error()
		}
	}
}

// readLine reads up to the first line end, or until the line is longer than any of ours; then it is foreign and ends there.
func readLine(f *os.File) ([]byte, error) {
	buf := make([]byte, wire.MaxLine)
	for n := 0; n < len(buf); {
		m, err := f.Read(buf[n:])
		n += m
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return buf[:i+1], nil
		}
		if err != nil {
			return buf[:n], err
		}
	}
	return buf, nil
}
