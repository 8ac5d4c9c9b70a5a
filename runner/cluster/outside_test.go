package cluster

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gapproof/gapproof/images"
)

// beside records a cluster "dev" whose lab holds a probe image, and returns what a host beside it needs.
func beside(t *testing.T) OutsideOptions {
	t.Helper()
	lab, lock := newLab(t, "linux/amd64")
	lock.Images[0].Name = images.ProbeImage
	state := t.TempDir()
	f := filesOf(state, "dev")
	if err := os.MkdirAll(f.dir, dirMode); err != nil {
		t.Fatal(err)
	}
	r := &record{Version: recordVersion, Name: "dev", LabDir: lab, Platform: lock.Platform, Cluster: &Cluster{Name: "dev", Images: lock.Images}}
	if err := r.write(f.record()); err != nil {
		t.Fatal(err)
	}
	return OutsideOptions{
		Cluster: "dev", StateDir: state, Run: "r1", Name: "world", Identity: "outside:world", Listen: "TCP/80", Token: strings.Repeat("t", 32),
	}
}

func TestAnOutsideHostHasNoRightsAndLeavesNothing(t *testing.T) {
	o, f := beside(t), newFake(t)
	h, err := startOutside(t.Context(), o, f.engine())
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("172.30.0.130"), netip.MustParseAddr("fd67::82")}
	if diff := cmp.Diff(want, h.Addresses(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	run := f.commands[slices.IndexFunc(f.commands, func(c string) bool { return strings.HasPrefix(c, "run ") })]
	for _, part := range []string{
		"--name gapproof-dev-outside-r1-world", "--label gapproof.dev/cluster=dev", "--label gapproof.dev/run=r1", "--network gapproof-dev",
		"--cap-drop ALL", "--security-opt no-new-privileges", "--read-only", "--pull never", "--identity=outside:world --listen=TCP/80",
	} {
		if !strings.Contains(run, part) {
			t.Errorf("%q lacks %q", run, part)
		}
	}
	for _, c := range f.commands {
		if strings.Contains(c, o.Token) {
			t.Errorf("%q shows the token to everybody who can list processes", c)
		}
	}
	conn, err := h.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The fake answers when its input has ended, which a pipe can only say by closing: so here both ends just end.
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a closed stream: %v, want %v", err, io.ErrClosedPipe)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range f.names() {
		if strings.HasPrefix(n, "container ") {
			t.Errorf("%s stayed", n)
		}
	}
	if _, err := os.Stat(h.folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its token stayed: %v", err)
	}
}

func TestAnOutsideHostHasTheFamiliesOfThePods(t *testing.T) {
	const four, six = "172.30.0.130", "fd67::82"
	for name, tc := range map[string]struct{ pods, want []string }{
		"IPv4 alone":    {[]string{"10.244.0.0/16"}, []string{four}},
		"IPv6 alone":    {[]string{"fd00:10:244::/56"}, []string{six}},
		"both families": {[]string{"10.244.0.0/16", "fd00:10:244::/56"}, []string{four, six}},
	} {
		t.Run(name, func(t *testing.T) {
			o, f := beside(t), newFake(t)
			path := filesOf(o.StateDir, "dev").record()
			r, err := readRecord(path)
			if err != nil {
				t.Fatal(err)
			}
			r.Cluster.PodSubnets = prefixes(tc.pods...)
			if err := r.write(path); err != nil {
				t.Fatal(err)
			}
			h, err := startOutside(t.Context(), o, f.engine())
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close(t.Context())
			var got []string
			for _, a := range h.Addresses() {
				got = append(got, a.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnOutsideHostGetsItsRoutesFromAnotherContainer(t *testing.T) {
	o, f := beside(t), newFake(t)
	// The lab's one image stands for the node's as well.
	r, err := readRecord(filesOf(o.StateDir, "dev").record())
	if err != nil {
		t.Fatal(err)
	}
	node := r.Cluster.Images[0]
	node.Name = images.NodeImage
	r.Cluster.Images = append(r.Cluster.Images, node)
	if err := r.write(filesOf(o.StateDir, "dev").record()); err != nil {
		t.Fatal(err)
	}
	h, err := startOutside(t.Context(), o, f.engine())
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddr
	if err := h.Route(t.Context(), nil); err != nil || strings.Contains(strings.Join(f.commands, "\n"), "run --rm") {
		t.Errorf("no routes: %v after %v, want nothing done", err, f.commands)
	}
	err = h.Route(t.Context(), map[netip.Addr]netip.Addr{
		address("fd00:10:244::7"): address("fd67::3"), address("10.244.1.9"): address("172.30.0.4"), address("10.244.1.5"): address("172.30.0.3"),
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "route replace 10.244.1.5/32 via 172.30.0.3\nroute replace 10.244.1.9/32 via 172.30.0.4\nroute replace fd00:10:244::7/128 via fd67::3\n"
	if diff := cmp.Diff(want, f.batch.String()); diff != "" {
		t.Errorf("what ip was told (-want +got):\n%s", diff)
	}
	run := f.commands[slices.IndexFunc(f.commands, func(c string) bool { return strings.HasPrefix(c, "run --rm") })]
	for _, part := range []string{
		"--network container:gapproof-dev-outside-r1-world", "--cap-drop ALL --cap-add NET_ADMIN", "--pull never", "--label gapproof.dev/run=r1",
		"--name gapproof-dev-outside-r1-world-routes", nodeRepository + ":", "--entrypoint ip",
	} {
		if !strings.Contains(run, part) {
			t.Errorf("%q lacks %q", run, part)
		}
	}
	f.refuse["run --rm"] = "Nexthop has invalid gateway."
	if err := h.Route(t.Context(), map[netip.Addr]netip.Addr{address("10.244.1.5"): address("192.0.2.1")}); err == nil || !strings.Contains(err.Error(), "invalid gateway") {
		t.Errorf("a route that cannot be: %v, want the engine's words", err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// besideNodes is a cluster with two nodes that run and one that does not, and IPv4 alone for pods.
func besideNodes(t *testing.T) (OutsideOptions, *fakeEngine) {
	t.Helper()
	o, f := beside(t), newFake(t)
	path := filesOf(o.StateDir, "dev").record()
	r, err := readRecord(path)
	if err != nil {
		t.Fatal(err)
	}
	node := r.Cluster.Images[0]
	node.Name = images.NodeImage
	r.Cluster.Images = append(r.Cluster.Images, node)
	r.Cluster.PodSubnets, r.Cluster.Subnet = prefixes("10.244.0.0/16"), prefixes("172.30.0.0/24")[0]
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	f.networks = []*fakeNetwork{{name: objectName("dev"), label: "dev"}}
	for _, role := range []string{"control-plane", "worker", "worker2"} {
		f.node(objectName("dev"), role, objectName("dev"))
	}
	f.containers[2].state = "exited"
	return o, f
}

func TestNodesLeadToWhatAnOutsideHostStandsFor(t *testing.T) {
	o, f := besideNodes(t)
	o.Addresses = []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("fd00:ec2::254")}
	told := func(want string) {
		t.Helper()
		if diff := cmp.Diff(want, f.batch.String()); diff != "" {
			t.Errorf("what ip was told (-want +got):\n%s", diff)
		}
		f.batch.Reset()
	}
	const route = "169.254.169.254/32 via 172.30.0.130 proto 203\n"
	const add = "gapproof-dev-control-plane: route add " + route + "gapproof-dev-worker: route add " + route
	const del = "gapproof-dev-control-plane: route del " + route + "gapproof-dev-worker: route del " + route
	h, err := startOutside(t.Context(), o, f.engine())
	if err != nil {
		t.Fatal(err)
	}
	told(add)
	if diff := cmp.Diff(o.Addresses[:1], h.Addresses(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
	if err := h.Route(t.Context(), map[netip.Addr]netip.Addr{netip.MustParseAddr("10.244.1.5"): netip.MustParseAddr("172.30.0.3")}); err != nil {
		t.Fatal(err)
	}
	told("address replace 169.254.169.254/32 dev eth0\nroute replace 10.244.1.5/32 via 172.30.0.3\n")

	// A killed run's routes are found by the label; those that went before are no fault, and others are.
	f.refuse["exec --interactive gapproof-dev-worker ip -force"] = "RTNETLINK answers: No such process\nCommand failed -:1"
	if _, err := cleanOutside(t.Context(), filesOf(o.StateDir, "dev"), "dev", "r1", f.engine()); err != nil {
		t.Fatal(err)
	}
	told("gapproof-dev-control-plane: route del " + route)
	if h, err = startOutside(t.Context(), o, f.engine()); err != nil {
		t.Fatal(err)
	}
	f.refuse["exec --interactive gapproof-dev-worker ip -force"] = "RTNETLINK answers: Operation not permitted\nCommand failed -:1"
	if err := h.Close(t.Context()); err == nil || !strings.Contains(err.Error(), "not permitted") {
		t.Errorf("a route that stays: want ip's words, got %v", err)
	}
	clear(f.refuse)
	f.batch.Reset()
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	told(del)

	// What another run stands for is not taken from it.
	f.refuse["exec --interactive gapproof-dev-worker ip -batch"] = "RTNETLINK answers: File exists\nCommand failed -:1"
	if _, err := startOutside(t.Context(), o, f.engine()); !errors.Is(err, ErrAddressTaken) || !strings.Contains(err.Error(), "gapproof clean") {
		t.Errorf("want ErrAddressTaken, got %v", err)
	}
	if len(f.containers) != 3 {
		t.Errorf("%v stayed", f.names())
	}
	for _, taken := range []string{"10.244.3.4", "172.30.0.9"} {
		o.Addresses = []netip.Addr{netip.MustParseAddr(taken)}
		if _, err := startOutside(t.Context(), o, f.engine()); !errors.Is(err, ErrAddressTaken) {
			t.Errorf("%s: want ErrAddressTaken, got %v", taken, err)
		}
	}
}

func TestAnOutsideHostThatCannotStartLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*OutsideOptions, *fakeEngine)
		want  error
	}{
		"the cluster is not up":         {func(o *OutsideOptions, _ *fakeEngine) { o.Cluster = "other" }, ErrNotUp},
		"the engine refuses to run it":  {func(_ *OutsideOptions, f *fakeEngine) { f.refuse["run --detach"] = "no space left on device" }, nil},
		"its container cannot be asked": {func(_ *OutsideOptions, f *fakeEngine) { f.refuse["container inspect"] = "the engine is ill" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o, f := beside(t), newFake(t)
			tc.spoil(&o, f)
			_, err := startOutside(t.Context(), o, f.engine())
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Errorf("want an error that matches %v, got %v", tc.want, err)
			}
			if len(f.containers) > 0 {
				t.Errorf("%v stayed", f.names())
			}
			if _, err := os.Stat(filesOf(o.StateDir, "dev").outside(o.Run, o.Name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("its token stayed: %v", err)
			}
		})
	}
}

func TestCleanTakesTheHostsOfOneRunAndDownTakesAll(t *testing.T) {
	o, f := beside(t), newFake(t)
	f.networks = []*fakeNetwork{{name: objectName("dev"), label: "dev"}}
	for _, run := range []string{"r1", "r2"} {
		o.Run = run
		if _, err := startOutside(t.Context(), o, f.engine()); err != nil {
			t.Fatal(err)
		}
	}
	own, _, err := f.engine().find(t.Context(), "dev")
	if err != nil || len(own.outside) != 2 || len(own.helpers) != 0 {
		t.Fatalf("found %d outside hosts and %d helpers, %v; want 2 and 0", len(own.outside), len(own.helpers), err)
	}
	removed, err := cleanOutside(t.Context(), filesOf(o.StateDir, "dev"), "dev", "r1", f.engine())
	if diff := cmp.Diff([]string{"container gapproof-dev-outside-r1-world"}, removed); err != nil || diff != "" {
		t.Errorf("clean: %v (-want +got):\n%s", err, diff)
	}
	if _, err := remove(t.Context(), f.engine(), "dev", filesOf(o.StateDir, "dev"), nil); err != nil {
		t.Fatal(err)
	}
	if len(f.containers) > 0 {
		t.Errorf("after down: %v", f.names())
	}
}
