package dial

import (
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/gapproof/gapproof/probes"
)

// TestRejectionsOnTheWayNameTheirSender runs in two network namespaces of its own: a source, and a router that rejects.
//
// It does not look for leaks: its thread is left in the namespace, and ends with the goroutine.
func TestRejectionsOnTheWayNameTheirSender(t *testing.T) {
	missing := t.Skipf
	if os.Getenv("CI") != "" { // where this is known to be there
		missing = t.Fatalf
	}
	if os.Getuid() != 0 {
		missing("network namespaces need root: run the test as root")
	}
	for _, tool := range []string{"ip", "nsenter", "unshare"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing("%s is missing: install iproute2 and util-linux", tool)
		}
	}
	runtime.LockOSThread() // never unlocked: the thread must not serve another goroutine
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		missing("a new network namespace is refused (%v): run with CAP_SYS_ADMIN", err)
	}
	// Its output tells that the namespace is there.
	router := exec.Command("unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity")
	out, err := router.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := router.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { router.Process.Kill(); router.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(router.Process.Pid)
	in := "nsenter --net --target " + pid + " "
	for _, command := range []string{
		"ip link set lo up",
		"ip link add source type veth peer name router netns " + pid,
		"ip address add 192.0.2.2/24 dev source",
		"ip link set source up",
		in + "ip address add 192.0.2.1/24 dev router",
		in + "ip link set router up",
		in + "sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'",
		// The kernel sends one such error a second to an address, where not told otherwise.
		in + "sh -c 'echo 0 > /proc/sys/net/ipv4/icmp_ratelimit'",
		in + "ip route add unreachable 198.51.100.0/25",
		in + "ip route add prohibit 198.51.100.128/25",
		"ip route add 198.51.100.0/24 via 192.0.2.1",
		"ip route add unreachable 203.0.113.0/26",
		"ip route add prohibit 203.0.113.64/26",
	} {
		if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, strings.TrimSpace(string(out)))
		}
	}
	d := newDialer(t)
	for _, tt := range []struct {
		name, to string
		errno    string
		rejecter string // empty for none
	}{
		{"no route to the host, says the router", "198.51.100.1:80", "EHOSTUNREACH", "192.0.2.1"},
		{"prohibited, says the router", "198.51.100.200:80", "EHOSTUNREACH", "192.0.2.1"},
		{"no route to the host, says the source's own node", "203.0.113.1:80", "EHOSTUNREACH", ""},
		{"prohibited, says the source's own node", "203.0.113.65:80", "EACCES", ""},
		{"no route at all", "203.0.113.200:80", "ENETUNREACH", ""},
	} {
		for _, protocol := range []probes.Protocol{probes.TCP, probes.UDP} {
			// Not as a sub-test: that would be another goroutine, in another namespace.
			o := d.Do(t.Context(), attempt(protocol, netip.MustParseAddrPort(tt.to), ample))
			var rejecter netip.Addr
			if tt.rejecter != "" {
				rejecter = netip.MustParseAddr(tt.rejecter)
			}
			if o.Kind != probes.Unreachable || o.Errno != tt.errno || o.Rejecter != rejecter {
				t.Errorf("%s: %s: want unreachable, %s, rejecter %q; got %+v", protocol, tt.name, tt.errno, tt.rejecter, o)
			}
		}
	}
}
