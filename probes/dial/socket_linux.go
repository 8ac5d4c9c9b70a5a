package dial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// maxBusyPorts is how many ports of the allocator may turn out to be bound by another process before an attempt gives up. Binding
// sends nothing, so trying the next port is not a second attempt.
const maxBusyPorts = 64

// socketType is the second and third argument of socket(2).
type socketType struct{ kind, protocol int }

// The types of socket that TCP and UDP attempts open; SCTP and ICMP have theirs in their own files.
var (
	tcpSocket = socketType{kind: syscall.SOCK_STREAM}
	udpSocket = socketType{kind: syscall.SOCK_DGRAM}
)

// isRaw tells whether the socket gets whole packets, and no port of the kernel's.
func (t socketType) isRaw() bool { return t.kind == syscall.SOCK_RAW }

// socket is one bound and connected non-blocking socket of an attempt.
type socket struct {
	file *os.File
	raw  syscall.RawConn
	port uint16      // the source port, which for a raw socket the kernel does not know
	free func()      // gives the source port back
	stop func() bool // ends the watch on the context
}

// connect opens a socket of the type, binds it and connects it to the destination by the deadline. The outcome gets the socket's
// addresses. The socket is not nil when there was one, also beside an error, for its error queue; who called closes it.
func connect(ctx context.Context, p *ports, of socketType, a probes.Attempt, deadline time.Time, o *probes.Outcome) (*socket, error) {
	to := netip.AddrPortFrom(a.Destination.Addr().Unmap(), a.Destination.Port())
	peer := to
	if of.isRaw() {
		peer = netip.AddrPortFrom(to.Addr(), 0) // in the place of a port raw(7) has the protocol, or nothing
	}
	sa, err := sockaddr(peer)
	if err != nil {
		return nil, err
	}
	fd, port, err := bound(p, of, to.Addr(), a.SourcePort)
	if err != nil {
		return nil, err
	}
	o.Remote = to
	begun := os.NewSyscallError("connect", syscall.Connect(fd, sa))
	// The descriptor joins the poller only now: an unconnected stream socket would report itself ready at once.
	s := &socket{file: os.NewFile(uintptr(fd), "attempt"), port: port, free: func() { p.release(port) }}
	s.stop = context.AfterFunc(ctx, func() { _ = s.file.SetDeadline(time.Unix(1, 0)) })
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return s, fmt.Errorf("polling the socket: %w", err)
	}
	if err := s.file.SetDeadline(deadline); err != nil {
		return s, fmt.Errorf("setting the deadline: %w", err)
	}
	if ctx.Err() != nil { // it ended before the deadline above was set, which undid the watch's own
		return s, ctx.Err()
	}
	if errors.Is(begun, syscall.EINPROGRESS) {
		begun = s.established()
	}
	o.Local = s.local()
	if of.isRaw() && o.Local.IsValid() {
		o.Local = netip.AddrPortFrom(o.Local.Addr(), port)
	}
	return s, begun
}

// established waits until the handshake has ended and says how.
func (s *socket) established() error {
	var result error
	err := s.raw.Write(func(fd uintptr) bool {
		errno, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		if err == nil && errno != 0 {
			err = syscall.Errno(errno)
		}
		if err == nil {
			// A wake-up without an error and without a peer is spurious; wait on.
			if _, err = syscall.Getpeername(int(fd)); errors.Is(err, syscall.ENOTCONN) {
				return false
			}
		}
		result = os.NewSyscallError("connect", err)
		return true
	})
	return errors.Join(err, result)
}

// bound is a descriptor bound to its source port on the unspecified address; the port is to be released. A raw socket has no port to
// bind: there the allocator alone keeps two attempts apart.
func bound(p *ports, of socketType, to netip.Addr, explicit uint16) (fd int, port uint16, err error) {
	if fd, err = descriptor(of, to); err != nil {
		return -1, 0, err
	}
	port, err = bindPort(p, explicit, func(port uint16) error {
		any4, any6 := &syscall.SockaddrInet4{Port: int(port)}, &syscall.SockaddrInet6{Port: int(port)}
		switch {
		case of.isRaw():
			return nil
		case to.Is4():
			return os.NewSyscallError("bind", syscall.Bind(fd, any4))
		default:
			return os.NewSyscallError("bind", syscall.Bind(fd, any6))
		}
	})
	if err != nil {
		_ = syscall.Close(fd)
		return -1, 0, err
	}
	return fd, port, nil
}

// bindPort calls bind with the explicit port, or with ports of the allocator until one is not in use, and says which it was.
func bindPort(p *ports, explicit uint16, bind func(uint16) error) (uint16, error) {
	if explicit != 0 {
		if err := p.claim(explicit); err != nil {
			return 0, err
		}
		if err := bind(explicit); err != nil {
			p.release(explicit)
			return 0, fmt.Errorf("taking source port %d: %w", explicit, err)
		}
		return explicit, nil
	}
	var err error
	for range maxBusyPorts {
		port, none := p.take()
		if none != nil {
			return 0, none
		}
		if err = bind(port); err == nil {
			return port, nil
		}
		p.release(port)
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return 0, fmt.Errorf("taking a source port: %w", err)
}

// descriptor is a socket of the destination's family, with the options that every attempt has.
func descriptor(of socketType, to netip.Addr) (int, error) {
	family := syscall.AF_INET6
	if to.Is4() {
		family = syscall.AF_INET
	}
	fd, err := syscall.Socket(family, of.kind|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, of.protocol)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	err = reportICMP(fd, family)
	if err == nil && family == syscall.AF_INET6 && !of.isRaw() { // a raw socket has one family, and is bound by its making
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1)
	}
	if err == nil && of.kind == syscall.SOCK_STREAM {
		err = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	}
	if err != nil {
		_ = syscall.Close(fd)
		return -1, os.NewSyscallError("setsockopt", err)
	}
	return fd, nil
}

// reportICMP has the kernel report every ICMP error at once and keep it in the socket's error queue. Without it a UDP socket never
// hears of a host or network unreachable, only of a port unreachable (ip(7), IP_RECVERR).
func reportICMP(fd, family int) error {
	if family == syscall.AF_INET {
		return syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_RECVERR, 1)
	}
	return syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_RECVERR, 1)
}

// close ends the socket and gives its source port back. A stream socket sends a reset, as the package doc says.
func (s *socket) close() {
	s.stop()
	_ = s.file.Close() // nothing is left to be lost: the outcome is known
	s.free()
}

// local is the socket's own address, zero when it has none.
func (s *socket) local() (local netip.AddrPort) {
	_ = s.raw.Control(func(fd uintptr) {
		if sa, err := syscall.Getsockname(int(fd)); err == nil {
			local = addrPort(sa)
		}
	})
	return local
}

// The origin of an entry in the error queue (struct sock_extended_err, linux/errqueue.h): the local stack has no offender's address.
const (
	originICMP  = 2
	originICMP6 = 3
)

// rejecter is who sent the ICMP error at the head of the error queue; zero when there is none. Linux fills the queue of a TCP
// socket in its handshake since 5.9.
func (s *socket) rejecter() netip.Addr {
	who, _, _ := s.rejection()
	return who
}

// quotedSize is how much of the packet behind an ICMP error is looked at: what every router quotes of it (RFC 792), and what the ports of
// SCTP and the identifier of an echo lie in.
const quotedSize = 8

// rejection takes the entry at the head of the error queue: who sent the ICMP error, and the beginning of the packet it quotes, from the
// transport header on. It is false when the queue is empty.
func (s *socket) rejection() (who netip.Addr, quoted []byte, ok bool) {
	// An entry is struct sock_extended_err, 16 bytes, then the offender's socket address; 128 holds it with its header.
	var payload [quotedSize]byte
	var oob [128]byte
	_ = s.raw.Control(func(fd uintptr) {
		m, n, _, _, err := syscall.Recvmsg(int(fd), payload[:], oob[:], syscall.MSG_ERRQUEUE)
		if err != nil {
			return
		}
		quoted, ok = payload[:m], true
		messages, err := syscall.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return
		}
		for _, m := range messages {
			four := m.Header.Level == syscall.IPPROTO_IP && m.Header.Type == syscall.IP_RECVERR
			six := m.Header.Level == syscall.IPPROTO_IPV6 && m.Header.Type == syscall.IPV6_RECVERR
			if four || six {
				who = offender(m.Data)
			}
		}
	})
	return who, quoted, ok
}

// offender is the address in an extended error, zero when the error came from the local stack or is cut short.
func offender(data []byte) netip.Addr {
	const extended = 16 // bytes of struct sock_extended_err
	if len(data) < extended+2 || (data[4] != originICMP && data[4] != originICMP6) {
		return netip.Addr{}
	}
	name := data[extended:]
	switch family := binary.NativeEndian.Uint16(name); {
	case family == syscall.AF_INET && len(name) >= 8: // family, port, address
		return netip.AddrFrom4([4]byte(name[4:8]))
	case family == syscall.AF_INET6 && len(name) >= 24: // family, port, flow, address
		return netip.AddrFrom16([16]byte(name[8:24])).Unmap()
	}
	return netip.Addr{}
}

// sockaddr is the address for a system call. A zone is an interface's index or name.
func sockaddr(a netip.AddrPort) (syscall.Sockaddr, error) {
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
	}
	sa := &syscall.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			sa.ZoneId = uint32(n)
		} else if link, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(link.Index)
		} else {
			return nil, fmt.Errorf("reading zone %q of the destination: %w", zone, err)
		}
	}
	return sa, nil
}

// addrPort is the reverse of sockaddr; the zone is left out.
func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
