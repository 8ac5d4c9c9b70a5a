package gate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/seal"
)

// tap sees what leaves this host by any interface but the lab's. It knows nothing of nftables, so it sees too what got past a table that
// somebody has taken away. The caller closes it.
type tap struct {
	fd      int
	spec    seal.Spec
	bridge  int
	reading sync.WaitGroup

	mu   sync.Mutex
	left map[seal.Counter]uint64
	err  error
}

// tapInterval is how long the tap waits for a frame before it looks whether it is to stop, in milliseconds.
const tapInterval = 20

func openTap(ctx context.Context, s seal.Spec) (*tap, context.CancelFunc, error) {
	bridge, err := net.InterfaceByName(s.Bridge)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the lab's bridge: %w", err)
	}
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)) // network byte order, packet(7)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil, nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := attach(fd, s); err != nil {
		_ = unix.Close(fd)
		return nil, nil, err
	}
	t := &tap{fd: fd, spec: s, bridge: bridge.Index, left: map[seal.Counter]uint64{}}
	ctx, stop := context.WithCancel(ctx)
	t.reading.Go(func() { t.read(ctx) })
	return t, func() {
		stop()
		t.reading.Wait()
		_ = unix.Close(fd)
	}, nil
}

// attach has the kernel keep from the socket all that is no canary on its way out, so that a busy host's traffic cannot fill its buffer.
func attach(fd int, s seal.Spec) error {
	v4, v6 := s.Canary.Address.As4(), s.Canary.Address6.As16()
	const take, leave = 128, 0
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 8},
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 2},
		bpf.LoadAbsolute{Off: destination4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(v4[:]), SkipTrue: 2, SkipFalse: 3},
		bpf.LoadAbsolute{Off: destination6, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(v6[:]), SkipTrue: 1},
		bpf.RetConstant{Val: take},
		bpf.RetConstant{Val: leave},
	})
	if err != nil {
		return fmt.Errorf("assembling the tap's filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(program))
	for i, r := range program {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
		return fmt.Errorf("attaching the tap's filter: %w", err)
	}
	return nil
}

func (t *tap) read(ctx context.Context) {
	buffer := make([]byte, 128) // the headers; the rest is cut off
	for ctx.Err() == nil {
		n, from, err := unix.Recvfrom(t.fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}, tapInterval)
			continue
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // an interface went away
			continue
		case err != nil:
			t.mu.Lock()
			t.err = fmt.Errorf("reading from the tap: %w", err)
			t.mu.Unlock()
			return
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if !ok || link.Pkttype != unix.PACKET_OUTGOING || link.Ifindex == t.bridge {
			continue
		}
		if c := t.canary(buffer[:n]); c != "" {
			t.mu.Lock()
			t.left[c]++
			t.mu.Unlock()
		}
	}
}

// canary tells which canary a packet is, by its destination alone: its source may have been translated.
func (t *tap) canary(p []byte) seal.Counter {
	var to netip.Addr
	var protocol seal.Protocol
	var rest []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4 && len(p) >= int(p[0]&0xf)*4:
		to, protocol, rest = netip.AddrFrom4([4]byte(p[destination4:])), seal.Protocol(p[9]), p[int(p[0]&0xf)*4:]
	case len(p) >= 40 && p[0]>>4 == 6:
		to, protocol, rest = netip.AddrFrom16([16]byte(p[destination6:])), seal.Protocol(p[6]), p[40:]
	}
	v4 := to == t.spec.Canary.Address
	if !v4 && to != t.spec.Canary.Address6 || len(rest) < 4 {
		return ""
	}
	port := binary.BigEndian.Uint16(rest[destPort:]) == t.spec.Canary.Port
	switch {
	case v4 && protocol == seal.TCP && port:
		return seal.CanaryTCP
	case v4 && protocol == seal.UDP && port:
		return seal.CanaryUDP
	case v4 && protocol == seal.ICMP && rest[0] == seal.EchoRequest:
		return seal.CanaryICMP
	case !v4 && protocol == seal.TCP && port:
		return seal.CanaryTCP6
	case !v4 && protocol == seal.UDP && port:
		return seal.CanaryUDP6
	case !v4 && protocol == seal.ICMPv6 && rest[0] == seal.EchoRequest6:
		return seal.CanaryICMP6
	}
	return ""
}

// take returns what left since the last call.
func (t *tap) take() (map[seal.Counter]uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.left
	t.left = map[seal.Counter]uint64{}
	return out, t.err
}
