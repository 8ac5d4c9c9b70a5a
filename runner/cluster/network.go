package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// ErrNoSubnet reports that no candidate subnet is free on this host.
var ErrNoSubnet = errors.New("no free subnet")

const (
	// networkBits is the size of a cluster's network: 126 addresses for nodes and outside hosts, 126 that are handed out by name.
	networkBits = 24
	// mirrorHost is the mirror's address within the network. The engine hands out addresses from the upper half only, so the
	// mirror has the same address after the engine was restarted.
	mirrorHost = 2
)

// subnetPools are where cluster networks are taken from, in order: ranges that neither docker's own default pools nor the
// lab's pod and service ranges use.
func subnetPools() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16"), netip.MustParsePrefix("10.199.0.0/16")}
}

// freeSubnet returns the first subnet of the pools that overlaps none of the taken ones.
func freeSubnet(pools, taken []netip.Prefix) (netip.Prefix, error) {
	for _, pool := range pools {
		base := binary.BigEndian.Uint32(pool.Addr().AsSlice())
		for n := range uint32(1) << (networkBits - pool.Bits()) {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], base+n<<(32-networkBits))
			candidate := netip.PrefixFrom(netip.AddrFrom4(b), networkBits)
			if !overlaps(candidate, taken) {
				return candidate, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("choosing a subnet from %v: %w", pools, ErrNoSubnet)
}

func overlaps(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// hostAddress is address number n of the subnet.
func hostAddress(subnet netip.Prefix, n byte) netip.Addr {
	b := subnet.Masked().Addr().As4()
	b[3] |= n
	return netip.AddrFrom4(b)
}

// subnet6 is the IPv6 range beside an IPv4 one of the pools: a unique local prefix (RFC 4193) of the lab's own, whose subnet number is the
// middle of the IPv4 range. Two networks differ in it as they differ in the IPv4 range.
func subnet6(subnet netip.Prefix) netip.Prefix {
	v4 := subnet.Addr().As4()
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x67, 0x61, 0x70, 0x70, 0x66, v4[1], v4[2]}), 64)
}

// namedAddress6 is an address of the IPv6 range for what has number n in the IPv4 one by name. The engine hands the range out from its beginning,
// one address to each container, and never gets so far.
func namedAddress6(subnet netip.Prefix, n byte) netip.Addr {
	b := subnet.Addr().As16()
	b[13], b[15] = 1, n
	return netip.AddrFrom16(b)
}

// upperHalf is the part of the subnet from which the engine hands out addresses.
func upperHalf(subnet netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(hostAddress(subnet, 1<<(32-networkBits-1)), networkBits+1)
}

// takenSubnets are the IPv4 ranges that the engine's networks, the host's interfaces and its routes use.
func takenSubnets(ctx context.Context, e engine) ([]netip.Prefix, error) {
	ids, err := e.lines(ctx, "network", "ls", "--quiet")
	if err != nil {
		return nil, fmt.Errorf("listing networks: %w", err)
	}
	var taken []netip.Prefix
	if len(ids) > 0 {
		out, err := e.docker(ctx, nil, append([]string{"network", "inspect"}, ids...)...)
		if err != nil && !gone(err) { // a network may go between the two commands
			return nil, fmt.Errorf("inspecting networks: %w", err)
		}
		if taken, err = networkSubnets(out); err != nil {
			return nil, err
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the host's addresses: %w", err)
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			taken = append(taken, p.Masked())
		}
	}
	routes, err := os.Open("/proc/net/route")
	if errors.Is(err, os.ErrNotExist) {
		return taken, nil // not Linux: the engine runs in a machine of its own and checks its routes itself
	}
	if err != nil {
		return nil, fmt.Errorf("opening the host's routes: %w", err)
	}
	defer routes.Close()
	more, err := parseRoutes(routes)
	if err != nil {
		return nil, err
	}
	return append(taken, more...), nil
}

// networkSubnets reads the IPv4 subnets from the output of docker network inspect.
func networkSubnets(raw []byte) ([]netip.Prefix, error) {
	var networks []struct {
		Name string
		IPAM struct{ Config []struct{ Subnet string } }
	}
	if len(raw) == 0 {
		return nil, nil
	}
	if err := json.Unmarshal(raw, &networks); err != nil {
		return nil, fmt.Errorf("decoding the engine's networks: %w", err)
	}
	var out []netip.Prefix
	for _, n := range networks {
		for _, c := range n.IPAM.Config {
			p, err := netip.ParsePrefix(c.Subnet)
			if err != nil {
				return nil, fmt.Errorf("decoding the subnet of network %s: %w", n.Name, err)
			}
			if p.Addr().Is4() {
				out = append(out, p.Masked())
			}
		}
	}
	return out, nil
}

// parseRoutes reads the destinations of /proc/net/route (proc(5)): hexadecimal words in the host's byte order. The default route
// is left out, as it overlaps everything.
func parseRoutes(r io.Reader) ([]netip.Prefix, error) {
	var out []netip.Prefix
	s := bufio.NewScanner(r)
	for first := true; s.Scan(); first = false {
		f := strings.Fields(s.Text())
		if first || len(f) == 0 {
			continue // the heading
		}
		if len(f) < 8 {
			return nil, fmt.Errorf("reading the host's routes: %q has %d fields, want 8 or more", s.Text(), len(f))
		}
		destination, err := routeWord(f[1])
		if err != nil {
			return nil, err
		}
		mask, err := routeWord(f[7])
		if err != nil {
			return nil, err
		}
		bits, _ := net.IPMask(mask[:]).Size()
		if bits > 0 {
			out = append(out, netip.PrefixFrom(netip.AddrFrom4(destination), bits).Masked())
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("reading the host's routes: %w", err)
	}
	return out, nil
}

func routeWord(s string) (out [4]byte, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 4 {
		return out, fmt.Errorf("reading the host's routes: %q is not a hexadecimal word", s)
	}
	binary.NativeEndian.PutUint32(out[:], binary.BigEndian.Uint32(raw))
	return out, nil
}

// createNetwork makes the cluster's network. It has no masquerading: nothing in a lab has business outside, so packets that try
// to leave carry an address nobody answers to. Another process may take the same subnet first; the next one is tried then.
// It has IPv4, by which nodes reach the mirror, whatever the family of the cluster; IPv6, with the range subnet6, where the family is not IPv4's.
// labels are set besides the cluster's own.
func (e engine) createNetwork(ctx context.Context, name string, family v1alpha4.ClusterIPFamily, alsoTaken []netip.Prefix, labels ...string) (netip.Prefix, error) {
	taken, err := takenSubnets(ctx, e)
	if err != nil {
		return netip.Prefix{}, err
	}
	taken = append(taken, alsoTaken...)
	for {
		subnet, err := freeSubnet(subnetPools(), taken)
		if err != nil {
			return netip.Prefix{}, err
		}
		args := []string{"network", "create", "--driver", "bridge",
			"--subnet", subnet.String(), "--gateway", hostAddress(subnet, 1).String(), "--ip-range", upperHalf(subnet).String(),
			"--opt", "com.docker.network.bridge.enable_ip_masquerade=false",
			"--label", Label + "=" + name}
		for _, l := range labels {
			args = append(args, "--label", l)
		}
		if hasIPv6(family) {
			args = append(args, "--ipv6", "--subnet", subnet6(subnet).String())
		}
		err = e.create(ctx, append(args, objectName(name))...)
		if err == nil {
			return subnet, nil
		}
		var failed *CommandError
		if !errors.As(err, &failed) || !strings.Contains(failed.Output, "overlap") {
			return netip.Prefix{}, fmt.Errorf("creating network %s: %w", objectName(name), err)
		}
		taken = append(taken, subnet)
	}
}

// hasIPv6 tells whether nodes of a cluster of the family have IPv6 addresses.
func hasIPv6(family v1alpha4.ClusterIPFamily) bool {
	return family == v1alpha4.DualStackFamily || family == v1alpha4.IPv6Family
}
