package ocifront

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/host/capability"
)

// hostLimits reads what the calling process, and therefore runc after it, may give.
func hostLimits() (limits, error) {
	bounding, err := capability.Bounding()
	if err != nil {
		return limits{}, err
	}
	effective, err := capability.Effective()
	if err != nil {
		return limits{}, err
	}
	host := limits{bounding: bounding}
	if !effective.Has(capability.SysResource) {
		host.hardLimit = hardLimit
		host.oomScoreAdj = possibleOOMScoreAdj
	}
	return host, nil
}

// hardLimit reads the calling process's hard limit of the kind that the OCI specification names.
func hardLimit(kind string) (uint64, bool) {
	resources := map[string]int{
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
	}
	resource, known := resources[kind]
	if !known {
		return 0, false
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(resource, &limit); err != nil {
		return 0, false
	}
	return limit.Max, true
}

// oomScoreAdjFile holds the score of the process that opens it.
const oomScoreAdjFile = "/proc/self/oom_score_adj"

// possibleOOMScoreAdj asks the kernel by trying: the lowest score a process without CAP_SYS_RESOURCE may set is not its current
// one but a hidden minimum that it inherited, so reading the current score alone would refuse too much. The own score is put
// back, which raising it always allows. When even reading fails the wanted score is kept for runc to report.
func possibleOOMScoreAdj(wanted int) int {
	text, err := os.ReadFile(oomScoreAdjFile)
	if err != nil {
		return wanted
	}
	current, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || wanted >= current {
		return wanted
	}
	if err := writeOOMScoreAdj(wanted); err != nil {
		return current
	}
	if err := writeOOMScoreAdj(current); err != nil {
		return current
	}
	return wanted
}

func writeOOMScoreAdj(score int) error {
	if err := os.WriteFile(oomScoreAdjFile, []byte(strconv.Itoa(score)), 0); err != nil {
		return fmt.Errorf("setting oom_score_adj to %d: %w", score, err)
	}
	return nil
}
