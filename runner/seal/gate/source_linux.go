package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/seal"
)

// Source is where canaries are sent from.
type Source struct {
	// Name is how reports call it, such as "node gapproof-dev-worker".
	Name string
	Kind seal.Kind
	// PID is a process in its network namespace, as this host numbers processes.
	PID int
	// Address is the source's own.
	Address netip.Addr
	// Resolver is whom its names are asked of.
	Resolver netip.AddrPort

	// gateway is the bridge's link address, for frames.
	gateway net.HardwareAddr
}

// namespace opens the source's network namespace. The caller closes it.
func (s Source) namespace() (int, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", s.PID), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("opening the network namespace of %s: %w", s.Name, err)
	}
	return fd, nil
}

// Resolver is the first name server that a process finds in its resolv.conf (resolv.conf(5)).
func Resolver(pid int) (netip.AddrPort, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/resolv.conf", pid))
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("reading a node's resolv.conf: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		a, err := netip.ParseAddr(words[1])
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("reading a node's resolv.conf: %w", err)
		}
		return netip.AddrPortFrom(a, dnsPort), nil
	}
	return netip.AddrPort{}, errors.New("reading a node's resolv.conf: it names no server")
}

// dnsPort is where resolvers answer.
const dnsPort = 53

// ErrNoProcess reports a pod of which no process runs on this host.
var ErrNoProcess = errors.New("no process of the pod runs on this host")

// PodProcess finds a process of the pod with this uid by its control group, which the kubelet names for the pod: with the dashes of the uid, or with
// underscores where systemd keeps the groups.
func PodProcess(uid string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("listing processes: %w", err)
	}
	names := []string{"pod" + uid, "pod" + strings.ReplaceAll(uid, "-", "_")}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended meanwhile
		}
		if err != nil {
			return 0, fmt.Errorf("reading a process's control group: %w", err)
		}
		for _, n := range names {
			if strings.Contains(string(text), n) {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("looking for pod %s: %w", uid, ErrNoProcess)
}
