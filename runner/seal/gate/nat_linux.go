package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/seal"
)

// Masquerades lists the rules of this host, whosever they are, that may give a packet from the lab an address of the host. A rule counts unless
// one of its conditions can be seen to leave such packets out, so a rule that cannot be understood counts. pods are the ranges of pods.
func Masquerades(ctx context.Context, s seal.Spec, pods []netip.Prefix) ([]string, error) {
	from := append([]netip.Prefix{s.Subnet}, pods...)
	if s.DualStack() {
		from = append(from, s.Subnet6)
	}
	out, err := nftMasquerades(s, from)
	if err != nil {
		return nil, fmt.Errorf("looking for masquerading in nftables: %w", err)
	}
	for _, family := range []string{"ip", "ip6"} {
		legacy, err := legacyMasquerades(ctx, family, s, from)
		if err != nil {
			return nil, fmt.Errorf("looking for masquerading in %stables: %w", family, err)
		}
		out = append(out, legacy...)
	}
	return out, nil
}

func nftMasquerades(s seal.Spec, from []netip.Prefix) ([]string, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.CloseLasting() }()
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	w := natWalk{c: c, s: s, from: from}
	for _, chain := range chains {
		if chain.Type != nftables.ChainTypeNAT || chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookPostrouting {
			continue
		}
		if err := w.walk(chain.Table, chain.Name, 0); err != nil {
			return nil, err
		}
	}
	return w.found, nil
}

// natWalk follows chains of address translation.
type natWalk struct {
	c     *nftables.Conn
	s     seal.Spec
	from  []netip.Prefix
	found []string
}

// deepest is how deep the kernel lets chains call each other (NFT_JUMP_STACK_SIZE).
const deepest = 16

func (w *natWalk) walk(table *nftables.Table, chain string, depth int) error {
	if depth > deepest {
		return nil
	}
	rules, err := w.c.GetRules(table, &nftables.Chain{Name: chain, Table: table})
	if err != nil {
		return fmt.Errorf("listing the rules of chain %s: %w", chain, err)
	}
	for n, r := range rules {
		if w.leavesOut(r.Exprs) {
			continue
		}
		for _, e := range r.Exprs {
			if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
				if err := w.walk(table, v.Chain, depth+1); err != nil {
					return err
				}
			}
			if translates(e) {
				w.found = append(w.found, fmt.Sprintf("rule %d of chain %s in table %s may translate the lab's addresses", n+1, chain, table.Name))
			}
		}
	}
	return nil
}

// translates tells whether an expression changes a packet's source.
func translates(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Masq:
		return true
	case *expr.NAT:
		return e.Type == expr.NATTypeSourceNAT
	case *expr.Target: // iptables through nftables
		return e.Name == "MASQUERADE" || e.Name == "SNAT" || e.Name == "NETMAP"
	}
	return false
}

// leavesOut tells whether a rule's conditions show that no packet that leaves the lab can meet them.
func (w *natWalk) leavesOut(all []expr.Any) bool {
	var load expr.Any
	var mask []byte
	for _, e := range all {
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload:
			load, mask = e, nil
		case *expr.Bitwise:
			mask = e.Mask
		case *expr.Cmp:
			if w.excludes(load, mask, e) {
				return true
			}
		}
	}
	return false
}

func (w *natWalk) excludes(load expr.Any, mask []byte, c *expr.Cmp) bool {
	switch l := load.(type) {
	case *expr.Meta:
		name := string(bytes.TrimRight(c.Data, "\x00"))
		switch l.Key {
		case expr.MetaKeyIIFNAME:
			return c.Op == expr.CmpOpEq && len(c.Data) == unix.IFNAMSIZ && name != w.s.Bridge
		case expr.MetaKeyOIFNAME:
			return c.Op == expr.CmpOpEq && name == w.s.Bridge
		}
	case *expr.Payload:
		p, ok := prefixOf(l, mask, c)
		if !ok || c.Op != expr.CmpOpEq {
			return false
		}
		if l.Offset == source4 && p.Addr().Is4() || l.Offset == source6 && p.Addr().Is6() {
			return !overlapsAny(p, w.from)
		}
		return within(p, w.s.Subnet) || w.s.DualStack() && within(p, w.s.Subnet6) // what stays on the link does not leave
	}
	return false
}

// prefixOf is the range that a comparison of an address stands for.
func prefixOf(l *expr.Payload, mask []byte, c *expr.Cmp) (netip.Prefix, bool) {
	if l.Base != expr.PayloadBaseNetworkHeader || int(l.Len) != len(c.Data) {
		return netip.Prefix{}, false
	}
	length := 0
	switch {
	case (l.Offset == source4 || l.Offset == destination4) && l.Len <= 4:
		length = 4
	case (l.Offset == source6 || l.Offset == destination6) && l.Len <= 16:
		length = 16
	default:
		return netip.Prefix{}, false
	}
	bits := int(l.Len) * 8 // a range that ends between bytes is loaded whole and masked, any other in as many bytes as it has
	if mask != nil {
		bits = 0
		for _, m := range mask {
			for ; m&0x80 != 0; m <<= 1 {
				bits++
			}
		}
	}
	address, _ := netip.AddrFromSlice(append(bytes.Clone(c.Data), make([]byte, length-len(c.Data))...))
	return netip.PrefixFrom(address, bits), true
}

func overlapsAny(p netip.Prefix, all []netip.Prefix) bool {
	for _, o := range all {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

func within(p, outer netip.Prefix) bool { return p.Bits() >= outer.Bits() && outer.Contains(p.Addr()) }

// legacyMasquerades reads the tables of the older kernel interface, which nftables does not show. They are there once anybody has used them.
func legacyMasquerades(ctx context.Context, family string, s seal.Spec, from []netip.Prefix) ([]string, error) {
	names, err := os.ReadFile("/proc/thread-self/net/" + family + "_tables_names")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the kernel has never been asked for any
	}
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(append([]byte("\n"), names...), []byte("\nnat\n")) {
		return nil, nil
	}
	program := family + "tables-legacy-save"
	text, err := exec.CommandContext(ctx, program, "-t", "nat").Output()
	if err != nil {
		return nil, fmt.Errorf("running %s: %w", program, err)
	}
	return parseLegacy(string(text), s, from), nil
}

// parseLegacy finds translating rules in what iptables-save prints.
func parseLegacy(text string, s seal.Spec, from []netip.Prefix) []string {
	var out []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "-A" {
			continue
		}
		hits, excluded := false, false
		for i := 2; i+1 < len(words); i++ {
			value, negated := words[i+1], words[i-1] == "!"
			switch words[i] {
			case "-j", "-g":
				hits = hits || value == "MASQUERADE" || value == "SNAT" || value == "NETMAP"
			case "-s":
				p, ok := parseRange(value)
				excluded = excluded || ok && !negated && !overlapsAny(p, from)
			case "-d":
				p, ok := parseRange(value)
				excluded = excluded || ok && !negated && (within(p, s.Subnet) || s.DualStack() && within(p, s.Subnet6))
			case "-o":
				excluded = excluded || !negated && value == s.Bridge
			}
		}
		if hits && !excluded {
			out = append(out, "rule "+strings.TrimSpace(line)+" may translate the lab's addresses")
		}
	}
	return out
}

func parseRange(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}
