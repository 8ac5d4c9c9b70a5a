package listen

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/gapproof/gapproof/probes"
)

// Sizes of struct in_pktinfo (interface, local address, header's destination) and struct in6_pktinfo (address, interface).
const (
	pktinfo4Size = 12
	pktinfo6Size = 20
)

// oobSize holds both, each with its header of at most 16 bytes and padding: a socket for both families may report both.
const oobSize = 96

// control is what has to be done to a listener's socket before it is bound.
func control(p probes.Protocol) func(network, address string, raw syscall.RawConn) error {
	if p != probes.UDP {
		return nil
	}
	return packetInfo
}

// packetInfo asks for the destination address of each datagram (ip(7) IP_PKTINFO, ipv6(7) IPV6_RECVPKTINFO).
func packetInfo(network, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) {
		name, _, _ := strings.Cut(network, ":") // "ip4:132" is a raw socket
		if strings.HasSuffix(name, "4") {       // a node without IPv6
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, syscall.IP_PKTINFO, 1)
		} else {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_RECVPKTINFO, 1)
		}
	}); e != nil {
		return e
	}
	return os.NewSyscallError("setsockopt", err)
}

// replyFrom reads the address a datagram was sent to, and makes the control message that sends the reply from it. Both are empty when the
// kernel told nothing; the kernel chooses then. The reply names no interface, so routing decides as for any other packet.
func replyFrom(oob []byte) (to netip.Addr, back []byte) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, nil
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == syscall.IPPROTO_IP && m.Header.Type == syscall.IP_PKTINFO && len(m.Data) >= pktinfo4Size:
			to = netip.AddrFrom4([4]byte(m.Data[8:12]))
			info := make([]byte, pktinfo4Size)
			copy(info[4:8], m.Data[8:12]) // the source of a sent datagram is the field of the local address
			return to, message(syscall.IPPROTO_IP, syscall.IP_PKTINFO, info)
		case m.Header.Level == syscall.IPPROTO_IPV6 && m.Header.Type == syscall.IPV6_PKTINFO && len(m.Data) >= pktinfo6Size:
			to = netip.AddrFrom16([16]byte(m.Data[:16])).Unmap()
			info := make([]byte, pktinfo6Size)
			copy(info[:16], m.Data[:16])
			if to.IsLinkLocalUnicast() && to.Is6() {
				copy(info[16:], m.Data[16:20]) // a link-local address means nothing without its interface
			}
			return to, message(syscall.IPPROTO_IPV6, syscall.IPV6_PKTINFO, info)
		}
	}
	return netip.Addr{}, nil
}

// message is a control message as cmsg(3) lays it out.
func message(level, kind int, data []byte) []byte {
	b := make([]byte, syscall.CmsgSpace(len(data)))
	head := syscall.CmsgLen(0)
	length := uint64(syscall.CmsgLen(len(data)))
	word := syscall.SizeofCmsghdr - 8 // level and type are 4 bytes each; the length before them is a machine word
	if word == 8 {
		binary.NativeEndian.PutUint64(b, length)
	} else {
		binary.NativeEndian.PutUint32(b, uint32(length))
	}
	binary.NativeEndian.PutUint32(b[word:], uint32(level))
	binary.NativeEndian.PutUint32(b[word+4:], uint32(kind))
	copy(b[head:], data)
	return b
}
