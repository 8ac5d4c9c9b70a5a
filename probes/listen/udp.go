package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// serveUDP answers datagrams until the socket is closed.
func (g *Group) serveUDP(ctx context.Context, socket *net.UDPConn, port uint16) {
	payload := make([]byte, wire.MaxLine+1) // one that fills it is too long to be ours
	oob := make([]byte, oobSize)
	for ctx.Err() == nil {
		n, oobn, _, source, err := socket.ReadMsgUDPAddrPort(payload, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // an ICMP error for an earlier reply; the socket is as good as before
			g.opts.Log.Debug("receiving a datagram", "protocol", probes.UDP, "port", port, "err", err)
			continue
		}
		to, back := replyFrom(oob[:oobn])
		token, err := wire.ParseRequest(payload[:n])
		if err != nil {
			g.opts.Log.Debug("datagram without an answer", "protocol", probes.UDP, "source", source, "port", port, "err", err)
			continue
		}
		g.arrived(token, probes.UDP, source, netip.AddrPortFrom(to, port))
		if _, _, err := socket.WriteMsgUDPAddrPort(wire.AppendReply(nil, token, g.identity), back, source); err != nil && ctx.Err() == nil {
			g.opts.Log.Debug("sending a reply", "protocol", probes.UDP, "source", source, "port", port, "err", err)
		}
	}
}
