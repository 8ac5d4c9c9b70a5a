package listen

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// acceptPause is how long a listener waits after accept failed, as it does while the process is out of descriptors; the connection
// stays in the kernel's queue.
const acceptPause = 10 * time.Millisecond

// serveTCP answers connections of TCP, or of the kernel's SCTP, until the socket is closed, and waits for those it answers.
func (g *Group) serveTCP(ctx context.Context, socket *net.TCPListener, protocol probes.Protocol) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, g.opts.MaxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := socket.AcceptTCP()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			<-slots
			g.opts.Log.Warn("accepting a connection", "destination", socket.Addr().String(), "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			g.answerTCP(ctx, conn, protocol)
		})
	}
}

// answerTCP reads one line, records it, and answers with the identity. The source closes with a reset once it has the answer, so this
// end keeps no TIME_WAIT although it closes first.
func (g *Group) answerTCP(ctx context.Context, conn *net.TCPConn, protocol probes.Protocol) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(g.opts.ReadTimeout)) // fails only on a connection that has ended
	// Only now: a context that ended before would have its deadline undone by the one above.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	source, destination := conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn.LocalAddr().(*net.TCPAddr).AddrPort()
	line, err := readLine(conn)
	if err == nil {
		var token probes.Token
		if token, err = wire.ParseRequest(line); err == nil {
			g.arrived(token, protocol, source, destination)
			_, err = conn.Write(wire.AppendReply(nil, token, g.identity))
		}
	}
	if err != nil {
		g.opts.Log.Debug("connection without an answer", "protocol", protocol, "source", source, "destination", destination, "err", err)
		_ = conn.SetLinger(0) // a peer that is not ours gets no TIME_WAIT from us
	}
}

// readLine reads up to the first line end, or as much as a line of ours can have.
func readLine(conn net.Conn) ([]byte, error) {
	buf := make([]byte, wire.MaxLine)
	for n := 0; n < len(buf); {
		m, err := conn.Read(buf[n:])
		n += m
		if i := bytes.IndexByte(buf[:n], '\n'); i >= 0 {
			return buf[:i+1], nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, wire.ErrForeign
}
