package witness

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
)

// ip is a network header before the payload.
func ip(source, destination string, protocol byte, payload []byte) []byte {
	from, to := netip.MustParseAddr(source), netip.MustParseAddr(destination)
	var h []byte
	if from.Is4() {
		h = make([]byte, 12)
		h[0], h[9] = 0x45, protocol
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
	} else {
		h = make([]byte, 8)
		h[0], h[6] = 0x60, protocol
		binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	}
	h = append(append(h, from.AsSlice()...), to.AsSlice()...)
	return append(h, payload...)
}

// ports begin a transport header, which is padded to the length that every one has at least.
func ports(source, destination uint16, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), destination)
	b = append(b, rest...)
	return append(b, make([]byte, 24)...)
}

func icmp(kind, code byte, id uint16, quoted []byte) []byte {
	return append([]byte{kind, code, 0, 0, byte(id >> 8), byte(id), 0, 1}, quoted...)
}

// TestTapAndDropMatchEveryProtocol has the kernel run the tap on made packets, also of protocols that this host's kernel or the dialer
// lacks. The kernel then gives the packet up, which the drop program sees.
func TestTapAndDropMatchEveryProtocol(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	const tcp, udp, sctp, icmp4, icmp6 = 6, 17, 132, 1, 58
	const s4, d4, r4, s6, d6 = "10.0.0.1", "10.0.0.2", "10.0.0.9", "fd00::1", "fd00::2"
	echo := binary.BigEndian.Uint16([]byte{0x12, 0x34})
	fragment := func(b []byte, offset byte) []byte { b[7] = offset; return b }
	extended := func(kind byte, header []byte) []byte { return ip(s6, d6, kind, append(header, ports(7000, 80)...)) }
	for _, tt := range []struct {
		name     string
		protocol probes.Protocol
		source   string
		packet   []byte
		want     probes.Packet // unknown when the packet is not the attempt's
		code     uint8
		peer     string
	}{
		{"a TCP request", probes.TCP, s4, ip(s4, d4, tcp, ports(7000, 80)), probes.Request, 0, d4 + ":80"},
		{"a TCP reply", probes.TCP, s4, ip(d4, s4, tcp, ports(80, 7000)), probes.Reply, 0, d4 + ":80"},
		{"a TCP reset", probes.TCP, s4, ip(r4, s4, tcp, ports(80, 7000, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x14)), probes.ResetPacket, 0, r4 + ":80"},
		{"the same ports over UDP", probes.TCP, s4, ip(s4, d4, udp, ports(7000, 80)), probes.PacketUnknown, 0, ""},
		{"the same ports of another source", probes.TCP, s4, ip(r4, d4, tcp, ports(7000, 80)), probes.PacketUnknown, 0, ""},
		{"an SCTP request", probes.SCTP, s4, ip(s4, d4, sctp, ports(7000, 80, 0, 0, 0, 0, 0, 0, 0, 0, 1)), probes.Request, 0, d4 + ":80"},
		{"an SCTP reply", probes.SCTP, s6, ip(d6, s6, sctp, ports(80, 7000, 0, 0, 0, 0, 0, 0, 0, 0, 2)), probes.Reply, 0, "[fd00::2]:80"},
		{"an SCTP abort", probes.SCTP, s4, ip(d4, s4, sctp, ports(80, 7000, 0, 0, 0, 0, 0, 0, 0, 0, 6)), probes.ResetPacket, 0, d4 + ":80"},
		{"an echo request", probes.ICMP, s4, ip(s4, d4, icmp4, icmp(8, 0, echo, nil)), probes.Request, 0, d4 + ":0"},
		{"an echo reply", probes.ICMP, s4, ip(d4, s4, icmp4, icmp(0, 0, echo, nil)), probes.Reply, 0, d4 + ":0"},
		{"an echo request over IPv6", probes.ICMP, s6, ip(s6, d6, icmp6, icmp(128, 0, echo, nil)), probes.Request, 0, "[fd00::2]:0"},
		{"an echo reply over IPv6", probes.ICMP, s6, ip(d6, s6, icmp6, icmp(129, 0, echo, nil)), probes.Reply, 0, "[fd00::2]:0"},
		{"the echo of another", probes.ICMP, s4, ip(s4, d4, icmp4, icmp(8, 0, echo+1, nil)), probes.PacketUnknown, 0, ""},
		{"an error that quotes an SCTP request", probes.SCTP, s4, ip(r4, s4, icmp4, icmp(3, 10, 0, ip(s4, d4, sctp, ports(7000, 80)[:8]))), probes.ICMPError, 10, r4 + ":0"},
		{"an error that quotes an echo request", probes.ICMP, s4, ip(r4, s4, icmp4, icmp(3, 13, 0, ip(s4, d4, icmp4, icmp(8, 0, echo, nil)))), probes.ICMPError, 13, r4 + ":0"},
		{"an error over IPv6", probes.UDP, s6, ip("fd00::9", s6, icmp6, icmp(1, 4, 0, ip(s6, d6, udp, ports(7000, 80)))), probes.ICMPError, 4, "[fd00::9]:0"},
		{"time exceeded", probes.UDP, s4, ip(r4, s4, icmp4, icmp(11, 0, 0, ip(s4, d4, udp, ports(7000, 80)))), probes.PacketUnknown, 0, ""},
		{"an error that is cut short", probes.UDP, s4, ip(r4, s4, icmp4, icmp(3, 3, 0, ip(s4, d4, udp, nil))), probes.PacketUnknown, 0, ""},
		{"a later fragment", probes.UDP, s4, fragment(ip(s4, d4, udp, ports(7000, 80)), 1), probes.PacketUnknown, 0, ""},
		{"behind hop-by-hop options", probes.UDP, s6, extended(0, []byte{udp, 0, 1, 4, 0, 0, 0, 0}), probes.Request, 0, "[fd00::2]:80"},
		{"the first fragment over IPv6", probes.UDP, s6, extended(44, []byte{udp, 0, 0, 1, 0, 0, 0, 7}), probes.Request, 0, "[fd00::2]:80"},
		{"a later fragment over IPv6", probes.UDP, s6, extended(44, []byte{udp, 0, 0, 8, 0, 0, 0, 7}), probes.PacketUnknown, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := Open(Options{Proc: fakeProc(t, self())})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			port := uint16(7000)
			if tt.protocol == probes.ICMP {
				port = echo
			}
			flow := probes.Flow{AttemptID: "a", Protocol: tt.protocol, Source: netip.AddrPortFrom(netip.MustParseAddr(tt.source), port)}
			if err := w.Watch([]probes.Flow{flow}); err != nil {
				t.Fatal(err)
			}
			program, err := w.loadTap(0, Pod{})
			if err != nil {
				t.Fatal(err)
			}
			defer program.Close()
			frame := make([]byte, 14)
			binary.BigEndian.PutUint16(frame[12:], 0x0800)
			if tt.packet[0]>>4 == 6 {
				binary.BigEndian.PutUint16(frame[12:], 0x86dd)
			}
			if _, _, err := program.Test(append(frame, tt.packet...)); err != nil {
				t.Fatal(err)
			}
			got, err := w.Sightings([]string{"a"})
			if err != nil {
				t.Fatal(err)
			}
			var want []probes.Sighting
			if tt.want != probes.PacketUnknown {
				reached := probes.Sighting{AttemptID: "a", Packet: tt.want, Point: probes.Reached, Count: 1, Code: tt.code, Peer: netip.MustParseAddrPort(tt.peer)}
				freed := reached
				freed.Point, freed.Local = probes.Dropped, true
				want = []probes.Sighting{reached, freed}
			}
			for i := range got { // the kernel makes the packet on an interface, and frees it for a reason, of its choice
				got[i].Interface, got[i].Reason, got[i].After = "", "", 0
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("sightings (-want +got):\n%s", diff)
			}
		})
	}
}
