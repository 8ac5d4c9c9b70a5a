package kindconfigs

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// Default is the topology used when nobody asks for another.
const Default = "one-worker"

// ErrUnknown reports a topology that is not among [Names].
var ErrUnknown = errors.New("unknown topology")

//go:embed *.yaml
var files embed.FS

// Files are the topologies' files as they were written.
func Files() fs.FS { return files }

// Names lists the topologies, sorted. A name is its file's name without ".yaml".
func Names() []string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("listing the embedded topologies: %v", err)) // the file system is compiled in: cannot happen
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), path.Ext(e.Name())))
	}
	sort.Strings(names)
	return names
}

// Load returns the topology with this name; the caller owns the result. The error matches [ErrUnknown] for a name that is not
// among [Names]; any other error is a fault of the file and lists every fault found.
func Load(name string) (*v1alpha4.Cluster, error) {
	raw, err := files.ReadFile(name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("looking up topology %q (there are %s): %w", name, strings.Join(Names(), ", "), ErrUnknown)
	}
	c, err := decode(raw)
	if err != nil {
		return nil, fmt.Errorf("reading topology %q: %w", name, err)
	}
	return c, nil
}

func decode(raw []byte) (*v1alpha4.Cluster, error) {
	var c v1alpha4.Cluster
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true) // kind decodes strictly too; here the fault is found before an engine is touched
	if err := d.Decode(&c); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	if err := validate(&c); err != nil {
		return nil, err
	}
	return &c, nil
}

// validate holds what the lab needs of every topology, beyond kind's own rules. It runs on the file as written, before kind
// fills in defaults, so that what the lab relies on is visible in the file.
func validate(c *v1alpha4.Cluster) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Kind != "Cluster" || c.APIVersion != "kind.x-k8s.io/v1alpha4" {
		fault("kind, apiVersion: are %q and %q, want Cluster of kind.x-k8s.io/v1alpha4", c.Kind, c.APIVersion)
	}
	if c.Name != "" {
		fault("name: is %q, must be empty: a topology can be brought up under any name", c.Name)
	}
	if !c.Networking.DisableDefaultCNI {
		fault("networking.disableDefaultCNI: must be true: the lab installs the CNI under test")
	}
	if pods, err := PodSubnets(c); err != nil {
		faults = append(faults, err)
	} else if err := checkFamilies(c.Networking.IPFamily, pods); err != nil {
		faults = append(faults, err)
	}
	if n := c.Networking; n.IPFamily == v1alpha4.IPv6Family && n.APIServerAddress != apiServerAddress {
		fault("networking.apiServerAddress: is %q, must be %s: kind's default for ipv6 is ::1, and a sealed network lets the API server answer over IPv4 alone",
			n.APIServerAddress, apiServerAddress)
	}
	if _, err := ServiceSubnets(c); err != nil {
		faults = append(faults, err)
	}
	controlPlanes := 0
	for i, n := range c.Nodes {
		if n.Role == v1alpha4.ControlPlaneRole {
			controlPlanes++
		}
		if n.Image != "" {
			fault("nodes[%d].image: is %q, must be empty: the node image comes from the lock", i, n.Image)
		}
		if len(n.ExtraPortMappings) > 0 {
			fault("nodes[%d].extraPortMappings: must be empty: the lab publishes nothing on the host but the API server", i)
		}
	}
	if controlPlanes != 1 {
		// With several, kind adds a load balancer container, whose image is not in the lock.
		fault("nodes: has %d control planes, want 1", controlPlanes)
	}
	return errors.Join(faults...)
}

// apiServerAddress is where this host finds the API server: kind's default but for IPv6 (sigs.k8s.io/kind/pkg/apis/config/v1alpha4/default.go).
const apiServerAddress = "127.0.0.1"

// checkFamilies holds the pod ranges against the family that the file names. It is Kubernetes' alone: the network below has IPv4 always, as
// nodes reach the mirror by it, and IPv6 where the file names it.
func checkFamilies(family v1alpha4.ClusterIPFamily, pods []netip.Prefix) error {
	var want []string
	switch family {
	case v1alpha4.IPv4Family:
		want = []string{"IPv4"}
	case v1alpha4.IPv6Family:
		want = []string{"IPv6"}
	case v1alpha4.DualStackFamily:
		want = []string{"IPv4", "IPv6"}
	default:
		return fmt.Errorf("networking.ipFamily: is %q, want ipv4, ipv6 or dual", family)
	}
	var got []string
	for _, p := range pods {
		if p.Addr().Is4() {
			got = append(got, "IPv4")
		} else {
			got = append(got, "IPv6")
		}
	}
	if !slices.Equal(want, got) {
		return fmt.Errorf("networking.podSubnet: has the families %v, want %v for ipFamily %s", got, want, family)
	}
	return nil
}

// PodSubnets are the pod address ranges of the topology, at most one per address family, in the file's order.
func PodSubnets(c *v1alpha4.Cluster) ([]netip.Prefix, error) {
	return prefixes("networking.podSubnet", c.Networking.PodSubnet)
}

// ServiceSubnets are the ranges of ClusterIPs, likewise.
func ServiceSubnets(c *v1alpha4.Cluster) ([]netip.Prefix, error) {
	return prefixes("networking.serviceSubnet", c.Networking.ServiceSubnet)
}

func prefixes(field, list string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for s := range strings.SplitSeq(list, ",") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s: reading %q: %w", field, s, err)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("%s: %s has host bits, want %s", field, p, p.Masked())
		}
		out = append(out, p)
	}
	return out, nil
}
