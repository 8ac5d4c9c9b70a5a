package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/seal"
)

// Close makes the cluster's table in one transaction: the gate is there whole or not at all. A table of the name that is there already is
// replaced by it. Nothing of anybody else is changed.
func Close(s seal.Spec) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("sealing the network of %s: %w", s.Cluster, err)
	}
	table := &nftables.Table{Name: s.Table(), Family: nftables.TableFamilyINet}
	c.AddTable(table) // so that the deletion finds one
	c.DelTable(table)
	c.AddTable(table)
	for _, f := range []seal.Family{seal.IPv4, seal.IPv6} {
		if err := c.AddSet(triedSet(table, f), nil); err != nil {
			return fmt.Errorf("sealing the network of %s: %w", s.Cluster, err)
		}
	}
	for _, want := range s.Chains() {
		at, priority := hook(want.Hook)
		accept := nftables.ChainPolicyAccept
		chain := &nftables.Chain{Name: want.Name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: &at, Priority: &priority, Policy: &accept}
		if want.Hook == seal.HookIngress {
			chain.Device = s.Bridge
		}
		c.AddChain(chain)
		for _, r := range want.Rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: expressions(r), UserData: []byte(r.Counter)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("sealing the network of %s on %s: %w", s.Cluster, s.Bridge, err)
	}
	return nil
}

// triedSet is the set that keeps what a family's packets tried.
func triedSet(table *nftables.Table, f seal.Family) *nftables.Set {
	address := nftables.TypeIPAddr
	if f == seal.IPv6 {
		address = nftables.TypeIP6Addr
	}
	return &nftables.Set{
		Table: table, Name: seal.TriedSet(f), Dynamic: true, Size: triedSize,
		KeyType: nftables.MustConcatSetType(address, address, nftables.TypeInetProto, nftables.TypeInetService),
	}
}

// Open removes the cluster's table and tells whether there was one.
func Open(cluster string) (removed bool, err error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("unsealing the network of %s: %w", cluster, err)
	}
	table := &nftables.Table{Name: seal.TableOf(cluster), Family: nftables.TableFamilyINet}
	c.DelTable(table)
	err = c.Flush()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("unsealing the network of %s: %w", cluster, err)
	}
	return true, nil
}

// balanceTries is how often counters are read again when packets that passed meanwhile upset the account. A reading takes a millisecond, and
// nodes send to the host some hundred times a second at most.
const balanceTries = 50

// Read returns the table's counters and every way in which it is not the one the Spec describes. The error is that of reading; a table that is
// not there is a fault, not an error.
func Read(s seal.Spec) (seal.Reading, []string, error) {
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return seal.Reading{}, nil, fmt.Errorf("reading the seal of %s: %w", s.Cluster, err)
	}
	defer func() { _ = c.CloseLasting() }()
	for try := 1; ; try++ {
		r, faults, err := read(c, s)
		if err != nil {
			return seal.Reading{}, nil, fmt.Errorf("reading the seal of %s: %w", s.Cluster, err)
		}
		unbalanced := s.Balance(r)
		if unbalanced == nil || len(faults) > 0 {
			return r, faults, nil
		}
		if try == balanceTries {
			return r, []string{unbalanced.Error()}, nil
		}
	}
}

func read(c *nftables.Conn, s seal.Spec) (seal.Reading, []string, error) {
	r := seal.Reading{Packets: map[seal.Counter]uint64{}}
	table, err := find(c, s.Table())
	if errors.Is(err, ErrNotClosed) {
		return r, []string{"the kernel has no table " + s.Table()}, nil
	}
	if err != nil {
		return r, nil, err
	}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	// Close sets none; the one that matters makes the table dormant (NFT_TABLE_F_DORMANT, include/uapi/linux/netfilter/nf_tables.h).
	if table.Flags != 0 {
		fault("table %s has flags %#x and may be dormant: its rules are not carried out then", table.Name, table.Flags)
	}
	chains, err := chainsOf(c, table)
	if err != nil {
		return r, nil, err
	}
	for _, want := range s.Chains() {
		have := chains[want.Name]
		delete(chains, want.Name)
		if have == nil {
			fault("chain %s is gone", want.Name)
			continue
		}
		at, priority := hook(want.Hook)
		if have.Hooknum == nil || have.Priority == nil || have.Policy == nil || *have.Hooknum != at || *have.Priority != priority || have.Type != nftables.ChainTypeFilter {
			fault("chain %s is not where it was put", want.Name)
		}
		rules, err := c.GetRules(table, have)
		if err != nil {
			return r, nil, fmt.Errorf("listing the rules of chain %s: %w", want.Name, err)
		}
		faults = append(faults, compare(want, rules, r.Packets)...)
	}
	for name := range chains {
		fault("chain %s is nobody's", name)
	}
	for _, f := range []seal.Family{seal.IPv4, seal.IPv6} {
		elements, err := c.GetSetElements(triedSet(table, f))
		if errors.Is(err, fs.ErrNotExist) {
			fault("set %s is gone", seal.TriedSet(f))
			continue
		}
		if err != nil {
			return r, nil, fmt.Errorf("listing what was tried: %w", err)
		}
		for _, e := range elements {
			t, err := tried(f, e)
			if err != nil {
				return r, nil, err
			}
			r.Tried = append(r.Tried, t)
		}
	}
	seal.SortTried(r.Tried)
	return r, faults, nil
}

// compare holds a chain's rules against the wanted ones and takes their counts.
func compare(want seal.Chain, have []*nftables.Rule, packets map[seal.Counter]uint64) (faults []string) {
	at := 0
	for _, w := range want.Rules {
		found := -1
		for i := at; i < len(have); i++ {
			if string(have[i].UserData) == string(w.Counter) {
				found = i
				break
			}
		}
		if found < 0 {
			faults = append(faults, fmt.Sprintf("chain %s: rule %s is gone or out of order", want.Name, w.Counter))
			continue
		}
		for _, other := range have[at:found] {
			faults = append(faults, fmt.Sprintf("chain %s: a rule %q before %s is nobody's", want.Name, other.UserData, w.Counter))
		}
		at = found + 1
		packets[w.Counter] = countOf(have[found].Exprs)
		if !same(expressions(w), have[found].Exprs) {
			faults = append(faults, fmt.Sprintf("chain %s: rule %s is not what it was", want.Name, w.Counter))
		}
	}
	for _, other := range have[at:] {
		faults = append(faults, fmt.Sprintf("chain %s: a rule %q at its end is nobody's", want.Name, other.UserData))
	}
	return faults
}

// find returns the table of the name; the error matches ErrNotClosed when there is none.
func find(c *nftables.Conn, name string) (*nftables.Table, error) {
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("looking for table %s: %w", name, ErrNotClosed)
}

func chainsOf(c *nftables.Conn, table *nftables.Table) (map[string]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("listing chains: %w", err)
	}
	out := map[string]*nftables.Chain{}
	for _, chain := range all {
		if chain.Table != nil && chain.Table.Name == table.Name {
			out[chain.Name] = chain
		}
	}
	return out, nil
}

// tried reads one element of a set: addresses, protocol and port, each filled to four bytes.
func tried(f seal.Family, e nftables.SetElement) (seal.Tried, error) {
	length := 4
	if f == seal.IPv6 {
		length = 16
	}
	if len(e.Key) != 2*length+8 || e.Counter == nil {
		return seal.Tried{}, fmt.Errorf("reading what was tried: an element of %d bytes, want %d and a counter", len(e.Key), 2*length+8)
	}
	from, _ := netip.AddrFromSlice(e.Key[:length])
	to, _ := netip.AddrFromSlice(e.Key[length : 2*length])
	return seal.Tried{
		Source: from, Destination: to, Protocol: seal.Protocol(e.Key[2*length]),
		Port: binary.BigEndian.Uint16(e.Key[2*length+4:]), Packets: e.Counter.Packets,
	}, nil
}

// enter runs do in a network namespace, in a goroutine whose thread ends with it.
func enter(namespace int, do func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread together with the goroutine, so nobody else is left in the namespace.
		lockThread()
		if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering a network namespace: %w", err)
			return
		}
		done <- do()
	}()
	return <-done
}
