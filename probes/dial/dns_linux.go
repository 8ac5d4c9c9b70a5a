package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// doDNS looks the name up once through the pod's own resolver.
//
// The name is taken as fully qualified, so no search list is walked, and one family is asked for: A for IPv4 and where the attempt
// does not say, AAAA for IPv6. Any answer is Replied: an address, NXDOMAIN, a name without records of the family, a server failure;
// Addresses is empty for all but the first and Detail gives the resolver's words. Silence is TimedOut, a port that nobody serves
// Refused. Remote is the name server first asked, Local the socket that asked it.
//
// That one query is sent is the fixture's part: the pod's dnsConfig has one name server and "attempts:1", else the Go resolver goes on
// to the next one. It also repeats a truncated answer's query over TCP, from a port of its own: part of the lookup, told in Detail.
// A name that stands in the pod's hosts file is answered without a query, which is an Error here.
func (d *Dialer) doDNS(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	timed, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	q := &query{dialer: d, sourcePort: a.SourcePort}
	// A resolver of its own: a shared one merges two lookups of one name into a single query.
	resolver := net.Resolver{PreferGo: true, Dial: q.dial}
	network := "ip4"
	if a.Family == probes.IPv6 {
		network = "ip6"
	}
	addrs, err := resolver.LookupNetIP(timed, network, strings.TrimSuffix(a.Name, ".")+".")
	q.report(ctx, o, addrs, err)
}

// query is the network side of one lookup. The resolver may use it after the lookup has returned, hence the lock.
type query struct {
	dialer     *Dialer
	sourcePort uint16

	mu            sync.Mutex
	dials         []string // networks, in order
	local, remote netip.AddrPort
	err           error // the socket's last, of the newest dial
}

// report fills the outcome from what the resolver returned and what its sockets saw.
func (q *query) report(ctx context.Context, o *probes.Outcome, addrs []netip.Addr, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o.Local, o.Remote = q.local, q.remote
	var answer *net.DNSError
	errors.As(err, &answer)
	switch {
	case ctx.Err() != nil:
		classify(ctx, o, nil, ctx.Err())
	case len(q.dials) == 0:
		if err == nil {
			err = errors.New("the pod's hosts file has the name: no query was sent")
		}
		fault(o, err)
	case err == nil:
		o.Kind = probes.Replied
		for _, addr := range addrs {
			o.Addresses = append(o.Addresses, addr.Unmap())
		}
	case answer != nil && answer.IsNotFound:
		o.Kind, o.Detail = probes.Replied, "no such name, or no record of the family asked for (NXDOMAIN or empty answer)"
	case q.err != nil && !timeout(q.err):
		classify(ctx, o, nil, q.err)
	case timeout(err):
		o.Kind = probes.TimedOut
	case answer != nil: // an answer came and was none of the above
		o.Kind, o.Detail = probes.Replied, answer.Err
	default:
		fault(o, err)
	}
	if len(q.dials) > 1 {
		o.Detail = strings.TrimPrefix(o.Detail+"; ", "; ") + "the resolver asked over " + strings.Join(q.dials, ", then ")
	}
}

func timeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// dial opens the socket for the resolver's next query, on a source port of the dialer's.
func (q *query) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if q.dialer.nameServer != "" {
		address = q.dialer.nameServer
	}
	conn, free, err := q.open(ctx, network, address)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dials = append(q.dials, network+" "+address)
	q.err = err
	if len(q.dials) == 1 {
		q.remote, _ = netip.ParseAddrPort(address)
	}
	if err != nil {
		return nil, err
	}
	if len(q.dials) == 1 {
		if local, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
			q.local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
		}
	}
	// The resolver sets the context's deadline on the socket, but reads on when the context is cancelled.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	watched := watchedConn{Conn: conn, query: q, closed: sync.OnceFunc(func() { stop(); free() })}
	if packets, ok := conn.(*net.UDPConn); ok {
		return watchedPackets{watched, packets}, nil
	}
	return watched, nil
}

func (q *query) open(ctx context.Context, network, address string) (conn net.Conn, free func(), err error) {
	p, tcp := q.dialer.udp, strings.HasPrefix(network, "tcp")
	if tcp {
		p = q.dialer.tcp
	}
	port, err := bindPort(p, q.firstPort(), func(port uint16) (err error) {
		dialer := net.Dialer{Control: optionsOf}
		if tcp {
			dialer.LocalAddr = &net.TCPAddr{Port: int(port)}
		} else {
			dialer.LocalAddr = &net.UDPAddr{Port: int(port)}
		}
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return conn, func() { p.release(port) }, nil
}

// firstPort is the attempt's explicit source port for the first query, zero for any after it.
func (q *query) firstPort() uint16 {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.dials) > 0 {
		return 0
	}
	return q.sourcePort
}

// optionsOf sets on a query's socket what every attempt's socket has.
func optionsOf(network, _ string, raw syscall.RawConn) error {
	family := syscall.AF_INET6
	if strings.HasSuffix(network, "4") {
		family = syscall.AF_INET
	}
	var err error
	return errors.Join(raw.Control(func(fd uintptr) {
		err = reportICMP(int(fd), family)
		if err == nil && strings.HasPrefix(network, "tcp") {
			err = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		}
	}), os.NewSyscallError("setsockopt", err))
}

// watchedConn keeps the last error of a query's socket, which the resolver turns into words only.
type watchedConn struct {
	net.Conn
	query  *query
	closed func()
}

func (c watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.query.saw(err)
	return n, err
}

func (c watchedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.query.saw(err)
	return n, err
}

func (c watchedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

func (q *query) saw(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

// watchedPackets is a watchedConn that the resolver knows for a datagram socket, which it tells by the interface.
type watchedPackets struct {
	watchedConn
	packets *net.UDPConn
}

func (c watchedPackets) ReadFrom(b []byte) (int, net.Addr, error) { return c.packets.ReadFrom(b) }

func (c watchedPackets) WriteTo(b []byte, to net.Addr) (int, error) {
	return 0, fmt.Errorf("writing to %s: %w", to, net.ErrWriteToConnected)
}
