package listen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/sctp"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// checkTimeout bounds the check of one listener. Nothing but the pod's own loopback lies between, so a second is a pod in trouble.
const checkTimeout = time.Second

// loopback is where checks go.
var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// checkTokens are the tokens of checks under way, which are answered as any other and not recorded.
type checkTokens struct {
	mu      sync.Mutex
	pending map[probes.Token]struct{}
}

func (c *checkTokens) add() probes.Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := probes.NewToken()
	c.pending[t] = struct{}{}
	return t
}

func (c *checkTokens) drop(t probes.Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, t)
}

func (c *checkTokens) has(t probes.Token) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.pending[t]
	return ok
}

// Check asks every listener for its identity over the pod's loopback, all at once, and says in the order of the specs which of
// them answered. It takes no longer than a second.
func (g *Group) Check(ctx context.Context) []probes.ListenerHealth {
	health := make([]probes.ListenerHealth, len(g.listeners))
	var wg sync.WaitGroup
	for i, l := range g.listeners {
		health[i] = probes.ListenerHealth{Protocol: l.spec.Protocol, Port: l.port, Fault: l.fault}
		if l.fault != "" {
			continue
		}
		wg.Go(func() {
			if err := g.check(ctx, l); err != nil {
				health[i].Fault = err.Error()
			}
		})
	}
	wg.Wait()
	return health
}

// check sends one request to the listener and reads the identity that comes back. The source port is of the kernel's choice, which
// keeps checks off the ports that attempts bind.
func (g *Group) check(ctx context.Context, l *listener) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	token := g.checks.add()
	defer g.checks.drop(token)
	if l.spec.Protocol == probes.SCTP && l.close == nil {
		return g.checkRawSCTP(ctx, l.port, token)
	}
	network := "tcp"
	if l.spec.Protocol == probes.UDP {
		network = "udp"
	}
	var conn net.Conn
	var err error
	if l.spec.Protocol == probes.SCTP {
		conn, err = dialKernelSCTP(l.port)
	} else {
		var dialer net.Dialer
		conn, err = dialer.DialContext(ctx, network, netip.AddrPortFrom(loopback, l.port).String())
	}
	if err != nil {
		return fmt.Errorf("checking the listener: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // as an attempt does: no TIME_WAIT for a check each second
	}
	if _, err := conn.Write(wire.AppendRequest(nil, token)); err != nil {
		return fmt.Errorf("checking the listener: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		return fmt.Errorf("checking the listener: %w", err)
	}
	return g.own(line, token)
}

// own is nil for the answer of a listener of this group to the token.
func (g *Group) own(line []byte, token probes.Token) error {
	got, identity, err := wire.ParseReply(line)
	if err != nil || got != token || identity != g.identity {
		return fmt.Errorf("checking the listener: the answer %q is not its own", line)
	}
	return nil
}

// The source ports of checks over raw sockets: the kernel's own ephemeral ones (ip_local_port_range), which attempts keep off.
const (
	firstEphemeral = 32768
	lastEphemeral  = 60999
)

// checkRawSCTP is check for a listener behind the raw sockets: a whole association over the loopback.
func (g *Group) checkRawSCTP(ctx context.Context, port uint16, token probes.Token) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, fmt.Sprint("ip4:", sctp.ProtocolNumber), loopback.String())
	if err != nil {
		return fmt.Errorf("checking the listener: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	source := sctp.NewSource(firstEphemeral+rand.N[uint16](lastEphemeral-firstEphemeral+1), port, token)
	defer func() {
		if end := source.End(); end != nil {
			_, _ = conn.Write(end) // the check is done; the listener forgets the association by itself
		}
	}()
	packet := make([]byte, maxIPHeader+sctp.MaxPacket)
	for send := source.Init(); ; {
		if send != nil {
			if _, err := conn.Write(send); err != nil {
				return fmt.Errorf("checking the listener: %w", err)
			}
		}
		n, err := conn.Read(packet)
		if err != nil {
			return fmt.Errorf("checking the listener: %w", err)
		}
		var event sctp.Event
		var text []byte
		switch event, text, send = source.Receive(withoutHeader(packet[:n])); event {
		case sctp.Message:
			return g.own(text, token)
		case sctp.Refused, sctp.Aborted:
			return errors.New("checking the listener: it aborted the association")
		}
	}
}
