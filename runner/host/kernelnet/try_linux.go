package kernelnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// setName is the IP set that the iptables rules match against. It lives in the throwaway namespace only.
const setName = "gapproof-try"

// feature is one feature with the way to use it.
type feature struct {
	name Feature
	use  func(context.Context) error
}

// features lists all in an order in which later ones may use what earlier ones made. lookPath finds a program.
func features(lookPath func(string) (string, error)) []feature {
	link := func(kind string, data ...attribute) func(context.Context) error {
		return func(context.Context) error { return addLink("gptry-"+kind, kind, data...) }
	}
	return []feature{
		{FeatureVeth, link("veth")},
		{FeatureBridge, link("bridge")},
		{FeatureVXLAN, link("vxlan", uint32Attribute(vxlanID, 1))},
		{FeatureDummy, link("dummy")},
		{FeatureIPSet, func(context.Context) error { return addSet(setName) }},
		{FeatureNFTables, func(context.Context) error { return addTable("gapproof-try") }},
		{FeatureIPTablesNFT, addRules(lookPath, "iptables-nft")},
		{FeatureIPTablesLegacy, addRules(lookPath, "iptables-legacy")},
		{FeatureSCTP, openSCTP},
	}
}

// Try uses each feature once. lookPath finds the iptables programs, as exec.LookPath does. It needs CAP_SYS_ADMIN and
// CAP_NET_ADMIN; without them the namespace cannot be made and the error says so.
func Try(ctx context.Context, lookPath func(string) (string, error)) ([]Trial, error) {
	type answer struct {
		trials []Trial
		err    error
	}
	answers := make(chan answer)
	// A network namespace belongs to a thread, so a goroutine that owns its thread does all of it.
	go func() {
		trials, err := tryInNamespace(ctx, lookPath)
		answers <- answer{trials, err}
	}()
	got := <-answers
	return got.trials, got.err
}

// tryInNamespace leaves its thread locked when the thread cannot be brought back to the host's namespace: the runtime then ends
// the thread together with the goroutine.
func tryInNamespace(ctx context.Context, lookPath func(string) (string, error)) (trials []Trial, err error) {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("opening the host's network namespace: %w", err)
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	for _, feature := range features(lookPath) {
		trial := Trial{Feature: feature.name, Err: ctx.Err()}
		if trial.Err == nil {
			trial.Err = feature.use(ctx)
		}
		trials = append(trials, trial)
	}
	if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
		return trials, fmt.Errorf("returning to the host's network namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return trials, nil
}

// rules use the tables, matches and targets that kube-proxy and Calico cannot do without.
// https://docs.tigera.io/calico/latest/getting-started/kubernetes/requirements#kernel-dependencies
func rules() []string {
	return []string{
		"-t filter -A OUTPUT -m comment --comment gapproof -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
		"-t filter -A OUTPUT -p tcp -m multiport --dports 1,2:3 -m mark --mark 0x1/0x1 -j REJECT",
		"-t filter -A OUTPUT -m addrtype --dst-type LOCAL -m set --match-set " + setName + " dst -j DROP",
		"-t mangle -A PREROUTING -m statistic --mode random --probability 0.5 -j MARK --set-xmark 0x1/0x1",
		"-t nat -A POSTROUTING -j MASQUERADE --random-fully",
		"-t nat -A PREROUTING -p tcp -j DNAT --to-destination 192.0.2.1:80",
		"-t raw -A PREROUTING -j NOTRACK",
	}
}

// addRules enters the rules with one of the iptables programs. The child is forked from the calling thread and so runs in its
// namespace.
func addRules(lookPath func(string) (string, error), program string) func(context.Context) error {
	return func(ctx context.Context) error {
		path, err := lookPath(program)
		if err != nil {
			return fmt.Errorf("%w: %s", ErrNoTool, program)
		}
		for _, rule := range rules() {
			// -w waits for the lock that all users of iptables share.
			output, err := exec.CommandContext(ctx, path, append([]string{"-w", "5"}, strings.Fields(rule)...)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("adding %q: %w: %s", rule, err, firstLine(output))
			}
		}
		return nil
	}
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}

// openSCTP opens a socket of the kernel's own SCTP.
func openSCTP(context.Context) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	if err != nil {
		return fmt.Errorf("opening an SCTP socket: %w", err)
	}
	return unix.Close(socket)
}
