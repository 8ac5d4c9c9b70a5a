package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

// Seal tells of a cluster whose network is sealed: what whoever closes and proves it needs to know of the network.
type Seal struct {
	// Bridge is the host's interface on the network, Gateway the host's address there.
	Bridge  string     `json:"bridge"`
	Gateway netip.Addr `json:"gateway"`
	// Subnet6 and Gateway6 are IPv6's, zero where the network has none.
	Subnet6  netip.Prefix `json:"subnet6,omitzero"`
	Gateway6 netip.Addr   `json:"gateway6,omitzero"`
	// Sink is the only resolver on the network.
	Sink netip.AddrPort `json:"sink"`
	// Sink6 is the same resolver for pods that have no IPv4 address; zero where they have one.
	Sink6 netip.AddrPort `json:"sink6,omitzero"`
	// API is the port of the nodes' API server.
	API uint16 `json:"api"`
	// NamesLog is the path of the sink's log, which sink.ReadLog reads.
	NamesLog string `json:"namesLog"`
	// Dir is a folder for whoever seals, removed with the cluster.
	Dir string `json:"dir"`
	// Taken are the IPv4 ranges that this host used when the network was made. They are not recorded.
	Taken []netip.Prefix `json:"-"`
}

// podSink is where the cluster's resolver finds the sink: it is a pod.
func (s *Seal) podSink() netip.AddrPort {
	if s.Sink6.IsValid() {
		return s.Sink6
	}
	return s.Sink
}

// ErrCannotUnseal reports a sealed network where the caller gave nothing to open it with.
var ErrCannotUnseal = errors.New("the network is sealed and nothing was given to unseal it")

// sealedLabel is on networks that are sealed, so that whatever is left of a cluster tells that its seal has to be undone.
const sealedLabel = "gapproof.dev/sealed"

const (
	// sinkHost is the sink's address within the network, sinkPort that of DNS.
	sinkHost, sinkPort = 3, 53
	// apiPort is where kind has every node's API server listen (sigs.k8s.io/kind/pkg/cluster/internal/providers/common/constants.go).
	apiPort = 6443
	// resolvConf is where a container finds its resolver.
	resolvConf = "/etc/resolv.conf"
)

// SinkCommand are the arguments with which the executable is run in the sink's container. The command line's hidden command must accept
// them: it answers DNS on every address and makes the log once it listens.
func SinkCommand(nodes []string) []string {
	args := []string{"sink", "serve", "--listen", ":" + strconv.Itoa(sinkPort), "--log", "/log/" + namesLogName}
	for _, n := range nodes {
		args = append(args, "--node", n)
	}
	return args
}

// seal closes the network's only way out, before anything is attached to it.
func (u *up) seal(ctx context.Context) error {
	bridge, err := u.engine.bridge(ctx, u.cluster.Network)
	if err != nil {
		return err
	}
	taken, err := takenSubnets(ctx, u.engine)
	if err != nil {
		return err
	}
	s := &Seal{
		Bridge: bridge, Gateway: hostAddress(u.cluster.Subnet, 1), Sink: netip.AddrPortFrom(hostAddress(u.cluster.Subnet, sinkHost), sinkPort),
		API: apiPort, NamesLog: u.files.namesLog(), Dir: u.files.seal(), Taken: taken,
	}
	if hasIPv6(u.topology.Networking.IPFamily) {
		s.Subnet6 = subnet6(u.cluster.Subnet)
		s.Gateway6 = s.Subnet6.Addr().Next() // the engine takes the first address for itself
	}
	if u.topology.Networking.IPFamily == v1alpha4.IPv6Family {
		s.Sink6 = netip.AddrPortFrom(namedAddress6(s.Subnet6, sinkHost), sinkPort)
	}
	u.cluster.Seal = s
	if err := os.MkdirAll(s.Dir, dirMode); err != nil {
		return fmt.Errorf("making the seal's folder: %w", err)
	}
	if err := u.o.Close(ctx, u.cluster); err != nil {
		return err
	}
	return u.files.writeResolvers(len(u.topology.Nodes), s.Sink.Addr())
}

// bridge is the host's interface on a network, which the engine names by the network's identifier.
func (e engine) bridge(ctx context.Context, network string) (string, error) {
	id, err := e.docker(ctx, nil, "network", "inspect", "--format", "{{.Id}}", network)
	if err != nil {
		return "", fmt.Errorf("looking for the bridge of network %s: %w", network, err)
	}
	const kept = 12 // of the identifier's digits (docker's libnetwork, drivers/bridge)
	text := strings.TrimSpace(string(id))
	if len(text) < kept {
		return "", fmt.Errorf("looking for the bridge of network %s: docker printed %q, want an identifier", network, text)
	}
	return "br-" + text[:kept], nil
}

// nodeNames are the names that kind will give the nodes: the role, with a number from the second of a role on, and the balancer of several
// API servers (sigs.k8s.io/kind/pkg/cluster/internal/providers/common/namer.go).
func nodeNames(topology *v1alpha4.Cluster, name string) []string {
	var out []string
	count := map[v1alpha4.NodeRole]int{}
	for _, n := range topology.Nodes {
		count[n.Role]++
		suffix := ""
		if count[n.Role] > 1 {
			suffix = strconv.Itoa(count[n.Role])
		}
		out = append(out, objectName(name)+"-"+string(n.Role)+suffix)
	}
	if count[v1alpha4.ControlPlaneRole] > 1 {
		out = append(out, objectName(name)+"-external-load-balancer")
	}
	return out
}

// writeResolvers writes every node's resolv.conf. Each node has a file of its own and may write to it: kind's entrypoint does.
func (f files) writeResolvers(nodes int, sink netip.Addr) error {
	if err := os.MkdirAll(f.resolvers(), dirMode); err != nil {
		return fmt.Errorf("making the nodes' resolver configuration: %w", err)
	}
	for i := range nodes {
		// Readable by everybody in the node: it is no secret, and not all that resolve names are root.
		if err := os.WriteFile(f.resolver(i), []byte("nameserver "+sink.String()+"\n"), 0o644); err != nil {
			return fmt.Errorf("writing the nodes' resolver configuration: %w", err)
		}
	}
	return nil
}

// startSink runs the resolver's container and waits until it listens. The engine's resolver, which knows the nodes, passes names that it does
// not know on to the sink itself: to 127.0.0.1 in the sink's container.
func (e engine) startSink(ctx context.Context, name, image string, f files, s *Seal, nodes []string) error {
	if err := os.MkdirAll(filepath.Dir(f.namesLog()), dirMode); err != nil {
		return fmt.Errorf("making the sink's log folder: %w", err)
	}
	args := []string{"run", "--detach", "--pull", "never",
		"--name", sinkName(name), "--label", Label + "=" + name,
		"--network", objectName(name), "--ip", s.Sink.Addr().String(), "--dns", "127.0.0.1",
		"--user", fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()), "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only",
		"--sysctl", "net.ipv4.ip_unprivileged_port_start=" + strconv.Itoa(sinkPort),
		"--restart", "on-failure:1", // as the mirror
		"--mount", "type=bind,source=" + filepath.Dir(f.namesLog()) + ",target=/log",
	}
	if s.Sink6.IsValid() {
		args = append(args, "--ip6", s.Sink6.Addr().String())
	}
	if err := e.create(ctx, slices.Concat(args, []string{image}, SinkCommand(nodes))...); err != nil {
		return fmt.Errorf("starting the sink: %w", err)
	}
	// Asking it would need a way through the gate; its log is there once it listens.
	_, err := kube.Poll(ctx, "the sink on "+s.Sink.String(), mirrorInterval, mirrorLimit, func(ctx context.Context) (bool, string, error) {
		if _, err := os.Stat(f.namesLog()); err == nil {
			return true, "", nil
		}
		out, err := e.docker(ctx, nil, "container", "inspect", "--format", "{{.State.Status}}", sinkName(name))
		if err != nil {
			return false, "", fmt.Errorf("inspecting its container: %w", err)
		}
		if s := strings.TrimSpace(string(out)); s != "running" && s != "created" {
			return false, "", fmt.Errorf("its container is %s", s)
		}
		return false, "it does not listen yet", nil
	})
	if err != nil {
		return errors.Join(err, e.lastWords(ctx, sinkName(name)))
	}
	return nil
}

func sinkName(name string) string { return objectName(name) + "-sink" }

// closeResolver takes from the nodes the rules that lead to the engine's resolver, which asks the host's: a name would leave by it, past the
// gate. Nothing of a node needs it, as its resolv.conf names the sink from the start.
func (e engine) closeResolver(ctx context.Context, nodes []Node) error {
	for _, n := range nodes {
		for _, chain := range []string{"DOCKER_OUTPUT", "DOCKER_POSTROUTING"} {
			if _, err := e.docker(ctx, nil, "exec", n.Name, "iptables", "--wait", "-t", "nat", "-F", chain); err != nil {
				return fmt.Errorf("closing the engine's resolver on node %s: %w", n.Name, err)
			}
		}
	}
	return nil
}

// Processes are the numbers that this host gives the nodes' first processes, by the nodes' names.
func Processes(ctx context.Context, c *Cluster) (map[string]int, error) {
	return processes(ctx, newEngine(), c)
}

func processes(ctx context.Context, e engine, c *Cluster) (map[string]int, error) {
	out := map[string]int{}
	for _, n := range c.Nodes {
		text, err := e.docker(ctx, nil, "container", "inspect", "--format", "{{.State.Pid}}", n.Name)
		if err != nil {
			return nil, fmt.Errorf("looking for the process of node %s: %w", n.Name, err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid <= 0 {
			return nil, fmt.Errorf("looking for the process of node %s: docker printed %q, want its number: it may not be running", n.Name, text)
		}
		out[n.Name] = pid
	}
	return out, nil
}

// NodeImage is an image that a node has, with the digest its name stands for there. Namespace is the container runtime's.
type NodeImage struct{ Node, Reference, Digest, Namespace string }

// podNamespace is the container runtime's namespace that the kubelet's images are in. What is in another one can be run all the same.
const podNamespace = "k8s.io"

// NodeImages are all images that the nodes' container runtimes know, in whichever of their namespaces, in the order of the nodes.
func NodeImages(ctx context.Context, c *Cluster) ([]NodeImage, error) {
	return nodeImages(ctx, newEngine(), c)
}

func nodeImages(ctx context.Context, e engine, c *Cluster) ([]NodeImage, error) {
	var out []NodeImage
	for _, n := range c.Nodes {
		namespaces, err := e.lines(ctx, "exec", n.Name, "ctr", "namespaces", "list", "--quiet")
		if err != nil {
			return nil, fmt.Errorf("listing the container runtime's namespaces on node %s: %w", n.Name, err)
		}
		if !slices.Contains(namespaces, podNamespace) {
			return nil, fmt.Errorf("listing the container runtime's namespaces on node %s: it printed %q, which lack %s", n.Name, namespaces, podNamespace)
		}
		for _, namespace := range namespaces {
			images, err := e.namespaceImages(ctx, n.Name, namespace)
			if err != nil {
				return nil, fmt.Errorf("listing the images of node %s in namespace %s: %w", n.Name, namespace, err)
			}
			out = append(out, images...)
		}
	}
	return out, nil
}

func (e engine) namespaceImages(ctx context.Context, node, namespace string) ([]NodeImage, error) {
	lines, err := e.lines(ctx, "exec", node, "ctr", "--namespace", namespace, "images", "list")
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, errors.New("it printed no heading")
	}
	var out []NodeImage
	for _, line := range lines[1:] {
		f := strings.Fields(line) // reference, media type, digest, size, …
		if len(f) < 3 || !strings.HasPrefix(f[2], "sha256:") {
			return nil, fmt.Errorf("it printed %q, want a reference, a type and a digest", line)
		}
		out = append(out, NodeImage{Node: node, Reference: f[0], Digest: f[2], Namespace: namespace})
	}
	return out, nil
}
