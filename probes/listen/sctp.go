package listen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/sctp"
)

// rawSCTP is the SCTP of a pod whose kernel has none: the ports that are served, and one raw socket for each address family.
type rawSCTP struct {
	ports *sctp.Listeners
	conns []*net.IPConn
}

// openSCTP serves the port with the kernel's SCTP where it has it, else over the pod's raw sockets, which the first such port opens.
//
// The raw sockets stand for the whole pod: they abort an INIT to any port that is not served, as a kernel's stack would, and while they are
// open the kernel answers no packet of SCTP with an ICMP protocol unreachable (net/ipv4/ip_input.c, ip_protocol_deliver_rcu).
func (g *Group) openSCTP(ctx context.Context, l *listener) error {
	socket, err := kernelSCTP(l.spec.Port)
	if err == nil {
		l.close, l.port = socket.Close, portOf(socket.Addr())
		g.serve(ctx, l, func() { g.serveTCP(ctx, socket, probes.SCTP) })
		return nil
	}
	if !errors.Is(err, errNoKernelSCTP) {
		return err
	}
	if l.spec.Port == 0 {
		return fmt.Errorf("listening on %s: a raw socket has no port of the kernel's choice: %w", l.spec, errors.ErrUnsupported)
	}
	if g.sctp == nil {
		if g.sctp, err = g.openRawSCTP(ctx); err != nil {
			return fmt.Errorf("listening without SCTP in the kernel: %w", err)
		}
	}
	g.sctp.ports.Serve(l.spec.Port)
	return nil
}

// openRawSCTP opens a raw socket for IPv4 and one for IPv6, or the one that the node has, and serves them.
func (g *Group) openRawSCTP(ctx context.Context) (*rawSCTP, error) {
	raw := &rawSCTP{ports: sctp.NewListeners(g.identity, g.opts.ReadTimeout, func(t probes.Token, p sctp.Path) {
		g.arrived(t, probes.SCTP, p.Source, p.Destination)
	})}
	var faults []error
	for _, network := range []string{"ip4", "ip6"} {
		config := net.ListenConfig{Control: packetInfo}
		conn, err := config.ListenPacket(ctx, fmt.Sprint(network, ":", sctp.ProtocolNumber), "")
		if err != nil {
			faults = append(faults, err)
			continue
		}
		raw.conns = append(raw.conns, conn.(*net.IPConn))
	}
	if len(raw.conns) == 0 {
		return nil, errors.Join(faults...)
	}
	for _, conn := range raw.conns {
		g.serve(ctx, &listener{close: conn.Close}, func() { g.serveRawSCTP(ctx, conn, raw.ports) })
	}
	return raw, nil
}

// serveRawSCTP answers packets until the socket is closed.
func (g *Group) serveRawSCTP(ctx context.Context, conn *net.IPConn, ports *sctp.Listeners) {
	packet := make([]byte, maxIPHeader+sctp.MaxPacket+1) // one that fills it is too long to be ours
	oob := make([]byte, oobSize)
	four := conn.LocalAddr().(*net.IPAddr).IP.To4() != nil
	for ctx.Err() == nil {
		n, oobn, _, from, err := conn.ReadMsgIP(packet, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.opts.Log.Debug("receiving a packet", "protocol", probes.SCTP, "err", err)
			continue
		}
		payload := packet[:n]
		if four {
			payload = withoutHeader(payload)
		}
		to, back := replyFrom(oob[:oobn])
		source, ok := netip.AddrFromSlice(from.IP)
		if !ok {
			continue
		}
		answer := ports.Receive(source.Unmap(), to, payload, time.Now())
		if answer == nil {
			continue
		}
		if _, _, err := conn.WriteMsgIP(answer, back, from); err != nil && ctx.Err() == nil {
			g.opts.Log.Debug("sending a reply", "protocol", probes.SCTP, "source", source, "err", err)
		}
	}
}

// maxIPHeader is an IPv4 header with all the options it can have; a raw socket for IPv4 reads it too (raw(7)).
const maxIPHeader = 60

// withoutHeader is what follows the IPv4 header of a packet, empty when it is cut short.
func withoutHeader(b []byte) []byte {
	const unit, lengthBits = 4, 0x0f // the length is the lower half of the first byte, in words of 4 bytes (RFC 791)
	if len(b) == 0 || len(b) < int(b[0]&lengthBits)*unit {
		return nil
	}
	return b[int(b[0]&lengthBits)*unit:]
}
