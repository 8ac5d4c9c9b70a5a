package cluster

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestFreeSubnet(t *testing.T) {
	for name, tc := range map[string]struct {
		taken []netip.Prefix
		want  string
	}{
		"nothing taken":                  {nil, "172.30.0.0/24"},
		"the first taken":                {prefixes("172.30.0.0/24"), "172.30.1.0/24"},
		"a host inside the first":        {prefixes("172.30.0.77/32"), "172.30.1.0/24"},
		"a larger network over several":  {prefixes("172.30.0.0/22"), "172.30.4.0/24"},
		"the whole first pool taken":     {prefixes("172.16.0.0/12"), "10.199.0.0/24"},
		"an IPv6 network is no obstacle": {prefixes("fc00::/7"), "172.30.0.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := freeSubnet(subnetPools(), tc.taken)
			if err != nil || got.String() != tc.want {
				t.Errorf("got %v, %v; want %s", got, err, tc.want)
			}
		})
	}
	if _, err := freeSubnet(subnetPools(), prefixes("0.0.0.0/0")); !errors.Is(err, ErrNoSubnet) {
		t.Errorf("everything taken: %v, want ErrNoSubnet", err)
	}
}

func TestTheMirrorsAddressIsNeverHandedOut(t *testing.T) {
	subnet := netip.MustParsePrefix("10.199.3.0/24")
	mirror := hostAddress(subnet, mirrorHost)
	if mirror.String() != "10.199.3.2" {
		t.Errorf("the mirror is %s, want 10.199.3.2", mirror)
	}
	if upper := upperHalf(subnet); upper.String() != "10.199.3.128/25" || upper.Contains(mirror) {
		t.Errorf("the engine hands out addresses from %s", upper)
	}
}

func TestParseRoutes(t *testing.T) {
	const table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n" + // default
		"eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n" + // 192.168.0.0/16
		"tun0\t01020A0A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n\n" // 10.10.2.1/32
	got, err := parseRoutes(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := prefixes("192.168.0.0/16", "10.10.2.1/32")
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
	for name, bad := range map[string]string{
		"too few fields":  "Iface\neth0\t00000000\n",
		"no hexadecimal":  "Iface\neth0\tzzzzzzzz\t0\t0\t0\t0\t0\t00000000\n",
		"too short a one": "Iface\neth0\t0000\t0\t0\t0\t0\t0\t00000000\n",
	} {
		if _, err := parseRoutes(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseRoutes(f *testing.F) {
	f.Add("Iface\neth0\t0000A8C0\t0\t0\t0\t0\t0\t0000FFFF\n")
	f.Fuzz(func(t *testing.T, table string) {
		all, err := parseRoutes(strings.NewReader(table))
		for _, p := range all {
			if err == nil && (!p.IsValid() || p.Bits() == 0 || p != p.Masked()) {
				t.Fatalf("parseRoutes(%q) gave %v", table, p)
			}
		}
	})
}

func TestIPv6RangesDifferAsIPv4RangesDo(t *testing.T) {
	for subnet, want := range map[string]string{"172.30.2.0/24": "fd67:6170:7066:1e02::/64", "10.199.255.0/24": "fd67:6170:7066:c7ff::/64"} {
		if got := subnet6(netip.MustParsePrefix(subnet)); got.String() != want || got != got.Masked() {
			t.Errorf("%s: want %s, got %s", subnet, want, got)
		}
	}
}

func TestCreateNetworkTriesTheNextSubnetWhenAnotherTookIt(t *testing.T) {
	f := newFake(t)
	f.networks = []*fakeNetwork{{name: "other", subnet: "172.30.0.0/23"}}
	f.before = func(line string) {
		f.refuse = map[string]string{}
		if strings.Contains(line, "172.30.2.0/24") {
			f.refuse["network create"] = "Error response from daemon: Pool overlaps with other one on this address space"
		}
	}
	subnet, err := f.engine().createNetwork(t.Context(), "a", v1alpha4.IPv4Family, prefixes("172.30.3.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	// 172.30.0 and .1 are another network's, .2 is refused, .3 is for pods; a host may have more of its own.
	if subnet.Bits() != 24 || overlaps(subnet, prefixes("172.30.0.0/23", "172.30.2.0/24", "172.30.3.0/24")) {
		t.Errorf("got %s, which is taken", subnet)
	}
	create := f.commands[len(f.commands)-1]
	for _, want := range []string{"enable_ip_masquerade=false", "--label gapproof.dev/cluster=a", "gapproof-a"} {
		if !strings.Contains(create, want) {
			t.Errorf("%q lacks %q", create, want)
		}
	}
	if strings.Contains(create, "--ipv6") {
		t.Errorf("%q: a network of IPv4 alone must have no IPv6", create)
	}
	f.before = nil
	f.refuse = map[string]string{}
	for _, family := range []v1alpha4.ClusterIPFamily{v1alpha4.DualStackFamily, v1alpha4.IPv6Family} {
		subnet, err = f.engine().createNetwork(t.Context(), "on-"+string(family), family, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"--ipv6 --subnet " + subnet6(subnet).String(), "--subnet " + subnet.String()} {
			if create := f.commands[len(f.commands)-1]; !strings.Contains(create, want) {
				t.Errorf("%s: %q lacks %q", family, create, want)
			}
		}
	}
	f.refuse["network create"] = "Error response from daemon: something else"
	if _, err := f.engine().createNetwork(t.Context(), "b", v1alpha4.IPv4Family, nil); err == nil {
		t.Error("another fault was taken for an overlap")
	}
}
