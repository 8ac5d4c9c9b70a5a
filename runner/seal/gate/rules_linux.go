package gate

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/seal"
)

// ingress is the hook of tables of family inet on one device; the library's constant is that of family netdev.
// (NF_INET_INGRESS, include/uapi/linux/netfilter.h, since Linux 5.10)
const ingress = nftables.ChainHook(5)

// beyondPriority puts the second line before what others do with forwarded and received packets (NF_IP_PRI_RAW).
const beyondPriority = -300

// hook gives a chain's place as the kernel names it.
func hook(h seal.Hook) (nftables.ChainHook, nftables.ChainPriority) {
	switch h {
	case seal.HookIngress:
		return ingress, 0
	case seal.HookForward:
		return *nftables.ChainHookForward, beyondPriority
	case seal.HookInput:
		return *nftables.ChainHookInput, beyondPriority
	}
	panic("placing a chain whose hook is unknown") // seal.Spec.Chains has no other
}

// register is the one that matches load into (NFT_REG_1).
const register = 1

// Offsets within headers (RFC 791, 8200, 9293, 792).
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
	hopLimit6             = 7
	sourcePort, destPort  = 0, 2
	tcpFlags              = 13
	tcpSYN, tcpACK        = 0x02, 0x10
)

// expressions are a rule as the kernel carries it out: the match, the counter, the end.
func expressions(r seal.Rule) []expr.Any {
	m := r.Match
	var out []expr.Any
	// add loads a value and compares it.
	add := func(load expr.Any, value []byte) {
		out = append(out, load, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value})
	}
	meta := func(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: register} }
	if m.In != "" {
		add(meta(expr.MetaKeyIIFNAME), interfaceName(m.In))
	}
	if m.NotOut != "" {
		out = append(out, meta(expr.MetaKeyOIFNAME), &expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: interfaceName(m.NotOut)})
	}
	switch m.Family {
	case seal.IPv4:
		add(meta(expr.MetaKeyNFPROTO), []byte{unix.NFPROTO_IPV4})
	case seal.IPv6:
		add(meta(expr.MetaKeyNFPROTO), []byte{unix.NFPROTO_IPV6})
	}
	out = append(out, addressIn(m.Source, source4, source6)...)
	out = append(out, addressIn(m.Destination, destination4, destination6)...)
	if m.HopLimit != 0 {
		add(payload(expr.PayloadBaseNetworkHeader, hopLimit6, 1), []byte{m.HopLimit})
	}
	if m.Protocol != seal.ProtocolAny {
		add(meta(expr.MetaKeyL4PROTO), []byte{byte(m.Protocol)})
	}
	if m.SourcePort != 0 {
		add(payload(expr.PayloadBaseTransportHeader, sourcePort, 2), binary.BigEndian.AppendUint16(nil, m.SourcePort))
	}
	if m.DestPort != 0 {
		add(payload(expr.PayloadBaseTransportHeader, destPort, 2), binary.BigEndian.AppendUint16(nil, m.DestPort))
	}
	if m.ICMPType != 0 {
		add(payload(expr.PayloadBaseTransportHeader, 0, 1), []byte{m.ICMPType})
	}
	if m.Opens == seal.OpeningNot {
		out = append(out, payload(expr.PayloadBaseTransportHeader, tcpFlags, 1),
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 1, Mask: []byte{tcpSYN | tcpACK}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: []byte{tcpSYN}})
	}
	if r.Do == seal.Note {
		out = append(out, note(m)...)
	}
	out = append(out, &expr.Counter{})
	switch r.Do {
	case seal.Accept:
		out = append(out, &expr.Verdict{Kind: expr.VerdictAccept})
	case seal.Drop:
		out = append(out, &expr.Verdict{Kind: expr.VerdictDrop})
	}
	return out
}

func payload(base expr.PayloadBase, offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

// addressIn matches addresses within a range.
func addressIn(p netip.Prefix, at4, at6 uint32) []expr.Any {
	if !p.IsValid() {
		return nil
	}
	at := at4
	if p.Addr().Is6() {
		at = at6
	}
	address, length := p.Masked().Addr().AsSlice(), uint32(p.Addr().BitLen()/8)
	out := []expr.Any{payload(expr.PayloadBaseNetworkHeader, at, length)}
	if !p.IsSingleIP() {
		mask := make([]byte, length)
		for bit := range p.Bits() {
			mask[bit/8] |= 0x80 >> (bit % 8)
		}
		out = append(out, &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: length, Mask: mask, Xor: make([]byte, length)})
	}
	return append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: address})
}

// triedSize is how many different packets a set keeps; what comes after that is counted and no longer listed.
const triedSize = 65535

// note keeps source, destination, protocol and port in the family's set, each in registers of four bytes, with a counter of its own. The numbers
// are those that the kernel gives back: a register at the start of sixteen bytes has the number of the old, wide ones (nft_dump_register).
func note(m seal.Match) []expr.Any {
	load := func(base expr.PayloadBase, offset, length, to uint32) expr.Any {
		return &expr.Payload{DestRegister: to, Base: base, Offset: offset, Len: length}
	}
	// The registers after the source's.
	to, protocol, port := uint32(unix.NFT_REG32_01), uint32(unix.NFT_REG32_02), uint32(unix.NFT_REG32_03)
	at, from, length := uint32(destination4), uint32(source4), uint32(4)
	if m.Family == seal.IPv6 {
		to, protocol, port = unix.NFT_REG_2, unix.NFT_REG_3, unix.NFT_REG32_09
		at, from, length = destination6, source6, 16
	}
	out := []expr.Any{
		load(expr.PayloadBaseNetworkHeader, from, length, register),
		load(expr.PayloadBaseNetworkHeader, at, length, to),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
	}
	switch m.Protocol {
	case seal.TCP, seal.UDP:
		out = append(out, load(expr.PayloadBaseTransportHeader, destPort, 2, port))
	default:
		out = append(out, &expr.Immediate{Register: port, Data: []byte{0, 0}})
	}
	return append(out, &expr.Dynset{SrcRegKey: register, SetName: seal.TriedSet(m.Family), Operation: unix.NFT_DYNSET_OP_UPDATE, Exprs: []expr.Any{&expr.Counter{}}})
}

// interfaceName is a name as the kernel compares it: filled with zeros.
func interfaceName(name string) []byte {
	out := make([]byte, unix.IFNAMSIZ)
	copy(out, name)
	return out
}

// same tells whether two rules do the same, whatever they have counted.
func same(a, b []expr.Any) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		one, err := expr.Marshal(unix.NFPROTO_INET, still(a[i]))
		if err != nil {
			return false
		}
		other, err := expr.Marshal(unix.NFPROTO_INET, still(b[i]))
		if err != nil || !bytes.Equal(one, other) {
			return false
		}
	}
	return true
}

// still is an expression without what it has counted, and without a set's number, which lives for one transaction.
func still(e expr.Any) expr.Any {
	switch e := e.(type) {
	case *expr.Counter:
		return &expr.Counter{}
	case *expr.Dynset:
		out := *e
		out.SetID = 0
		out.Exprs = nil
		for _, inner := range e.Exprs {
			out.Exprs = append(out.Exprs, still(inner))
		}
		return &out
	}
	return e
}

// countOf is what a rule has counted.
func countOf(all []expr.Any) uint64 {
	for _, e := range all {
		if c, ok := e.(*expr.Counter); ok {
			return c.Packets
		}
	}
	return 0
}
