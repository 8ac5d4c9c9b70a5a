package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/probes/witness"
	"github.com/gapproof/gapproof/runner/host/kernelnet"
)

// cgroupLayout is how control groups are mounted.
type cgroupLayout string

// The layouts that systemd names.
// https://systemd.io/CGROUP_DELEGATION/#three-different-tree-setups
const (
	cgroupUnified cgroupLayout = "v2"
	cgroupHybrid  cgroupLayout = "hybrid"
	cgroupLegacy  cgroupLayout = "v1"
	cgroupNone    cgroupLayout = "none"
)

// readCgroupLayout reads the layout from the text of proc(5)'s mountinfo.
func readCgroupLayout(mountinfo string) cgroupLayout {
	layout := cgroupNone
	for line := range strings.Lines(mountinfo) {
		before, after, found := strings.Cut(line, " - ")
		if !found {
			continue
		}
		const mountPointField = 4
		fields, kind := strings.Fields(before), strings.Fields(after)
		if len(fields) <= mountPointField || len(kind) == 0 {
			continue
		}
		where := fields[mountPointField]
		switch {
		case kind[0] == "cgroup2" && where == "/sys/fs/cgroup":
			return cgroupUnified
		case kind[0] == "cgroup2" && strings.HasPrefix(where, "/sys/fs/cgroup/"):
			layout = cgroupHybrid
		case kind[0] == "cgroup" && layout == cgroupNone:
			layout = cgroupLegacy
		}
	}
	return layout
}

func (m *machine) checkCgroup(context.Context) []Finding {
	const name = "cgroup"
	text, err := os.ReadFile(filepath.Join(m.procDir, "self/mountinfo"))
	if err != nil {
		return []Finding{{Name: name, Level: LevelWarn, Detail: "could not tell: " + err.Error()}}
	}
	switch layout := readCgroupLayout(string(text)); layout {
	case cgroupUnified:
		return []Finding{{Name: name, Level: LevelOK, Detail: "v2"}}
	case cgroupHybrid, cgroupLegacy:
		return []Finding{{Name: name, Level: LevelWarn, Detail: string(layout) +
			": the kubelet refuses it unless failCgroupV1 is false, which the lab's nodes set; kind warns"}}
	default:
		return []Finding{{Name: name, Level: LevelFail, Detail: "no control groups are mounted, and no engine runs without them"}}
	}
}

// lostWithout says what the witness loses when a program is refused.
func lostWithout(program witness.Program) string {
	switch program {
	case witness.ProgramTPBTF:
		return "drops come without their reason, from raw_tp"
	case witness.ProgramRawTP:
		return "no fallback where tp_btf is refused"
	case witness.ProgramSocketFilter:
		return "no taps in the probe pods"
	case witness.ProgramSchedCLS:
		return "no taps on links, and Cilium cannot run"
	case witness.ProgramXDP:
		return "only XDP acceleration is lost"
	case witness.ProgramFentry, witness.ProgramKprobe:
		return "an optional extra is lost"
	default:
		return "nothing known is lost"
	}
}

func (m *machine) checkPrograms(ctx context.Context) []Finding {
	kernel := Finding{Name: "kernel", Level: LevelOK}
	release, err := m.sysctl("kernel/osrelease")
	if err != nil {
		release = "could not tell: " + err.Error()
		kernel.Level = LevelWarn
	}
	kernel.Detail = release
	types := Finding{Name: "btf", Level: LevelOK, Detail: "the kernel describes its types"}
	if err := witness.BTF(); err != nil {
		types.Level, types.Detail = LevelWarn, err.Error()+"; no witness program can be relocated"
	}
	findings := []Finding{kernel, types}
	for _, trial := range witness.TryPrograms(ctx) {
		finding := Finding{Name: "program type " + trial.Program.String(), Level: LevelOK, Detail: "works"}
		if trial.Err != nil {
			finding.Level = LevelWarn
			finding.Detail = shortRefusal(trial.Err) + "; " + lostWithout(trial.Program)
		}
		findings = append(findings, finding)
	}
	return findings
}

// shortRefusal shortens a program's error to its cause: what the library puts before it names files of its own, and what it puts
// after an errno guesses.
func shortRefusal(err error) string {
	var refused *witness.RefusedError
	if !errors.As(err, &refused) {
		return err.Error()
	}
	cause := refused.Err
	for inner := errors.Unwrap(cause); inner != nil; inner = errors.Unwrap(cause) {
		cause = inner
	}
	var errno unix.Errno
	if errors.As(refused.Err, &errno) {
		cause = errno
	}
	return fmt.Sprintf("refused at %s: %v", refused.Stage, cause)
}

// need says what a missing network feature means for a lab.
func need(feature kernelnet.Feature) (Level, string) {
	switch feature {
	case kernelnet.FeatureVeth, kernelnet.FeatureBridge:
		return LevelFail, "no container can be connected"
	case kernelnet.FeatureVXLAN:
		return LevelFail, "no overlay of Calico or Cilium works"
	case kernelnet.FeatureIPSet:
		return LevelFail, "Calico keeps its address sets there"
	case kernelnet.FeatureNFTables:
		return LevelFail, "the sealed network is made of it"
	case kernelnet.FeatureIPTablesNFT, kernelnet.FeatureIPTablesLegacy:
		return LevelWarn, "the engine, kube-proxy and Calico need one of the two back ends"
	case kernelnet.FeatureSCTP:
		return LevelWarn, "SCTP is probed with raw packets, and the report says so"
	default:
		return LevelWarn, "scenarios that need it are skipped"
	}
}

func (m *machine) checkNetwork(ctx context.Context) []Finding {
	trials, err := kernelnet.Try(ctx, m.lookPath)
	if err != nil {
		return []Finding{{Name: "network features", Level: LevelWarn, Detail: "not tried: " + err.Error(), Hint: "sudo gapproof doctor"}}
	}
	findings := make([]Finding, 0, len(trials)+1)
	var backends []string
	for _, trial := range trials {
		finding := Finding{Name: trial.Feature.String(), Level: LevelOK, Detail: "works"}
		level, means := need(trial.Feature)
		switch {
		case errors.Is(trial.Err, kernelnet.ErrNoTool):
			finding.Level, finding.Detail = LevelWarn, "not tried: "+trial.Err.Error()
			finding.Hint, finding.FixedBy = FixCommand, StepPackages
		case trial.Err != nil:
			finding.Level, finding.Detail = level, trial.Err.Error()+"; "+means
		case trial.Feature == kernelnet.FeatureIPTablesNFT, trial.Feature == kernelnet.FeatureIPTablesLegacy:
			backends = append(backends, trial.Feature.String())
		}
		findings = append(findings, finding)
	}
	return append(findings, m.checkIPTables(ctx, backends)...)
}

// checkIPTables compares the back end that the plain command uses, and so the engine, with those that work.
func (m *machine) checkIPTables(ctx context.Context, backends []string) []Finding {
	const name = "iptables"
	text, err := m.command(ctx, name, "--version")
	if err != nil {
		return fixable(name, StepPackages, err.Error())
	}
	chosen := "iptables-legacy"
	if strings.Contains(text, "nf_tables") {
		chosen = "iptables-nft"
	}
	switch {
	case slices.Contains(backends, chosen):
		return []Finding{{Name: name, Level: LevelOK, Detail: "uses " + chosen}}
	case len(backends) == 0:
		return []Finding{{Name: name, Level: LevelFail, Detail: "uses " + chosen + ", and neither back end works"}}
	}
	return []Finding{{Name: name, Level: LevelFail, Detail: "uses " + chosen + ", which does not work; " + backends[0] + " does",
		Hint: "update-alternatives --set iptables /usr/sbin/" + backends[0]}}
}

// checkForwarding looks at the two switches without which packets between containers stop at the host.
func (m *machine) checkForwarding(context.Context) []Finding {
	forward := Finding{Name: "ip forwarding", Level: LevelOK, Detail: "on"}
	value, err := m.sysctl("net/ipv4/ip_forward")
	switch {
	case err != nil:
		forward.Level, forward.Detail = LevelWarn, "could not tell: "+err.Error()
	case value != "1":
		forward = Finding{Name: forward.Name, Level: LevelWarn, Detail: "off; the engine switches it on when it starts",
			Hint: "sysctl -w net.ipv4.ip_forward=1"}
	}
	bridge := Finding{Name: "bridge netfilter", Level: LevelOK, Detail: "on"}
	value, err = m.sysctl("net/bridge/bridge-nf-call-iptables")
	switch {
	case err != nil:
		bridge = Finding{Name: bridge.Name, Level: LevelWarn, Detail: "the kernel has none loaded; a CNI that bridges pods would bypass iptables"}
		if release, err := m.sysctl("kernel/osrelease"); err == nil && exists(filepath.Join("/lib/modules", release)) {
			bridge.Hint = "modprobe br_netfilter"
		}
	case value != "1":
		bridge = Finding{Name: bridge.Name, Level: LevelWarn, Detail: "off; a CNI that bridges pods would bypass iptables",
			Hint: "sysctl -w net.bridge.bridge-nf-call-iptables=1"}
	}
	return []Finding{forward, bridge}
}

// sysctl reads a kernel setting by its path below /proc/sys.
func (m *machine) sysctl(path string) (string, error) {
	text, err := os.ReadFile(filepath.Join(m.procDir, "sys", path))
	if err != nil {
		return "", fmt.Errorf("reading a kernel setting: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
