// Package netnstest runs a test in a network namespace of its own, so that raw sockets, addresses and packet filters of two tests never meet.
//
// [Run] starts the test binary again for the one test, inside a new namespace with the loopback up, and passes on how it ended. [Do] runs
// a command there.
//
// The trap: the body runs in another process than the rest of the test function, so nothing may be handed over but by constants.
package netnstest

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// inside is the variable that tells the test binary that it is in the namespace already.
const inside = "GAPPROOF_TEST_NETNS"

// Run runs body in a namespace of its own. It skips where the user may not make one, or a tool that the test names is missing, and fails
// instead where CI is set.
func Run(t *testing.T, body func(*testing.T), tools ...string) {
	t.Helper()
	if os.Getenv(inside) != "" {
		Do(t, "ip link set lo up")
		body(t)
		return
	}
	missing := t.Skipf
	if os.Getenv("CI") != "" {
		missing = t.Fatalf
	}
	if os.Getuid() != 0 {
		missing("network namespaces need root: run the test as root")
	}
	for _, tool := range append(tools, "ip") {
		if _, err := exec.LookPath(tool); err != nil {
			missing("%s is missing: install iproute2 and nftables", tool)
		}
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	again.Env = append(os.Environ(), inside+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := again.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace of its own: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("it did not pass in its namespace:\n%s", out)
	}
}

// Do runs a line of shell, which must succeed, and gives its output.
func Do(t testing.TB, line string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, strings.TrimSpace(string(out)))
	}
	return string(out)
}

// Peer makes a second namespace that lasts until the test's end, joins the two by a link with an address at either end (the test's own
// first), and returns what runs a line of shell in the second.
func Peer(t testing.TB, own, other string) func(line string) string {
	t.Helper()
	peer := exec.Command("sh", "-c", "echo ready; exec sleep infinity") // its output tells that the namespace is there
	peer.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := peer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Process.Kill(); _ = peer.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(peer.Process.Pid)
	in := func(line string) string {
		t.Helper()
		return Do(t, "nsenter --net --target "+pid+" "+line)
	}
	Do(t, "ip link add own type veth peer name other netns "+pid)
	Do(t, "ip address add "+own+" dev own nodad && ip link set own up")
	in("ip address add " + other + " dev other nodad")
	in("ip link set other up")
	in("ip link set lo up")
	return in
}
