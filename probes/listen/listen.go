// Package listen holds the listeners of a probe pod: they answer every attempt with the pod's identity and record its arrival.
//
// [Start] opens one socket per [Spec], for IPv4 and IPv6 together, and gives a [Group]. SCTP without a kernel's help is the exception: two raw
// sockets serve all of its ports. ICMP has no listener: the kernel answers echoes. A source that sends the line of an attempt gets
// the identity back, over UDP from the very address it sent to, so that a reply to a Service or node address finds its way. The
// group records the token as a [probes.Arrival] before it answers: an arrival without a reply at the source is data that crossed one way.
// [Group.Check] sends each listener a request through the pod's own stack, with a token of the group's own, and does not record it.
//
// The trap: a port that cannot be bound is no error of Start. It becomes the fault of that listener in every check, so that a pod
// with one bad port still tells so over its agent instead of restarting without end.
package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/wire"
)

// Defaults of [Options].
const (
	// DefaultMaxArrivals is eight times the largest step planned so far (4096 attempts at one destination), in about 6 MiB when full.
	DefaultMaxArrivals = 32768
	// DefaultReadTimeout is how long a connection may take to send its line. A source that lost its first segment sends it again within
	// a second or two; one that stays silent holds a slot for no longer than this.
	DefaultReadTimeout = 5 * time.Second
	// DefaultMaxConns is how many connections one listener serves at once: sixteen agents at their default concurrency of 64. Those beyond
	// wait in the kernel's accept queue, which the listener's own check then shows as a fault.
	DefaultMaxConns = 1024
)

// Options holds what listeners may be told; the zero value is good.
type Options struct {
	// MaxArrivals bounds the record; zero means [DefaultMaxArrivals].
	MaxArrivals int
	// ReadTimeout bounds the wait for a connection's line; zero means [DefaultReadTimeout].
	ReadTimeout time.Duration
	// MaxConns bounds the connections of one listener; zero means [DefaultMaxConns].
	MaxConns int
	// Log gets faults at Warn and foreign requests at Debug; nil discards.
	Log *slog.Logger
}

func (o Options) filled() Options {
	if o.MaxArrivals == 0 {
		o.MaxArrivals = DefaultMaxArrivals
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = DefaultReadTimeout
	}
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Group is the listeners of one pod and their record. Its methods may be called by many goroutines at once.
type Group struct {
	identity  string
	opts      Options
	record    *record
	checks    checkTokens
	sctp      *rawSCTP // nil where no listener needed it
	listeners []*listener
	stop      context.CancelFunc
	wg        sync.WaitGroup
}

// listener is one open socket, or the reason why there is none.
type listener struct {
	spec  Spec
	fault string
	close func() error
	port  uint16 // the bound one, which differs from the spec's when that is zero
}

// Start opens a listener for each spec and serves until ctx ends or the group is closed. The only error is an identity that cannot
// be sent; a listener that cannot be opened is a fault in [Group.Check].
func Start(ctx context.Context, identity string, specs []Spec, opts Options) (*Group, error) {
	if err := wire.CheckIdentity(identity); err != nil {
		return nil, fmt.Errorf("starting listeners: %w", err)
	}
	opts = opts.filled()
	ctx, stop := context.WithCancel(ctx)
	g := &Group{identity: identity, opts: opts, record: newRecord(opts.MaxArrivals), stop: stop}
	g.checks.pending = make(map[probes.Token]struct{})
	for _, spec := range specs {
		l := &listener{spec: spec, port: spec.Port}
		if err := g.open(ctx, l); err != nil {
			l.fault = err.Error()
			opts.Log.Warn("listener is not open", "protocol", spec.Protocol, "port", spec.Port, "err", err)
		}
		g.listeners = append(g.listeners, l)
	}
	return g, nil
}

// open binds the listener and starts serving it.
func (g *Group) open(ctx context.Context, l *listener) error {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // plain TCP, as the pods that the probe stands in for speak it
	config.Control = control(l.spec.Protocol)
	address := fmt.Sprintf(":%d", l.spec.Port)
	switch l.spec.Protocol {
	case probes.TCP:
		socket, err := config.Listen(ctx, "tcp", address)
		if err != nil {
			return err
		}
		l.close, l.port = socket.Close, portOf(socket.Addr())
		g.serve(ctx, l, func() { g.serveTCP(ctx, socket.(*net.TCPListener), probes.TCP) })
	case probes.UDP:
		socket, err := config.ListenPacket(ctx, "udp", address)
		if err != nil {
			return err
		}
		l.close, l.port = socket.Close, portOf(socket.LocalAddr())
		g.serve(ctx, l, func() { g.serveUDP(ctx, socket.(*net.UDPConn), l.port) })
	case probes.SCTP:
		return g.openSCTP(ctx, l)
	default:
		return fmt.Errorf("listening on %s: %w", l.spec, errors.ErrUnsupported)
	}
	return nil
}

// serve runs the listener's loop, and closes its socket when ctx ends.
func (g *Group) serve(ctx context.Context, l *listener, loop func()) {
	g.wg.Go(func() {
		stop := context.AfterFunc(ctx, func() { _ = l.close() })
		loop()
		if stop() {
			_ = l.close()
		}
	})
}

// Close ends all listeners and waits for them. The record stays readable.
func (g *Group) Close() {
	g.stop()
	g.wg.Wait()
}

// Ports are the bound ports, in the order of the specs; zero for a listener that is not open on a port of the kernel's choice.
func (g *Group) Ports() []uint16 {
	ports := make([]uint16, len(g.listeners))
	for i, l := range g.listeners {
		ports[i] = l.port
	}
	return ports
}

// Find gives the arrivals of the tokens, oldest first; a token that did not arrive has none, one that came from several
// addresses has several.
func (g *Group) Find(tokens []probes.Token) []probes.Arrival { return g.record.find(tokens) }

// Since gives the arrivals recorded after the cursor, oldest first, and the cursor for the next call; zero begins at the oldest kept.
// A repeat of an arrival already given raises its count and is not given again; Find tells the count.
func (g *Group) Since(cursor uint64) ([]probes.Arrival, uint64) { return g.record.since(cursor) }

// Lost says how many arrivals have had to make room for newer ones, and the time of the newest of them.
func (g *Group) Lost() (uint64, time.Time) { return g.record.lost() }

// arrived records a request, unless it is a check of the group's own.
func (g *Group) arrived(t probes.Token, p probes.Protocol, source, destination netip.AddrPort) {
	if g.checks.has(t) {
		return
	}
	g.record.add(probes.Arrival{
		Token: t, Protocol: p, Source: unmapped(source), Destination: unmapped(destination),
		Listener: g.identity, At: time.Now(), Count: 1,
	})
}

// unmapped is the address as its packets carried it: a socket for both families shows an IPv4 address inside an IPv6 one.
func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func portOf(a net.Addr) uint16 {
	switch a := a.(type) {
	case *net.TCPAddr:
		return uint16(a.Port)
	case *net.UDPAddr:
		return uint16(a.Port)
	}
	return 0
}
