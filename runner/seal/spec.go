package seal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// Spec is one cluster's seal. It is made once, by [New], and kept beside the cluster: rules and proofs follow from it alone.
type Spec struct {
	Cluster string `json:"cluster"`
	Network
	// Canary is where canaries go: addresses that documents use and no host has, and a port of this cluster's own.
	Canary Target `json:"canary"`
}

// Network is what is sealed.
type Network struct {
	// Bridge is the host's interface on the lab's network, and Gateway the host's address there.
	Bridge  string     `json:"bridge"`
	Gateway netip.Addr `json:"gateway"`
	// Subnet is the network's IPv4 range.
	Subnet netip.Prefix `json:"subnet"`
	// Subnet6 is its IPv6 range and Gateway6 the host's address in it; zero where it has no IPv6.
	Subnet6  netip.Prefix `json:"subnet6,omitzero"`
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
	// Mirror is the registry's address and port on the network, Sink that of the resolver.
	Mirror netip.AddrPort `json:"mirror"`
	Sink   netip.AddrPort `json:"sink"`
	// API is the port of the nodes' API server.
	API uint16 `json:"api"`
	// Pods are the ranges that pods have addresses of, of one family or both. Empty, as in what earlier builds recorded, stands for IPv4, and for
	// IPv6 too where the network has it.
	Pods []netip.Prefix `json:"pods,omitempty"`
}

// Target is where canaries go.
type Target struct {
	Address  netip.Addr `json:"address"`
	Address6 netip.Addr `json:"address6"`
	// Port is the destination port of TCP and UDP canaries, and the source port of those that ask a resolver.
	Port uint16 `json:"port"`
}

// ErrNoCanaryAddress reports a host on which every range for documents is in use.
var ErrNoCanaryAddress = errors.New("the host uses every address range for documents")

// documentRanges are the IPv4 ranges that no host has (RFC 5737). Some networks use one all the same; it is left out then.
func documentRanges() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.0.2.0/24")}
}

// The canaries' ports: above those of services, below those the kernel hands out by itself (net.ipv4.ip_local_port_range begins at 32768).
const (
	firstCanaryPort = 20000
	canaryPorts     = 12000
)

// New makes the seal of a cluster's network. taken are the ranges that this host's interfaces and routes use, without default routes. Address
// and port of the canaries are drawn from random, so that clusters on one host do not count each other's.
func New(cluster string, n Network, taken []netip.Prefix, random *rand.Rand) (Spec, error) {
	s := Spec{Cluster: cluster, Network: n}
	var faults []error
	if cluster == "" || n.Bridge == "" || len(n.Bridge) >= interfaceName {
		faults = append(faults, fmt.Errorf("cluster %q, bridge %q: a name of each is required, the bridge's below %d bytes", cluster, n.Bridge, interfaceName))
	}
	if !n.Subnet.IsValid() || !n.Subnet.Addr().Is4() || !n.Subnet.Contains(n.Gateway) || !n.Subnet.Contains(n.Mirror.Addr()) || !n.Subnet.Contains(n.Sink.Addr()) {
		faults = append(faults, fmt.Errorf("subnet: %s does not hold the gateway %s, the mirror %s and the sink %s", n.Subnet, n.Gateway, n.Mirror, n.Sink))
	}
	if n.Subnet6.IsValid() != n.Gateway6.IsValid() || n.Subnet6.IsValid() && !n.Subnet6.Contains(n.Gateway6) {
		faults = append(faults, fmt.Errorf("subnet6: %s does not hold the gateway %s", n.Subnet6, n.Gateway6))
	}
	if n.API == 0 || n.Mirror.Port() == 0 || n.Sink.Port() == 0 {
		faults = append(faults, errors.New("ports: those of the API server, the mirror and the sink are required"))
	}
	free := slices.DeleteFunc(documentRanges(), func(p netip.Prefix) bool {
		return slices.ContainsFunc(append(taken, n.Subnet), p.Overlaps)
	})
	if len(free) == 0 {
		faults = append(faults, ErrNoCanaryAddress)
	}
	if err := errors.Join(faults...); err != nil {
		return Spec{}, fmt.Errorf("describing the seal of %s: %w", cluster, err)
	}
	v4 := free[0].Addr().As4()
	v4[3] = byte(1 + random.IntN(254))
	// 2001:db8::/32 is for documents (RFC 3849).
	v6 := [16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}
	v6[4], v6[5] = byte(random.IntN(256)), byte(random.IntN(256))
	s.Canary = Target{Address: netip.AddrFrom4(v4), Address6: netip.AddrFrom16(v6), Port: uint16(firstCanaryPort + random.IntN(canaryPorts))}
	return s, nil
}

// interfaceName is one more than an interface's name may have bytes (IFNAMSIZ, include/uapi/linux/if.h).
const interfaceName = 16

// Table is the name of the cluster's table in the kernel.
func (s Spec) Table() string { return TableOf(s.Cluster) }

// TableOf is the name of a cluster's table.
func TableOf(cluster string) string { return "gapproof-" + cluster }

// DualStack tells whether the network has IPv6.
func (s Spec) DualStack() bool { return s.Subnet6.IsValid() }

// podsHave tells whether pods have addresses of the family.
func (s Spec) podsHave(f Family) bool {
	if len(s.Pods) == 0 {
		return f == IPv4 || s.DualStack()
	}
	return slices.ContainsFunc(s.Pods, func(p netip.Prefix) bool { return p.Addr().Is4() == (f == IPv4) })
}
