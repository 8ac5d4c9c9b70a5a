package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gapproof/gapproof/images"
	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	kindlog "sigs.k8s.io/kind/pkg/log"
)

func newSource(n int64) rand.Source { return rand.NewSource(n) }

// closedPort is an address at which nobody listens.
func closedPort(t testing.TB) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String())
}

// serve answers every request with the value as JSON and returns the address.
func serve(t testing.TB, value any) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(value); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String())
}

func node(name string, ready corev1.ConditionStatus) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, Reason: "KubeletNotReady", Message: "no CNI"}}
	}
	return n
}

// options are those of a cluster "a" whose lab and state are in temporary folders.
func options(t testing.TB) Options {
	t.Helper()
	dir, lock := newLab(t, "linux/amd64")
	return Options{Name: "a", LabDir: dir, Lock: lock, StateDir: t.TempDir(), Executable: "/nonexistent",
		Install: func(context.Context, *Cluster) error { return nil }}
}

// complete records a cluster with one node as if Up had made it, with servers that answer for its mirror and API server.
func complete(t testing.TB, o Options, f *fakeEngine, nodes ...corev1.Node) {
	t.Helper()
	state := filesOf(o.StateDir, o.Name)
	if err := os.MkdirAll(state.dir, dirMode); err != nil {
		t.Fatal(err)
	}
	api := serve(t, corev1.NodeList{TypeMeta: metav1.TypeMeta{Kind: "NodeList", APIVersion: "v1"}, Items: nodes})
	config := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: "http://" + api.String()}},
		Contexts:       map[string]*clientcmdapi.Context{"c": {Cluster: "c"}},
		CurrentContext: "c",
	}
	if err := clientcmd.WriteToFile(config, state.kubeconfig()); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDigest(o.Lock)
	if err != nil {
		t.Fatal(err)
	}
	r := &record{Version: recordVersion, Name: o.Name, Topology: kindconfigs.Default, Lock: lock, PodNetwork: true, Created: fakeStart.Add(time.Minute), Cluster: &Cluster{
		Name: o.Name, Kubeconfig: state.kubeconfig(), Mirror: serve(t, struct{}{}), Nodes: []Node{{Name: "gapproof-a-control-plane"}},
	}}
	if err := r.write(state.record()); err != nil {
		t.Fatal(err)
	}
	f.networks = []*fakeNetwork{{name: "gapproof-a", label: "a"}}
	f.node("gapproof-a", "control-plane", "gapproof-a")
	f.containers = append(f.containers, &fakeContainer{id: "m", name: "gapproof-a-mirror", state: "running", labels: map[string]string{Label: "a"}})
}

// walk runs Up's steps against a fake engine.
func walk(t testing.TB, ctx context.Context, o Options, f *fakeEngine) (*up, error) {
	t.Helper()
	u, err := newUp(o, f.engine())
	if err != nil {
		t.Fatal(err)
	}
	return u, u.walk(ctx)
}

func TestUpFindsAHealthyClusterAndChangesNothing(t *testing.T) {
	f, o := newFake(t), options(t)
	complete(t, o, f, node("gapproof-a-control-plane", corev1.ConditionTrue))
	before := f.names()
	var told []string
	o.Progress = func(step, detail string, _ time.Duration) { told = append(told, step+": "+detail) }
	u, err := walk(t, t.Context(), o, f)
	if err != nil {
		t.Fatal(err)
	}
	if u.cluster.Origin != Found || u.cluster.Name != "a" {
		t.Errorf("got %+v, want the recorded cluster, found", u.cluster)
	}
	if diff := cmp.Diff(before, f.names()); diff != "" {
		t.Errorf("the engine was changed (-want +got):\n%s", diff)
	}
	if last := told[len(told)-1]; last != "leftovers removed: the cluster is up already" {
		t.Errorf("the last thing told was %q", last)
	}
}

func TestUpRemakesWhatIsNotHealthy(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(*fakeEngine, files)
		node  corev1.Node
		want  string
	}{
		"a node that is not Ready":           {func(*fakeEngine, files) {}, node("gapproof-a-control-plane", corev1.ConditionFalse), "is not Ready: KubeletNotReady: no CNI"},
		"a node that has not come":           {func(*fakeEngine, files) {}, node("other", corev1.ConditionTrue), "has not registered"},
		"a stopped container":                {func(f *fakeEngine, _ files) { f.containers[0].state = "exited" }, node("x", ""), "is exited"},
		"a container that was started again": {func(f *fakeEngine, _ files) { f.containers[0].started = fakeStart.Add(time.Hour) }, node("x", ""), "was started again at 2026-01-02T04:04:05Z"},
		"a mirror that is gone":              {func(f *fakeEngine, _ files) { f.containers = f.containers[:1] }, node("x", ""), "the mirror's container is gone"},
		"node containers that are not":       {func(f *fakeEngine, _ files) { f.containers = f.containers[1:] }, node("x", ""), "0 of 1 node containers"},
		"no record":                          {func(_ *fakeEngine, s files) { _ = os.Remove(s.record()) }, node("x", ""), "half-made"},
		"a record that is cut off":           {func(_ *fakeEngine, s files) { _ = os.WriteFile(s.record(), []byte(`{"ver`), fileMode) }, node("x", ""), "half-made"},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := newFake(t), options(t)
			complete(t, o, f, tc.node)
			state := filesOf(o.StateDir, o.Name)
			tc.spoil(f, state)
			u, err := newUp(o, f.engine())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.checkLab(t.Context()); err != nil {
				t.Fatal(err)
			}
			detail, err := u.findOrClear(t.Context())
			if err != nil || !strings.HasPrefix(detail, "removed ") || !strings.Contains(detail, tc.want) {
				t.Errorf("got %q, %v; want it removed because %q", detail, err, tc.want)
			}
			if left := f.names(); len(left) != 0 {
				t.Errorf("left in the engine: %v", left)
			}
			if _, err := os.Stat(state.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the state is left: %v", err)
			}
		})
	}
}

func TestUpRefusesANameInUse(t *testing.T) {
	for name, tc := range map[string]func(*fakeEngine, *Options){
		"by somebody else's cluster": func(f *fakeEngine, _ *Options) {
			f.networks, f.containers = nil, nil
			f.node("gapproof-a", "control-plane", "kind")
		},
		"by one of another topology":   func(_ *fakeEngine, o *Options) { o.Topology = "two-workers" },
		"by one without a pod network": func(_ *fakeEngine, o *Options) { o.Install = nil },
		"by one that is not sealed": func(_ *fakeEngine, o *Options) {
			o.Close, o.Unseal = func(context.Context, *Cluster) error { return nil }, func(context.Context, string) error { return nil }
		},
		"by one of another lab": func(_ *fakeEngine, o *Options) { o.Lock.Images[0].Tag = "v1.37.3" },
	} {
		t.Run(name, func(t *testing.T) {
			f, o := newFake(t), options(t)
			complete(t, o, f, node("gapproof-a-control-plane", corev1.ConditionTrue))
			tc(f, &o)
			before := f.names()
			_, err := walk(t, t.Context(), o, f)
			if !errors.Is(err, ErrClusterExists) {
				t.Fatalf("got %v, want ErrClusterExists", err)
			}
			var failed *StepError
			if !errors.As(err, &failed) || failed.Step != "leftovers removed" {
				t.Errorf("got %v, want a *StepError of that step", err)
			}
			if diff := cmp.Diff(before, f.names()); diff != "" {
				t.Errorf("the engine was changed (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAFailedUpLeavesNothingButLogs(t *testing.T) {
	f, o := newFake(t), options(t) // the executable does not exist, so the mirror cannot be made
	_, err := walk(t, t.Context(), o, f)
	var failed *StepError
	if !errors.As(err, &failed) || !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v, want a *StepError about the executable", err)
	}
	for _, left := range f.names() {
		if !strings.HasPrefix(left, "image "+nodeRepository) { // kept on purpose, for the next Up
			t.Errorf("left in the engine: %s", left)
		}
	}
	if _, err := os.Stat(filesOf(o.StateDir, "a").dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state is left: %v", err)
	}
	if info, err := os.Stat(failed.Logs); err != nil || !info.IsDir() {
		t.Errorf("the logs are not at %q: %v", failed.Logs, err)
	}
}

func TestAFailedUpIsRetainedWhenAsked(t *testing.T) {
	f, o := newFake(t), options(t)
	o.Retain = RetainOnFailure
	if _, err := walk(t, t.Context(), o, f); err == nil {
		t.Fatal("no error")
	}
	if got := strings.Join(f.names(), " "); !strings.Contains(got, "network gapproof-a") {
		t.Errorf("left: %s; want the network kept", got)
	}
}

func TestACancelledUpLeavesNothing(t *testing.T) {
	f, o := newFake(t), options(t)
	o.Executable = filepath.Join(t.TempDir(), "gapproof")
	if err := os.WriteFile(o.Executable, executable(t, 1), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.before = func(line string) {
		if strings.HasPrefix(line, "run --detach") {
			cancel()
		}
	}
	_, err := walk(t, ctx, o, f)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	for _, left := range f.names() {
		if !strings.HasPrefix(left, "image "+nodeRepository) {
			t.Errorf("left in the engine: %s", left)
		}
	}
	if entries, err := os.ReadDir(o.StateDir); err != nil || len(entries) != 0 {
		t.Errorf("left in the state: %v, %v", entries, err)
	}
}

func TestOptionsAreRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Options)
		is     error
	}{
		"an upper-case name":         {func(o *Options) { o.Name = "Dev" }, ErrName},
		"a name with a slash":        {func(o *Options) { o.Name = "../x" }, ErrName},
		"a name ending in dash":      {func(o *Options) { o.Name = "a-" }, ErrName},
		"too long a name":            {func(o *Options) { o.Name = strings.Repeat("a", 31) }, ErrName},
		"a seal without its undoing": {func(o *Options) { o.Close = func(context.Context, *Cluster) error { return nil } }, nil},
		"no lock":                    {func(o *Options) { o.Lock = nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			tc.change(&o)
			if _, err := Up(t.Context(), o); err == nil || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Errorf("Up: %v, want %v", err, tc.is)
			}
			if entries, _ := os.ReadDir(o.StateDir); len(entries) != 0 {
				t.Errorf("state was made: %v", entries)
			}
		})
	}
	o := options(t)
	o.Topology = "seven"
	if _, err := walk(t, t.Context(), o, newFake(t)); !errors.Is(err, kindconfigs.ErrUnknown) {
		t.Errorf("an unknown topology: %v, want kindconfigs.ErrUnknown", err)
	}
}

func TestListTellsCompleteAndHalfMade(t *testing.T) {
	f, o := newFake(t), options(t)
	complete(t, o, f)
	f.networks = append(f.networks, &fakeNetwork{name: "gapproof-b", label: "b"}, &fakeNetwork{name: "bridge"})
	got, err := list(t.Context(), f.engine(), o.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Name != "a" || got[0].Cluster == nil || got[0].Containers != 2 || got[1].Name != "b" || got[1].Cluster != nil {
		t.Errorf("got %+v, want a complete with 2 containers and b half-made", got)
	}
}

func TestTheNodesAreSentToTheMirrorAlone(t *testing.T) {
	state := filesOf(t.TempDir(), "a")
	if err := state.writeHosts(netip.MustParseAddrPort("172.30.0.2:5000")); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(state.certs(), "_default", "hosts.toml"))
	if err != nil {
		t.Fatal(err)
	}
	want := "server = \"http://172.30.0.2:5000\"\ncapabilities = [\"pull\", \"resolve\"]\n"
	if diff := cmp.Diff(want, string(raw)); diff != "" {
		t.Errorf("hosts.toml (-want +got):\n%s", diff)
	}
	topology, err := kindconfigs.Load(kindconfigs.Default)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range kindConfig(topology, state, nil).Nodes {
		if len(n.ExtraMounts) != 1 || n.ExtraMounts[0].HostPath != state.certs() || !n.ExtraMounts[0].Readonly {
			t.Errorf("%s has the mounts %+v, want certs.d read-only", n.Role, n.ExtraMounts)
		}
	}
	if len(topology.Nodes[0].ExtraMounts) != 0 {
		t.Error("the topology itself was changed")
	}
}

func TestOneAtATimeWithOneState(t *testing.T) {
	dir := t.TempDir()
	release, err := lockState(t.Context(), dir, func() { t.Error("the first had to wait") })
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	second := make(chan error, 1)
	go func() {
		again, err := lockState(t.Context(), dir, func() { close(waiting) })
		if err == nil {
			err = again()
		}
		second <- err
	}()
	<-waiting
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	release, err = lockState(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = release() }()
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := lockState(ctx, dir, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled while waiting: %v, want context.Canceled", err)
	}
}

func TestDefaultStateDirFollowsXDG(t *testing.T) {
	t.Setenv("HOME", "/home/somebody")
	for value, want := range map[string]string{
		"":           "/home/somebody/.local/state/gapproof/clusters",
		"relative":   "/home/somebody/.local/state/gapproof/clusters",
		"/var/state": "/var/state/gapproof/clusters",
	} {
		t.Setenv("XDG_STATE_HOME", value)
		if got, err := DefaultStateDir(); err != nil || got != want {
			t.Errorf("XDG_STATE_HOME=%q: got %q, %v; want %q", value, got, err, want)
		}
	}
}

func TestTheEnvironmentIsPutBack(t *testing.T) {
	t.Setenv("GAPPROOF_TEST_SET", "before")
	t.Setenv("GAPPROOF_TEST_UNSET", "x")
	if err := os.Unsetenv("GAPPROOF_TEST_UNSET"); err != nil {
		t.Fatal(err)
	}
	restore, err := setEnvironment(map[string]string{"GAPPROOF_TEST_SET": "", "GAPPROOF_TEST_UNSET": "during"})
	if err != nil {
		t.Fatal(err)
	}
	if _, set := os.LookupEnv("GAPPROOF_TEST_SET"); set || os.Getenv("GAPPROOF_TEST_UNSET") != "during" {
		t.Error("the environment was not set")
	}
	restore()
	if _, set := os.LookupEnv("GAPPROOF_TEST_UNSET"); set || os.Getenv("GAPPROOF_TEST_SET") != "before" {
		t.Error("the environment was not put back")
	}
	if _, err := setEnvironment(map[string]string{"": "x"}); err == nil {
		t.Error("an impossible variable was set")
	}
}

func TestKindsStatusLinesBecomeProgress(t *testing.T) {
	var told []string
	l := kindLogger{log: slog.New(slog.DiscardHandler), notice: func(s string) { told = append(told, s) }}
	l.V(0).Infof(" • %s  ...\n", "Preparing nodes 📦 📦 ")
	l.V(0).Infof(" • %s  ...\n", "Writing configuration 📜")
	l.V(0).Info(" ✓ Writing configuration 📜")
	l.V(2).Info(" • too fine ...")
	l.Warn("cgroup v1")
	if diff := cmp.Diff([]string{"Preparing nodes", "Writing configuration"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	var _ kindlog.Logger = l
}

func TestFindingAClusterThatIsNotUpSaysSo(t *testing.T) {
	if _, err := Find(t.TempDir(), "none"); !errors.Is(err, ErrNotUp) {
		t.Errorf("no state: error %v, want ErrNotUp", err)
	}
	if _, err := Find(t.TempDir(), "No Name"); !errors.Is(err, ErrName) {
		t.Errorf("no name: error %v, want ErrName", err)
	}
	dir := t.TempDir()
	f := filesOf(dir, "made")
	if err := os.MkdirAll(f.dir, dirMode); err != nil {
		t.Fatal(err)
	}
	r := &record{Version: recordVersion, Cluster: &Cluster{Name: "made", Images: []images.Image{{Name: images.ProbeImage}}}}
	if err := r.write(f.record()); err != nil {
		t.Fatal(err)
	}
	got, err := Find(dir, "made")
	if err != nil || got.Images[0].Name != images.ProbeImage {
		t.Errorf("found %+v, %v; want the images it was made with", got, err)
	}
}
