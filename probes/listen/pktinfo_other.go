//go:build !linux

package listen

import (
	"net/netip"
	"syscall"

	"github.com/gapproof/gapproof/probes"
)

// oobSize is zero: probes run in Linux pods; elsewhere the system chooses the address a reply leaves from.
const oobSize = 0

func control(probes.Protocol) func(network, address string, raw syscall.RawConn) error { return nil }

func packetInfo(_, _ string, _ syscall.RawConn) error { return nil }

func replyFrom([]byte) (netip.Addr, []byte) { return netip.Addr{}, nil }
