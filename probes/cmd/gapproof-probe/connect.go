package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// connect copies in to the agent on the loopback and its answers to out, until the agent closes the stream, in ends and the agent has
// answered, or ctx ends.
func connect(ctx context.Context, port uint16, in io.Reader, out io.Writer) error {
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address.String())
	if err != nil {
		return fmt.Errorf("connecting to the agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	go func() { // a read of standard input cannot be interrupted: it ends with the process at the latest
		io.Copy(conn, in)
		if half, ok := conn.(*net.TCPConn); ok {
			half.CloseWrite()
		}
	}()
	if _, err := io.Copy(out, conn); err != nil && ctx.Err() == nil {
		return fmt.Errorf("carrying the agent's answers: %w", err)
	}
	return nil
}
