package witness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/dial"
	"github.com/gapproof/gapproof/probes/listen"
)

// podVariable makes the test binary a pod of the lab: its value is the identity of the listeners.
const podVariable = "GAPPROOF_WITNESS_POD"

// The lab's limits: what the kernel sees is there within milliseconds; the rest is for a busy machine. An attempt's deadline stays
// below the second after which TCP sends its SYN again.
const (
	labPatience = 10 * time.Second
	labInterval = 2 * time.Millisecond
	labDeadline = 250 * time.Millisecond
)

// The main thread stays the main goroutine's: /proc/PID/ns/net is its namespace. A goroutine that goes to another namespace takes its thread along
// when it ends, but never the main one, which would be left there.
func init() { runtime.LockOSThread() }

func TestMain(m *testing.M) {
	if identity := os.Getenv(podVariable); identity != "" {
		if err := servePod(context.Background(), identity, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// servePod makes batches of attempts until the input ends: a line of JSON each way. The first line out says that it is there.
func servePod(ctx context.Context, identity string, in io.Reader, out io.Writer) error {
	dialer, err := dial.New(dial.Options{FirstPort: 1024, LastPort: 65000})
	if err != nil {
		return err
	}
	group, err := listen.Start(ctx, identity, []listen.Spec{{Protocol: probes.TCP, Port: 80}, {Protocol: probes.UDP, Port: 80}}, listen.Options{})
	if err != nil {
		return err
	}
	defer group.Close()
	decoder, encoder := json.NewDecoder(in), json.NewEncoder(out)
	outcomes := []probes.Outcome{}
	for {
		if err := encoder.Encode(outcomes); err != nil {
			return err
		}
		var batch []probes.Attempt
		if err := decoder.Decode(&batch); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		outcomes = make([]probes.Outcome, len(batch))
		var wg sync.WaitGroup
		for i, a := range batch {
			wg.Go(func() { outcomes[i] = dialer.Do(ctx, a) })
		}
		wg.Wait()
	}
}

// node is one network namespace of the lab, with a process of its own in it.
type node struct {
	name    string
	pid     int
	netns   uint64
	encoder *json.Encoder
	decoder *json.Decoder
}

// self is the namespace that the test itself runs in.
func self() *node { return &node{name: "self", pid: os.Getpid()} }

// startNode runs this test binary as a pod in a new network namespace.
func startNode(t testing.TB, name string) *node {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(binary)
	command.Env = append(os.Environ(), podVariable+"="+name)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("starting %s in a network namespace of its own: %v", name, err)
	}
	n := &node{name: name, pid: command.Process.Pid, encoder: json.NewEncoder(in), decoder: json.NewDecoder(out)}
	t.Cleanup(func() {
		in.Close() // ends the process
		if err := command.Wait(); err != nil {
			t.Errorf("ending %s: %v", name, err)
		}
	})
	var ready []probes.Outcome
	if err := n.decoder.Decode(&ready); err != nil {
		t.Fatalf("waiting for %s: %v", name, err)
	}
	if n.netns, err = inode(n.path()); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) path() string { return fmt.Sprintf("/proc/%d/ns/net", n.pid) }

// sh runs the script inside the namespace.
func (n *node) sh(t testing.TB, script string) {
	t.Helper()
	command := exec.Command("nsenter", "--net="+n.path(), "sh", "-euc", script)
	command.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("in %s: %s: %v: %s", n.name, script, err, strings.TrimSpace(string(out)))
	}
}

// inside calls do on a thread in the namespace, which ends with it.
func (n *node) inside(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := enter(n.path(), n.netns)
		if err == nil {
			err = do()
		}
		done <- err
	}()
	return <-done
}

// try makes the attempts, all at once.
func (n *node) try(t testing.TB, attempts []probes.Attempt) []probes.Outcome {
	t.Helper()
	if err := n.encoder.Encode(attempts); err != nil {
		t.Fatal(err)
	}
	var outcomes []probes.Outcome
	if err := n.decoder.Decode(&outcomes); err != nil {
		t.Fatalf("reading outcomes of %s: %v", n.name, err)
	}
	return outcomes
}

// noDAD spares a namespace's IPv6 addresses the seconds in which the kernel asks whether somebody else has them.
const noDAD = "net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"

// lab is source, router and destination, and a second destination that nobody means to reach.
type lab struct {
	source, router, destination, other *node
	port                               uint16 // the last source port used
}

// newLab builds it: each pod has eth0 with .2 (::2) and a veth to the router with .1, which stands for the node.
func newLab(t testing.TB) *lab {
	t.Helper()
	for _, tool := range []string{"nsenter", "ip", "tc", "nft", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing: CI installs it by make testtools", tool)
			}
			t.Skipf("%s is missing: run make testtools", tool)
		}
	}
	l := &lab{source: startNode(t, "source"), router: startNode(t, "router"), destination: startNode(t, "destination"), other: startNode(t, "other"), port: 19999}
	l.router.sh(t, "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 "+noDAD)
	for i, n := range []*node{l.source, l.destination, l.other} {
		n.sh(t, "sysctl -qw "+noDAD)
		l.router.sh(t, fmt.Sprintf(`ip link add to-%[1]s type veth peer name eth0 netns %[2]d
			ip addr add 10.77.%[3]d.1/24 dev to-%[1]s
			ip addr add fd77:%[3]d::1/64 dev to-%[1]s nodad
			ip link set to-%[1]s up`, n.name[:5], n.pid, i+1))
		n.sh(t, fmt.Sprintf(`ip link set lo up
			ip addr add 10.77.%[1]d.2/24 dev eth0
			ip addr add fd77:%[1]d::2/64 dev eth0 nodad
			ip link set eth0 up
			ip route add default via 10.77.%[1]d.1
			ip -6 route add default via fd77:%[1]d::1`, i+1))
	}
	// A link is up a moment after it was set up.
	for _, to := range []string{"10.77.2.2:80", "10.77.3.2:80", "[fd77:2::2]:80", "[fd77:3::2]:80"} {
		for deadline := time.Now().Add(labPatience); ; {
			attempt, _ := l.attempt(probes.UDP, to)
			if outcome := l.source.try(t, []probes.Attempt{attempt})[0]; outcome.Kind == probes.Replied {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("the lab is not up: %s from %s (%s)", outcome.Kind, to, outcome.Detail)
			}
		}
	}
	return l
}

// openLab is a witness for the given pods, on a node whose own network namespace is that of the router given.
func openLab(t testing.TB, name string, root *node, pods ...*node) *Witness {
	t.Helper()
	proc := fakeProc(t, append([]*node{root}, pods...)...)
	w, err := Open(Options{Node: name, Proc: proc, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.Level() != probes.Full {
		t.Fatalf("level: want %q, got %q", probes.Full, w.Level())
	}
	var adopted []Pod
	for _, n := range pods {
		adopted = append(adopted, Pod{n.name, n.netns})
	}
	if err := w.Adopt(adopted); err != nil {
		t.Fatal(err)
	}
	return w
}

// fakeProc is a directory like /proc, whose processes 1, 2 and so on live in the namespaces of the nodes.
func fakeProc(t testing.TB, nodes ...*node) string {
	t.Helper()
	dir := t.TempDir()
	for i, n := range nodes {
		path := filepath.Join(dir, strconv.Itoa(i+1), "ns")
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(n.path(), filepath.Join(path, "net")); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// attempt is a new attempt from the source, and the flow by which it is known.
func (l *lab) attempt(protocol probes.Protocol, to string) (probes.Attempt, probes.Flow) {
	l.port++
	a := probes.Attempt{
		ID: fmt.Sprintf("%s-%d", protocol, l.port), Protocol: protocol, Destination: netip.MustParseAddrPort(to),
		SourcePort: l.port, Token: probes.NewToken(), Deadline: labDeadline,
	}
	from := netip.MustParseAddr("10.77.1.2")
	if a.Destination.Addr().Is6() {
		from = netip.MustParseAddr("fd77:1::2")
	}
	return a, probes.Flow{AttemptID: a.ID, Protocol: protocol, Source: netip.AddrPortFrom(from, l.port)}
}

// await reads the attempt's sightings until they are as wanted, and gives up with the last ones.
func await(t testing.TB, id string, witnesses []*Witness, wanted func([]probes.Sighting) bool) []probes.Sighting {
	t.Helper()
	tick := time.NewTicker(labInterval)
	defer tick.Stop()
	for deadline := time.Now().Add(labPatience); ; <-tick.C {
		var all []probes.Sighting
		for _, w := range witnesses {
			some, err := w.Sightings([]string{id})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, some...)
		}
		if a := probes.Account(all); a.Sent != a.Arrived+a.Dropped+a.Unaccounted {
			t.Fatalf("the account does not balance: %+v of %+v", a, all)
		}
		if wanted(all) || time.Now().After(deadline) {
			return all
		}
	}
}
