package cluster_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/cni"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/mirror"
)

// The live tests wire the packages as the command does, on clusters of their own. They need an engine, a lab directory and a
// static gapproof: `make e2e` supplies all three.

func liveOptions(t *testing.T, name string) cluster.Options {
	t.Helper()
	if os.Getenv("GAPPROOF_LIVE") != "1" {
		t.Skip("brings up real clusters: run `make e2e`, or set GAPPROOF_LIVE=1, GAPPROOF_LAB and GAPPROOF_BIN")
	}
	dir, binary := os.Getenv("GAPPROOF_LAB"), os.Getenv("GAPPROOF_BIN")
	if dir == "" || binary == "" {
		t.Fatalf("GAPPROOF_LIVE is set, so GAPPROOF_LAB (%q) must name a lab directory and GAPPROOF_BIN (%q) a static gapproof", dir, binary)
	}
	lock, err := images.ReadLock(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := cluster.Options{
		Name: name, LabDir: dir, Lock: lock, StateDir: t.TempDir(), Executable: binary,
		Progress: func(step, detail string, took time.Duration) {
			t.Logf("%s: %s %v", step, detail, took.Round(time.Millisecond))
		},
	}
	o.Install = func(ctx context.Context, c *cluster.Cluster) error { return install(ctx, c, cni.Default, o) }
	t.Cleanup(func() { // whatever the test did; with a fresh context, as the test's has ended
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := cluster.Down(ctx, name, cluster.DownOptions{StateDir: o.StateDir}); err != nil {
			t.Errorf("taking the cluster down: %v", err)
		}
	})
	return o
}

func install(ctx context.Context, c *cluster.Cluster, profile string, o cluster.Options) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	p, err := cni.Find(profile)
	if err != nil {
		return err
	}
	return cni.Install(ctx, config, p, o.LabDir, o.Lock, cni.Options{PodSubnets: c.PodSubnets})
}

// docker runs a command and returns its output, trimmed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// nothingLeft fails for every container, network, mount or state file of the cluster that is left.
func nothingLeft(t *testing.T, o cluster.Options) {
	t.Helper()
	for _, list := range [][]string{
		{"container", "ls", "--all", "--filter", "name=gapproof-" + o.Name, "--format", "{{.Names}}"},
		{"network", "ls", "--filter", "name=gapproof-" + o.Name, "--format", "{{.Name}}"},
	} {
		if out := docker(t, list...); out != "" {
			t.Errorf("left in the engine: %s", out)
		}
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), o.StateDir) {
		t.Errorf("a mount of %s is left", o.StateDir)
	}
	if _, err := os.Stat(filepath.Join(o.StateDir, o.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state is left: %v", err)
	}
}

func TestLiveClusterFromUpToDown(t *testing.T) {
	o := liveOptions(t, "live")
	c, err := cluster.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if c.Origin != cluster.Made || len(c.Nodes) != 2 {
		t.Errorf("Up gave %+v, want a cluster it made with two nodes", c)
	}
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}

	t.Run("a second up finds it", func(t *testing.T) {
		o := o
		o.Install = func(context.Context, *cluster.Cluster) error { return errors.New("called for a cluster that is up") }
		start := time.Now()
		again, err := cluster.Up(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if again.Origin != cluster.Found || again.Kubeconfig != c.Kubeconfig || again.Mirror != c.Mirror {
			t.Errorf("the second Up gave %+v, want the first one's cluster, found", again)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the second Up took %v", took)
		}
	})

	t.Run("the CNI is told with the version of the lock", func(t *testing.T) {
		name, version, err := cni.Detect(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		locked, err := o.Lock.Find("docker.io/calico/node")
		if err != nil {
			t.Fatal(err)
		}
		if name != "Calico" || version != locked.Tag {
			t.Errorf("detected %s %s, want Calico %s", name, version, locked.Tag)
		}
	})

	t.Run("installing the CNI again changes nothing", func(t *testing.T) {
		generation := func() int64 {
			d, err := client.AppsV1().DaemonSets("kube-system").Get(t.Context(), "calico-node", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return d.Generation
		}
		before := generation()
		if err := install(t.Context(), c, cni.Default, o); err != nil {
			t.Fatal(err)
		}
		if after := generation(); after != before {
			t.Errorf("the DaemonSet went from generation %d to %d", before, after)
		}
	})

	t.Run("a pod network whose image nobody has is given up early", func(t *testing.T) { hopelessInstall(t, o, c) })

	t.Run("an image outside the lock is asked of the mirror and of nobody else", func(t *testing.T) { unlockedPull(t, o, c, client) })

	t.Run("down leaves nothing", func(t *testing.T) {
		var volumes []string
		for _, n := range c.Nodes {
			volumes = append(volumes, docker(t, "container", "inspect", "--format", `{{range .Mounts}}{{if eq .Type "volume"}}{{.Name}}{{end}}{{end}}`, n.Name))
		}
		removed, err := cluster.Down(t.Context(), o.Name, cluster.DownOptions{StateDir: o.StateDir})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"container gapproof-live-control-plane", "container gapproof-live-worker", "container gapproof-live-mirror", "network gapproof-live"} {
			if !slices.Contains(removed, want) {
				t.Errorf("Down did not say that it removed %s; it said %v", want, removed)
			}
		}
		for _, v := range volumes {
			if out, err := exec.CommandContext(t.Context(), "docker", "volume", "inspect", v).CombinedOutput(); err == nil {
				t.Errorf("a node's volume is left: %s", out)
			}
		}
		nothingLeft(t, o)
		if again, err := cluster.Down(t.Context(), o.Name, cluster.DownOptions{StateDir: o.StateDir}); err != nil || len(again) != 0 {
			t.Errorf("a second Down removed %v, %v; want nothing", again, err)
		}
	})
}

// unlockedPull has a node pull an image that is not in the lock and holds that the mirror's answer is the end of it: no frame
// leaves the cluster's network meanwhile.
func unlockedPull(t *testing.T, o cluster.Options, c *cluster.Cluster, client kubernetes.Interface) {
	t.Helper()
	const image = "docker.io/library/busybox:latest"
	tap := openTap(t, c)
	worker := c.Nodes[len(c.Nodes)-1]
	// The tap must see what leaves, or its silence proves nothing: one datagram from the node to this host on another network.
	outside := hostAddressOutside(t, c.Subnet)
	docker(t, "exec", worker.Name, "bash", "-c", fmt.Sprintf("echo probe > /dev/udp/%s/9", outside))
	tap.waitFor(t, outside)

	pod, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "unlocked"},
		Spec: corev1.PodSpec{NodeName: worker.Name, HostNetwork: true, Containers: []corev1.Container{{Name: "c", Image: image}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// ErrImagePull comes first; the back-off shows that the kubelet has given up on it.
	await(t, "the kubelet to give up on the image", func(ctx context.Context) (bool, string, error) {
		pod, err = client.CoreV1().Pods("default").Get(ctx, "unlocked", metav1.GetOptions{})
		if err != nil || len(pod.Status.ContainerStatuses) == 0 {
			return false, "", err
		}
		state := pod.Status.ContainerStatuses[0].State
		if state.Waiting == nil {
			return false, "", fmt.Errorf("the container is not waiting: %+v", state)
		}
		return state.Waiting.Reason == "ImagePullBackOff", state.Waiting.Reason + ": " + state.Waiting.Message, nil
	})
	for _, to := range tap.seen() {
		if to != outside {
			t.Errorf("a frame left the cluster's network for %s", to)
		}
	}
	f, err := os.Open(c.AccessLog)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	log, err := mirror.ReadAccessLog(f)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, a := range log {
		switch {
		case a.NS == "docker.io" && a.Repository == "library/busybox":
			asked++
			if a.Status != 404 || a.Digest != "" {
				t.Errorf("the mirror answered %+v, want 404", a)
			}
			if !strings.HasPrefix(a.Remote, worker.Address.String()+":") {
				t.Errorf("the mirror was asked by %s, want the worker %s", a.Remote, worker.Address)
			}
		case a.Status >= 400:
			t.Errorf("the mirror refused something else too: %+v", a)
		}
	}
	if asked == 0 {
		t.Error("the mirror was never asked for the image")
	}
}

// hopelessInstall installs a profile whose image is in a lock but not in the mirror's.
func hopelessInstall(t *testing.T, o cluster.Options, c *cluster.Cluster) {
	t.Helper()
	const manifest = `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: hopeless, namespace: default}, spec: {
		selector: {matchLabels: {app: hopeless}}, template: {metadata: {labels: {app: hopeless}}, spec: {
			tolerations: [{operator: Exists}], containers: [{name: agent, image: "gapproof.dev/hopeless:v1"}]}}}}`
	sum := sha256.Sum256([]byte(manifest))
	dir, file := t.TempDir(), images.File{Path: "hopeless.yaml", SHA256: hex.EncodeToString(sum[:])}
	if err := os.MkdirAll(filepath.Dir(images.FilePath(dir, file)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(images.FilePath(dir, file), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	lock := &images.Lock{Version: images.LockVersion, Files: []images.File{file}, Images: []images.Image{
		{Name: "gapproof.dev/hopeless", Tag: "v1", Digest: "sha256:" + strings.Repeat("0", 64)},
	}}
	profile := cni.Profile{Name: "hopeless", Manifest: file.Path, Ready: []cni.Target{{APIVersion: "apps/v1", Kind: "DaemonSet", Namespace: "default", Name: "hopeless"}}}
	config, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = cni.Install(t.Context(), config, profile, dir, lock, cni.Options{})
	var failed *cni.NotReadyError
	if !errors.As(err, &failed) || len(failed.Pods) == 0 || len(failed.Events) == 0 {
		t.Fatalf("Install: %v, want a *NotReadyError with pods and events", err)
	}
	t.Logf("given up after %v: %v\n%s", time.Since(start), err, failed.Details())
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v to give up", took)
	}
	if err := client.AppsV1().DaemonSets("default").Delete(t.Context(), "hopeless", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// What the mirror refused here must not count against the next subtest.
	if err := os.Truncate(c.AccessLog, 0); err != nil {
		t.Fatal(err)
	}
	await(t, "the pods to be gone", func(ctx context.Context) (bool, string, error) {
		list, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=hopeless"})
		return err == nil && len(list.Items) == 0, "", err
	})
}

// await polls a condition of the live cluster for at most a minute.
func await(t *testing.T, what string, condition func(context.Context) (bool, string, error)) {
	t.Helper()
	if _, err := kube.Poll(t.Context(), what, 250*time.Millisecond, time.Minute, condition); err != nil {
		t.Fatal(err)
	}
}

// tap sees what leaves a cluster's network through the host: frames that nodes send to the bridge itself.
type tap struct {
	fd     int
	subnet []netip.Prefix
	all    []netip.Addr
}

func openTap(t *testing.T, c *cluster.Cluster) *tap {
	t.Helper()
	id := docker(t, "network", "inspect", "--format", "{{.Id}}", c.Network)
	bridge, err := net.InterfaceByName("br-" + id[:12]) // docker's name for a bridge it was not told to name
	if err != nil {
		t.Fatal(err)
	}
	protocol := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_IP)) // network byte order, packet(7)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, int(protocol))
	if err != nil {
		t.Fatalf("opening a packet socket (the live tests run as root): %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: bridge.Index}); err != nil {
		t.Fatal(err)
	}
	return &tap{fd: fd, subnet: append([]netip.Prefix{c.Subnet}, c.PodSubnets...)}
}

// seen returns the destinations so far of packets that come from the cluster and go outside it. Multicast stays on the link.
func (p *tap) seen() []netip.Addr {
	inside := func(a netip.Addr) bool {
		return slices.ContainsFunc(p.subnet, func(s netip.Prefix) bool { return s.Contains(a) })
	}
	buffer := make([]byte, 64) // an IPv4 header and what follows; the rest is cut off
	for {
		n, _, err := unix.Recvfrom(p.fd, buffer, 0)
		if err != nil || n < 20 {
			return p.all
		}
		from, to := netip.AddrFrom4([4]byte(buffer[12:16])), netip.AddrFrom4([4]byte(buffer[16:20]))
		if inside(from) && !inside(to) && !to.IsMulticast() && to != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			p.all = append(p.all, to)
		}
	}
}

func (p *tap) waitFor(t *testing.T, to netip.Addr) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(5 * time.Second); !slices.Contains(p.seen(), to); {
		if time.Now().After(deadline) {
			t.Fatalf("the tap did not see the control datagram to %s", to)
		}
		if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
	}
}

// hostAddressOutside is an address of this host that is not on the cluster's network.
func hostAddressOutside(t *testing.T, subnet netip.Prefix) netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !subnet.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	t.Fatal("the host has no address outside the cluster's network")
	return netip.Addr{}
}

func TestLiveFailureLeavesLogsAndNothingElse(t *testing.T) {
	o := liveOptions(t, "live-fail")
	broken := errors.New("the pod network would not come")
	o.Install = func(context.Context, *cluster.Cluster) error { return broken }
	o.Topology = "no-worker"
	_, err := cluster.Up(t.Context(), o)
	var failed *cluster.StepError
	if !errors.Is(err, broken) || !errors.As(err, &failed) {
		t.Fatalf("Up: %v, want a *StepError with the installer's error", err)
	}
	nothingLeft(t, o)
	for file, want := range map[string]string{
		"gapproof-live-fail-control-plane/kubelet.log": "kubelet",
		"events.txt":                    "NodeReady\nStarting",
		"pods.txt":                      "kube-apiserver",
		"access.jsonl":                  "kube-apiserver",
		"gapproof-live-fail-mirror.log": "",
	} {
		raw, err := os.ReadFile(filepath.Join(failed.Logs, file))
		if err != nil {
			t.Errorf("collected logs: %v", err)
			continue
		}
		if !slices.ContainsFunc(strings.Split(want, "\n"), func(w string) bool { return strings.Contains(string(raw), w) }) {
			t.Errorf("%s does not hold %q:\n%.500s", file, want, raw)
		}
	}
}

func TestLiveCancelledUpLeavesNothing(t *testing.T) {
	o := liveOptions(t, "live-cancel")
	o.Topology = "no-worker"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := o.Progress
	o.Progress = func(step, detail string, took time.Duration) {
		told(step, detail, took)
		if strings.HasPrefix(detail, "Starting control-plane") {
			cancel()
		}
	}
	start := time.Now()
	if _, err := cluster.Up(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("Up: %v, want context.Canceled", err)
	}
	t.Logf("gave up and cleaned after %v", time.Since(start))
	nothingLeft(t, o)
}
