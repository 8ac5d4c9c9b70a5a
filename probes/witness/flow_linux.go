package witness

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/probes"
)

// keyOf is the flow as the programs look it up.
func keyOf(flow probes.Flow) (key tapFlowKey, err error) {
	var faults []error
	if flow.AttemptID == "" {
		faults = append(faults, errors.New("attemptID: is required"))
	}
	source := flow.Source.Addr().Unmap().WithZone("")
	switch {
	case !source.IsValid() || source.IsUnspecified():
		faults = append(faults, fmt.Errorf("source: %s is not the address of a pod", flow.Source))
	case source.Is4():
		key.Version = 4
		four := source.As4()
		copy(key.Address[:], four[:])
	default:
		key.Version = 6
		key.Address = source.As16()
	}
	key.Port = flow.Source.Port()
	switch flow.Protocol {
	case probes.TCP:
		key.Protocol = unix.IPPROTO_TCP
	case probes.UDP:
		key.Protocol = unix.IPPROTO_UDP
	case probes.SCTP:
		key.Protocol = unix.IPPROTO_SCTP
	case probes.ICMP:
		key.Protocol = unix.IPPROTO_ICMP
		if key.Version == 6 {
			key.Protocol = unix.IPPROTO_ICMPV6
		}
	default:
		faults = append(faults, fmt.Errorf("protocol: %s is not one of TCP, UDP, SCTP, ICMP", flow.Protocol))
	}
	if key.Port == 0 && flow.Protocol != probes.ICMP { // an echo identifier may be zero
		faults = append(faults, errors.New("source: needs a port"))
	}
	return key, errors.Join(faults...)
}

// present says whether the slot has been filled in, as a reader on another processor may see it half done.
func (s *tapSighting) present() bool { return s.Count > 0 && s.Packet != 0 && s.Point != 0 }

// peer is the packet's other end.
func (s *tapSighting) peer() netip.AddrPort {
	switch s.PeerVersion {
	case 4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s.Peer[:4])), s.PeerPort)
	case 6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Peer), s.PeerPort)
	}
	return netip.AddrPort{}
}
