package gate

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/seal"
)

// lab is a lab network in namespaces of its own: a node behind a bridge of a host, and a router beyond the host that has every address.
type lab struct {
	host, node, beyond *space
	spec               seal.Spec
}

// space is one network namespace, kept by a process that waits for its input to end.
type space struct{ pid int }

func newSpace(t *testing.T) *space {
	t.Helper()
	c := exec.Command("cat")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stdout = io.Discard
	if err := c.Start(); err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = c.Wait()
	})
	return &space{pid: c.Process.Pid}
}

// sh runs a script within the namespace and returns what it prints.
func (s *space) sh(t *testing.T, script string) string {
	t.Helper()
	c := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", s.pid), "sh", "-euc", script)
	c.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
	return string(out)
}

// do runs code of the test within the namespace.
func (s *space) do(t *testing.T, do func() error) {
	t.Helper()
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", s.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := enter(fd, do); err != nil {
		t.Fatal(err)
	}
}

// stack says which families the lab's network has.
type stack int

const (
	v4Only stack = iota
	dual
)

func newLab(t *testing.T, families stack) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "making a network namespace needs root: run the test with sudo")
	}
	for _, tool := range []string{"ip", "nsenter", "nft", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			if _, err := os.Stat("/usr/sbin/" + tool); err != nil {
				missing(t, tool+" is not installed: make testtools")
			}
		}
	}
	l := &lab{host: newSpace(t), node: newSpace(t), beyond: newSpace(t)}
	for _, s := range []*space{l.host, l.node, l.beyond} {
		// Addresses are used at once: the kernel would look for others that have them, link-local ones too, for a second or two.
		s.sh(t, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0")
	}
	l.host.sh(t, fmt.Sprintf(`
		ip link add br-lab type bridge
		ip link add port type veth peer name eth0 netns %d
		ip link set port master br-lab
		ip link add uplink type veth peer name downlink netns %d
		ip address add 172.30.9.1/24 dev br-lab
		ip address add 100.64.0.2/24 dev uplink
		for l in lo br-lab port uplink; do ip link set $l up; done
		ip route add default via 100.64.0.1
		sysctl -qw net.ipv4.ip_forward=1`, l.node.pid, l.beyond.pid))
	l.node.sh(t, `
		ip address add 172.30.9.130/24 dev eth0
		ip link set lo up; ip link set eth0 up
		ip route add default via 172.30.9.1`)
	l.beyond.sh(t, `
		ip address add 100.64.0.1/24 dev downlink
		ip link set lo up; ip link set downlink up
		ip route add blackhole default`)
	n := seal.Network{
		Bridge: "br-lab", Gateway: netip.MustParseAddr("172.30.9.1"), Subnet: netip.MustParsePrefix("172.30.9.0/24"),
		Mirror: netip.MustParseAddrPort("172.30.9.2:5000"), Sink: netip.MustParseAddrPort("172.30.9.3:53"), API: 6443,
	}
	if families == dual {
		n.Subnet6, n.Gateway6 = netip.MustParsePrefix("fd67::/64"), netip.MustParseAddr("fd67::1")
		l.host.sh(t, `
			ip address add fd67::1/64 dev br-lab nodad
			ip address add fd68::2/64 dev uplink nodad
			sysctl -qw net.ipv6.conf.all.forwarding=1
			ip -6 route add default via fd68::1`)
		l.node.sh(t, `ip address add fd67::130/64 dev eth0 nodad; ip -6 route add default via fd67::1`)
		l.beyond.sh(t, `ip address add fd68::1/64 dev downlink nodad`)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var err error
	if l.spec, err = seal.New("test", n, nil, rand.New(rand.NewPCG(seed, 0))); err != nil {
		t.Fatal(err)
	}
	return l
}

// missing skips for want of something, and fails where CI has promised it.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

func (l *lab) source() Source {
	return Source{Name: "node n", Kind: seal.NodeSource, PID: l.node.pid, Address: netip.MustParseAddr("172.30.9.130")}
}

// prove sends canaries and judges, with names and images as they are in a lab that is in order: those are other tests' matter.
func (l *lab) prove(t *testing.T, last seal.Reading) seal.Proof {
	t.Helper()
	f := seal.Facts{Last: last, Images: 1, Names: []seal.Name{{From: "node n", Answer: seal.AnswerNoName, Recorded: 1}}}
	l.host.do(t, func() (err error) {
		if f.Before, _, err = Read(l.spec); err != nil {
			return err
		}
		if f.Canaries, err = Canaries(t.Context(), l.spec, []Source{l.source()}); err != nil {
			return err
		}
		if f.Masquerades, err = Masquerades(t.Context(), l.spec, nil); err != nil {
			return err
		}
		f.After, f.Rules, err = Read(l.spec)
		return err
	})
	f.Sources = []seal.Expected{{From: "node n", Kind: seal.NodeSource}}
	return l.spec.Judge(f)
}

func (l *lab) close(t *testing.T) {
	t.Helper()
	l.host.do(t, func() error { return Close(l.spec) })
}

// nft lists the host's ruleset.
func (l *lab) nft(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(l.host.sh(t, "nft list ruleset"))
}
