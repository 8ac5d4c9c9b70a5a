// Package capability reads which Linux capabilities a process may ever hold.
//
// A [Set] is the kernel's bit mask; [Bounding] reads the calling process's bounding set, and [Set.Missing] names what it lacks
// of all the capabilities the running kernel knows. Names are written as the OCI runtime specification writes them,
// "CAP_SYS_RESOURCE".
//
// The trap: root with a reduced bounding set looks like root everywhere but at execve and capset, where the kernel refuses. Only
// the bounding set, not the user ID, says whether a container may be given a capability. Nothing here changes a capability.
package capability

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ErrNoStatus reports that a status file of proc(5) carries no readable capability mask.
var ErrNoStatus = errors.New("no capability mask in process status")

// names lists every capability by its number, from include/uapi/linux/capability.h.
// https://man7.org/linux/man-pages/man7/capabilities.7.html
func names() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
		"CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
		"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
		"CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
		"CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// SysResource is the capability that raising an rlimit's hard limit and lowering oom_score_adj need.
const SysResource = "CAP_SYS_RESOURCE"

// Set is a capability bit mask as proc(5) prints it; bit n stands for capability number n.
type Set uint64

// Has reports whether the set holds the named capability. A name nobody knows is never held: the kernel cannot grant it.
func (s Set) Has(name string) bool {
	for number, known := range names() {
		if known == name {
			return s&(1<<number) != 0
		}
	}
	return false
}

// Missing names, in the kernel's order, each capability up to and including number last that the set lacks. A capability that is
// newer than this build's list is named by its number, "CAP_41".
func (s Set) Missing(last int) []string {
	known := names()
	var missing []string
	for number := 0; number <= last; number++ {
		if s&(1<<number) != 0 {
			continue
		}
		name := "CAP_" + strconv.Itoa(number)
		if number < len(known) {
			name = known[number]
		}
		missing = append(missing, name)
	}
	return missing
}

// Bounding reads the bounding set of the calling process, which every process it starts inherits.
func Bounding() (Set, error) { return readMask("/proc/self/status", "CapBnd") }

// Effective reads the effective set of the calling process.
func Effective() (Set, error) { return readMask("/proc/self/status", "CapEff") }

// Last is the highest capability number the running kernel knows.
func Last() (int, error) {
	const path = "/proc/sys/kernel/cap_last_cap"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading the kernel's last capability: %w", err)
	}
	last, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("reading the kernel's last capability from %s: %w", path, err)
	}
	return last, nil
}

func readMask(path, field string) (Set, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading capabilities: %w", err)
	}
	set, err := parseMask(string(text), field)
	if err != nil {
		return 0, fmt.Errorf("reading capabilities from %s: %w", path, err)
	}
	return set, nil
}

// parseMask finds the line "field:\thex" of a proc(5) status file.
func parseMask(status, field string) (Set, error) {
	for line := range strings.Lines(status) {
		name, value, found := strings.Cut(line, ":")
		if !found || name != field {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return 0, fmt.Errorf("%w: %s: %w", ErrNoStatus, field, err)
		}
		return Set(mask), nil
	}
	return 0, fmt.Errorf("%w: no line %s", ErrNoStatus, field)
}
