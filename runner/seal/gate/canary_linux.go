package gate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/seal"
)

const (
	// countLimit is how long a canary may take from a socket to the gate: microseconds, and longer while a neighbor's address is being found.
	countLimit = 2 * time.Second
	// countInterval is short because every source's canaries are waited for in turn.
	countInterval = 2 * time.Millisecond
	// answerLimit is how long a resolver may take: CoreDNS asks its forwarder again after two seconds.
	answerLimit = 4 * time.Second
)

// Canaries sends every source's canaries, one source after the other, and returns what became of each. What could not be sent is a fault of the
// canary; the error is that of reading the gate or the tap.
func Canaries(ctx context.Context, s seal.Spec, sources []Source) (_ []seal.Canary, err error) {
	t, closeTap, err := openTap(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("sending canaries: %w", err)
	}
	defer closeTap()
	bridge, err := net.InterfaceByName(s.Bridge)
	if err != nil {
		return nil, fmt.Errorf("finding the lab's bridge: %w", err)
	}
	var out []seal.Canary
	for _, source := range sources {
		source.gateway = bridge.HardwareAddr
		some, err := canariesOf(ctx, s, source, t)
		if err != nil {
			return nil, fmt.Errorf("sending canaries from %s: %w", source.Name, err)
		}
		out = append(out, some...)
	}
	return out, nil
}

func canariesOf(ctx context.Context, s seal.Spec, source Source, t *tap) ([]seal.Canary, error) {
	before, _, err := Read(s)
	if err != nil {
		return nil, err
	}
	namespace, err := source.namespace()
	if err != nil {
		return nil, err
	}
	defer unix.Close(namespace)
	all := sends(s, source)
	out := make([]seal.Canary, len(all))
	var held []int // sockets that must live until the canaries are counted
	err = enter(namespace, func() error {
		for i, a := range all {
			out[i] = seal.Canary{From: source.Name, Counter: a.counter}
			fds, sent, err := a.send(s)
			held, out[i].Sent = append(held, fds...), sent
			if err != nil {
				out[i].Fault = err.Error()
			}
		}
		return nil
	})
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	if err != nil {
		return nil, err
	}
	// That some never come is no error: what was counted by then is what they have to tell.
	var unread error
	_, _ = kube.Poll(ctx, "the gate to count the canaries", countInterval, countLimit, func(context.Context) (bool, string, error) {
		var now seal.Reading
		if now, _, unread = Read(s); unread != nil {
			return false, "", unread
		}
		done := true
		for i := range out {
			out[i].Counted = now.Packets[out[i].Counter] - before.Packets[out[i].Counter]
			done = done && out[i].Counted >= out[i].Sent
		}
		return done, "not all are counted", nil
	})
	if err := errors.Join(unread, ctx.Err()); err != nil {
		return nil, err
	}
	left, err := t.take()
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Left = left[out[i].Counter]
	}
	return out, nil
}

// sending is one kind of canary from one source.
type sending struct {
	counter seal.Counter
	// send returns the sockets that must stay open, how many packets it sent, and why not all.
	send func(seal.Spec) (held []int, sent uint64, err error)
}

// sends are a source's canaries in the order of the counters' names.
func sends(s seal.Spec, source Source) []sending {
	to, to6 := netip.AddrPortFrom(s.Canary.Address, s.Canary.Port), netip.AddrPortFrom(s.Canary.Address6, s.Canary.Port)
	ways := map[seal.Counter]func(seal.Spec) ([]int, uint64, error){
		seal.CanaryTCP:   func(seal.Spec) ([]int, uint64, error) { return sendTCP(to) },
		seal.CanaryUDP:   func(seal.Spec) ([]int, uint64, error) { return sendUDP(to, seal.SendUDP, 0, []byte("canary")) },
		seal.CanaryICMP:  func(seal.Spec) ([]int, uint64, error) { return sendICMP(to.Addr()) },
		seal.CanaryTCP6:  func(seal.Spec) ([]int, uint64, error) { return sendTCP(to6) },
		seal.CanaryUDP6:  func(seal.Spec) ([]int, uint64, error) { return sendUDP(to6, seal.SendUDP, 0, []byte("canary")) },
		seal.CanaryICMP6: func(seal.Spec) ([]int, uint64, error) { return sendICMP(to6.Addr()) },
		seal.CanaryHost: func(seal.Spec) ([]int, uint64, error) {
			return sendUDP(netip.AddrPortFrom(s.Gateway, s.Canary.Port), seal.SendHost, 0, []byte("canary"))
		},
		seal.CanaryResolver: func(seal.Spec) ([]int, uint64, error) {
			return sendUDP(netip.AddrPortFrom(s.Gateway, dnsPort), seal.SendResolver, s.Canary.Port, []byte("canary"))
		},
	}
	if !s.DualStack() {
		ways[seal.CanaryTCP6] = func(seal.Spec) ([]int, uint64, error) { return sendFrames(s, source, seal.TCP, seal.SendTCP) }
		ways[seal.CanaryUDP6] = func(seal.Spec) ([]int, uint64, error) { return sendFrames(s, source, seal.UDP, seal.SendUDP) }
		ways[seal.CanaryICMP6] = func(seal.Spec) ([]int, uint64, error) { return sendFrames(s, source, seal.ICMPv6, seal.SendICMP) }
	}
	var out []sending
	for counter := range s.Sends(source.Kind) {
		out = append(out, sending{counter, ways[counter]})
	}
	slices.SortFunc(out, func(a, b sending) int {
		if a.counter < b.counter {
			return -1
		}
		return 1
	})
	return out
}

// domain is the socket domain of an address.
func domain(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// sendTCP sends one SYN: the kernel would send the next after a second (RFC 6298), when the socket has long been closed.
func sendTCP(to netip.AddrPort) ([]int, uint64, error) {
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, 0, fmt.Errorf("opening a socket: %w", err)
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return []int{fd}, 0, fmt.Errorf("connecting to %s: %w", to, err)
	}
	_ = unix.Close(fd) // the SYN is out; an open socket would repeat it
	return nil, 1, nil
}

// sendUDP sends n datagrams, from a port of the caller's choice unless that is 0.
func sendUDP(to netip.AddrPort, n uint64, from uint16, payload []byte) ([]int, uint64, error) {
	fd, err := unix.Socket(domain(to.Addr()), unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return nil, 0, fmt.Errorf("opening a socket: %w", err)
	}
	held := []int{fd}
	if from != 0 {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(from)}); err != nil {
			return held, 0, fmt.Errorf("binding port %d: %w", from, err)
		}
	}
	for sent := range n {
		if err := unix.Sendto(fd, payload, 0, sockaddr(to)); err != nil {
			return held, sent, fmt.Errorf("sending to %s: %w", to, err)
		}
	}
	return held, n, nil
}

// sendICMP sends echo requests.
func sendICMP(to netip.Addr) ([]int, uint64, error) {
	protocol, message := unix.IPPROTO_ICMP, []byte{seal.EchoRequest, 0, 0, 0, 0x67, 0x70, 0, 1}
	if to.Is6() {
		protocol, message[0] = unix.IPPROTO_ICMPV6, seal.EchoRequest6 // the kernel makes this family's checksum itself (RFC 3542, section 3.1)
	} else {
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	fd, err := unix.Socket(domain(to), unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, 0, fmt.Errorf("opening a socket: %w", err)
	}
	for sent := range uint64(seal.SendICMP) {
		if err := unix.Sendto(fd, message, 0, sockaddr(netip.AddrPortFrom(to, 0))); err != nil {
			return []int{fd}, sent, fmt.Errorf("sending to %s: %w", to, err)
		}
	}
	return []int{fd}, seal.SendICMP, nil
}

// checksum is the Internet's (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// sendFrames puts IPv6 packets on a link that has no IPv6 by itself: a node is root on its link and may do so at any time.
func sendFrames(s seal.Spec, source Source, protocol seal.Protocol, n uint64) ([]int, uint64, error) {
	link, err := linkOf(source.Address)
	if err != nil {
		return nil, 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("opening a packet socket: %w", err)
	}
	to := &unix.SockaddrLinklayer{
		Protocol: binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IPV6)), Ifindex: link.Index, Halen: uint8(len(source.gateway)),
	}
	copy(to.Addr[:], source.gateway)
	packet := packet6(s.Canary, protocol)
	for sent := range n {
		if err := unix.Sendto(fd, packet, 0, to); err != nil {
			return []int{fd}, sent, fmt.Errorf("sending a frame: %w", err)
		}
	}
	return []int{fd}, n, nil
}

// linkOf is the link that has the address, in the network namespace that the caller is in.
func linkOf(a netip.Addr) (*net.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing links: %w", err)
	}
	for i := range links {
		addresses, err := links[i].Addrs()
		if err != nil {
			return nil, fmt.Errorf("listing the addresses of %s: %w", links[i].Name, err)
		}
		for _, have := range addresses {
			if p, err := netip.ParsePrefix(have.String()); err == nil && p.Addr() == a {
				return &links[i], nil
			}
		}
	}
	return nil, fmt.Errorf("looking for the link with %s: there is none", a)
}

// packet6 is an IPv6 packet (RFC 8200) to the canaries' address, from another one for documents.
func packet6(to seal.Target, protocol seal.Protocol) []byte {
	var payload []byte
	switch protocol {
	case seal.TCP: // RFC 9293: a header of five words with SYN
		payload = binary.BigEndian.AppendUint16(nil, to.Port)
		payload = binary.BigEndian.AppendUint16(payload, to.Port)
		payload = append(payload, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, tcpSYN, 0xff, 0xff, 0, 0, 0, 0)
	case seal.UDP:
		payload = binary.BigEndian.AppendUint16(nil, to.Port)
		payload = binary.BigEndian.AppendUint16(payload, to.Port)
		payload = append(payload, 0, 8, 0, 0)
	default:
		payload = []byte{seal.EchoRequest6, 0, 0, 0, 0x67, 0x70, 0, 1}
	}
	from := to.Address6.As16()
	from[15]++
	destination := to.Address6.As16()
	pseudo := slices.Concat(from[:], destination[:], []byte{0, 0, 0, byte(len(payload)), 0, 0, 0, byte(protocol)}, payload)
	at := map[seal.Protocol]int{seal.TCP: 16, seal.UDP: 6, seal.ICMPv6: 2}[protocol]
	binary.BigEndian.PutUint16(payload[at:], checksum(pseudo))
	header := append([]byte{6 << 4, 0, 0, 0, 0, byte(len(payload)), byte(protocol), 64}, from[:]...)
	return slices.Concat(header, destination[:], payload)
}

// Names has every source ask its resolver for a name of its own, drawn by name, and returns what was answered. What the sink recorded is for the
// caller to count.
func Names(ctx context.Context, sources []Source, name func(Source) string) ([]seal.Name, error) {
	var out []seal.Name
	for _, source := range sources {
		n := seal.Name{From: source.Name, Name: name(source), Asked: source.Resolver, Answer: seal.AnswerNone}
		namespace, err := source.namespace()
		if err != nil {
			return nil, err
		}
		err = enter(namespace, func() error {
			n.Answer, err = ask(ctx, source.Resolver, n.Name)
			return err
		})
		_ = unix.Close(namespace)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			n.Fault = err.Error()
		}
		out = append(out, n)
	}
	return out, nil
}

// ask sends one question for the IPv4 address of a name and reads the answer.
func ask(ctx context.Context, resolver netip.AddrPort, name string) (seal.Answer, error) {
	qname, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return seal.AnswerNone, fmt.Errorf("encoding a name: %w", err)
	}
	const id = 0x6770
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: qname, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	raw, err := m.Pack()
	if err != nil {
		return seal.AnswerNone, fmt.Errorf("encoding a question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	// The socket is made on this thread, and so in the source's namespace.
	c, err := (&net.Dialer{}).DialContext(ctx, "udp", resolver.String())
	if err != nil {
		return seal.AnswerNone, fmt.Errorf("asking the resolver: %w", err)
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return seal.AnswerNone, fmt.Errorf("asking the resolver: %w", err)
	}
	if _, err := c.Write(raw); err != nil {
		return seal.AnswerNone, fmt.Errorf("asking the resolver: %w", err)
	}
	buffer := make([]byte, 4096)
	for {
		n, err := c.Read(buffer)
		if err != nil {
			return seal.AnswerNone, fmt.Errorf("waiting for the resolver: %w", err)
		}
		var got dnsmessage.Message
		if got.Unpack(buffer[:n]) != nil || got.ID != id || !got.Response {
			continue
		}
		switch {
		case len(got.Answers) > 0:
			return seal.AnswerAddress, nil
		case got.RCode == dnsmessage.RCodeNameError:
			return seal.AnswerNoName, nil
		}
		return seal.AnswerFailure, nil
	}
}
