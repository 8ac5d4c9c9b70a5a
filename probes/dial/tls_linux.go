package dial

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/gapproof/gapproof/probes"
)

// handshake has a TLS server at the other end of a connection that stands prove who it is. The outcome is as [exchange] has it: Replied with the
// name that the certificate proved, or Connected where somebody else answered.
func handshake(ctx context.Context, a probes.Attempt, o *probes.Outcome, s *socket) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(a.Authority)) {
		fault(o, errors.New("reading the authority: it holds no certificate"))
		return
	}
	// The socket's own deadline and watch bound it. What is sent after a handshake, as session tickets, is of no interest.
	conn := tls.Client(stream{s.file, net.TCPAddrFromAddrPort(o.Local), net.TCPAddrFromAddrPort(o.Remote)}, &tls.Config{
		ServerName: a.Name, RootCAs: roots, MinVersion: tls.VersionTLS12,
	})
	err := conn.Handshake()
	var call *os.PathError // reading and writing the socket
	switch {
	case err == nil:
		o.Kind, o.Responder = probes.Replied, a.Name
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		afterHandshake(ctx, o, s, io.EOF)
	case ctx.Err() != nil, errors.As(err, &call):
		afterHandshake(ctx, o, s, err)
	default:
		o.Kind, o.Detail = probes.Connected, fmt.Sprintf("what answered is not proven to be %s: %s", a.Name, err)
	}
}

// stream is a socket as package tls wants one.
type stream struct {
	*os.File
	local, remote net.Addr
}

func (s stream) LocalAddr() net.Addr  { return s.local }
func (s stream) RemoteAddr() net.Addr { return s.remote }
