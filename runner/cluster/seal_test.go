package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	kindconfigs "github.com/gapproof/gapproof/kind-configs"
)

// gate remembers what was closed and opened, and after which of the engine's commands.
type gate struct {
	f              *fakeEngine
	closed, opened int // how many commands had been run; -1 for never
	seal           Seal
	refuse         error
}

func sealedOptions(t *testing.T, f *fakeEngine) (Options, *gate) {
	t.Helper()
	o, g := options(t), &gate{f: f, closed: -1, opened: -1}
	o.Executable = filepath.Join(t.TempDir(), "gapproof")
	if err := os.WriteFile(o.Executable, executable(t, 1), 0o700); err != nil {
		t.Fatal(err)
	}
	o.Close = func(_ context.Context, c *Cluster) error {
		g.closed, g.seal = g.ran(), *c.Seal
		return g.refuse
	}
	o.Unseal = g.open
	return o, g
}

func (g *gate) ran() int {
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	return len(g.f.commands)
}

func (g *gate) open(context.Context, string) error {
	g.opened = g.ran()
	return nil
}

// at is the place of the first command with this prefix.
func (f *fakeEngine) at(prefix string) int {
	return slices.IndexFunc(f.commands, func(c string) bool { return strings.HasPrefix(c, prefix) })
}

func TestANetworkIsClosedBeforeAnythingIsOnIt(t *testing.T) {
	f := newFake(t)
	f.sinkListens = true
	o, g := sealedOptions(t, f)
	o.Retain = RetainOnFailure
	u, err := walk(t, t.Context(), o, f) // the fake's mirror never answers, which is behind what is looked at here
	if err == nil {
		t.Fatal("the mirror of the fake has answered")
	}
	if create, run := f.at("network create"), f.at("run --detach"); g.closed <= create || run < g.closed {
		t.Errorf("closed after %d commands, with the network made by %d and the first container by %d", g.closed, create, run)
	}
	if want := "--label " + sealedLabel + "=true"; !strings.Contains(f.commands[f.at("network create")], want) {
		t.Errorf("the network lacks %q, and nobody will know that it has a seal to undo", want)
	}
	subnet := u.cluster.Subnet
	want := Seal{
		Bridge: "br-0123456789ab", Gateway: hostAddress(subnet, 1), Sink: netip.AddrPortFrom(hostAddress(subnet, 3), 53), API: 6443,
		NamesLog: u.files.namesLog(), Dir: u.files.seal(), Taken: g.seal.Taken,
	}
	if diff := cmp.Diff(want, g.seal, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
	lock, err := o.Lock.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(lock); u.cluster.LockSHA256 != hex.EncodeToString(sum[:]) {
		t.Errorf("the cluster is of lock %s, want the digest of lock.json %x", u.cluster.LockSHA256, sum)
	}
	if !overlaps(subnet, g.seal.Taken) {
		t.Errorf("the taken ranges %v lack the network's own %s", g.seal.Taken, subnet)
	}
	sink := f.commands[f.at("run --detach")]
	for _, want := range []string{"--name gapproof-a-sink", "--dns 127.0.0.1", "--ip " + g.seal.Sink.Addr().String(), "--node gapproof-a-control-plane --node gapproof-a-worker"} {
		if !strings.Contains(sink, want) {
			t.Errorf("the sink's command %q lacks %q", sink, want)
		}
	}
}

func TestPodsWithoutIPv4HaveTheirOwnWayToTheSink(t *testing.T) {
	for topology, six := range map[string]bool{"one-worker": false, "one-worker-dual-stack": false, "one-worker-ipv6": true} {
		t.Run(topology, func(t *testing.T) {
			f := newFake(t)
			f.sinkListens = true
			o, g := sealedOptions(t, f)
			o.Topology, o.Retain = topology, RetainOnFailure
			u, err := walk(t, t.Context(), o, f)
			if err == nil {
				t.Fatal("the mirror of the fake has answered")
			}
			sink := f.commands[f.at("run --detach")]
			if !six {
				if g.seal.podSink() != g.seal.Sink || strings.Contains(sink, "--ip6") {
					t.Errorf("pods ask %s, and the sink was started by %q, want %s alone", g.seal.podSink(), sink, g.seal.Sink)
				}
				return
			}
			if got := g.seal.podSink(); !subnet6(u.cluster.Subnet).Contains(got.Addr()) || got.Port() != sinkPort {
				t.Errorf("pods ask %s, want an address of %s", got, subnet6(u.cluster.Subnet))
			}
			if want := "--ip6 " + g.seal.Sink6.Addr().String() + " "; !strings.Contains(sink, want) {
				t.Errorf("the sink's command %q lacks %q", sink, want)
			}
		})
	}
}

func TestTheNodesAskTheSinkAlone(t *testing.T) {
	f := filesOf(t.TempDir(), "a")
	topology, err := kindconfigs.Load("two-workers")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.writeResolvers(len(topology.Nodes), netip.MustParseAddr("172.30.0.3")); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, n := range kindConfig(topology, f, &Seal{}).Nodes {
		mount := n.ExtraMounts[len(n.ExtraMounts)-1]
		if mount.ContainerPath != "/etc/resolv.conf" || mount.Readonly || seen[mount.HostPath] {
			t.Errorf("%s has the mount %+v, want a resolv.conf of its own that it may write", n.Role, mount)
		}
		seen[mount.HostPath] = true
		text, err := os.ReadFile(mount.HostPath)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("nameserver 172.30.0.3\n", string(text)); diff != "" {
			t.Errorf("resolv.conf (-want +got):\n%s", diff)
		}
	}
	want := []string{"gapproof-a-control-plane", "gapproof-a-worker", "gapproof-a-worker2"}
	if diff := cmp.Diff(want, nodeNames(topology, "a")); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestAFailedSealLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*fakeEngine, *gate)
		want  string
	}{
		"the gate cannot be closed": {func(_ *fakeEngine, g *gate) { g.refuse = errors.New("no such device") }, "no such device"},
		"the sink does not start":   {func(f *fakeEngine, _ *gate) { f.sinkListens = false }, "its container is exited"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.sinkListens = true
			o, g := sealedOptions(t, f)
			tc.spoil(f, g)
			_, err := walk(t, t.Context(), o, f)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if g.opened < 0 {
				t.Error("the seal was not undone")
			}
			for _, left := range f.names() {
				if !strings.HasPrefix(left, "image "+nodeRepository) {
					t.Errorf("left in the engine: %s", left)
				}
			}
		})
	}
}

func TestASealIsUndoneBetweenContainersAndNetwork(t *testing.T) {
	f := newFake(t)
	f.networks = []*fakeNetwork{{name: "gapproof-a", label: "a", sealed: "true"}}
	f.node("gapproof-a", "control-plane", "gapproof-a")
	g := &gate{f: f, opened: -1}
	removed, err := remove(t.Context(), f.engine(), "a", filesOf(t.TempDir(), "a"), g.open)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"container gapproof-a-control-plane", "seal of gapproof-a", "network gapproof-a"}
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if containers, network := f.at("container rm"), f.at("network rm"); g.opened <= containers || network < g.opened {
		t.Errorf("opened after %d commands, with the containers removed by %d and the network by %d", g.opened, containers, network)
	}
}

func TestANetworkWhoseSealStaysIsKept(t *testing.T) {
	refused := errors.New("operation not permitted")
	for name, tc := range map[string]struct {
		unseal Unseal
		spoil  func(*fakeEngine)
		want   error
	}{
		"nothing to undo it with": {nil, func(*fakeEngine) {}, ErrCannotUnseal},
		"it cannot be undone":     {func(context.Context, string) error { return refused }, func(*fakeEngine) {}, refused},
		"a container stays": {func(context.Context, string) error { return errors.New("opened with a node inside") },
			func(f *fakeEngine) { f.refuse["container rm"] = "Error: device busy" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.networks = []*fakeNetwork{{name: "gapproof-a", label: "a", sealed: "true"}}
			f.node("gapproof-a", "control-plane", "gapproof-a")
			tc.spoil(f)
			_, err := remove(t.Context(), f.engine(), "a", filesOf(t.TempDir(), "a"), tc.unseal)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || strings.Contains(err.Error(), "with a node inside") {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if len(f.networks) != 1 {
				t.Error("the network was removed, and nothing tells of the seal any more")
			}
		})
	}
}

func TestWhatANodeHasIsReadOrRefused(t *testing.T) {
	f := newFake(t)
	f.node("gapproof-a", "worker", "gapproof-a")
	f.execs = "gapproof-a-worker"
	c := &Cluster{Nodes: []Node{{Name: "gapproof-a-worker"}}}
	const heading = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n"
	const ofNamespaces, ofPods, ofOthers = "ctr namespaces list --quiet", "ctr --namespace k8s.io images list", "ctr --namespace others images list"
	const image = "a/b:1 application/vnd.oci.image.index.v1+json sha256:01 3.1 MiB linux/amd64 x=y\n"
	for name, tc := range map[string]struct {
		prints map[string]string
		want   []NodeImage
	}{
		"images": {map[string]string{ofNamespaces: "k8s.io\n", ofPods: heading + image}, []NodeImage{{"gapproof-a-worker", "a/b:1", "sha256:01", "k8s.io"}}},
		"none":   {map[string]string{ofNamespaces: "k8s.io\n", ofPods: heading}, nil},
		"images in every namespace": {map[string]string{ofNamespaces: "k8s.io\nothers\n", ofPods: heading + image, ofOthers: heading + image},
			[]NodeImage{{"gapproof-a-worker", "a/b:1", "sha256:01", "k8s.io"}, {"gapproof-a-worker", "a/b:1", "sha256:01", "others"}}},
	} {
		t.Run(name, func(t *testing.T) {
			f.prints = tc.prints
			got, err := nodeImages(t.Context(), f.engine(), c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for name, prints := range map[string]map[string]string{
		"no heading":                          {ofNamespaces: "k8s.io\n", ofPods: ""},
		"an image without a digest":           {ofNamespaces: "k8s.io\n", ofPods: heading + "a/b:1 - -\n"},
		"no namespace":                        {ofNamespaces: "", ofPods: heading},
		"none that pods' images can be in":    {ofNamespaces: "others\n", ofPods: heading, ofOthers: heading},
		"no list of one of the namespaces":    {ofNamespaces: "k8s.io\nothers\n", ofPods: heading},
		"no heading in one of the namespaces": {ofNamespaces: "k8s.io\nothers\n", ofPods: heading, ofOthers: ""},
	} {
		f.prints = prints
		if got, err := nodeImages(t.Context(), f.engine(), c); err == nil {
			t.Errorf("%s gave %v, want an error: no list is not an empty list", name, got)
		}
	}
	if got, err := processes(t.Context(), f.engine(), c); err != nil || got["gapproof-a-worker"] != 4711 {
		t.Errorf("processes: %v, %v; want 4711", got, err)
	}
	f.containers[0].state = "exited"
	if got, err := processes(t.Context(), f.engine(), c); err == nil {
		t.Errorf("processes of a node that does not run: %v, want an error", got)
	}
}
