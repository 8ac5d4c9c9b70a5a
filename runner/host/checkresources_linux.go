package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const gibibyte = 1 << 30

// What a lab of one control plane and one worker takes. A cold image build writes about 12 GiB: Go's module and build caches, the node
// root, and the layout. The engine holds the node image and a file system of about 4 GiB for each node. The nodes together use about
// 3 GiB of memory, and a linker of the image build as much again.
const (
	buildDiskWant  = 16 * gibibyte
	buildDiskNeed  = 4 * gibibyte // enough for a build of which most is cached
	engineDiskWant = 12 * gibibyte
	engineDiskNeed = 6 * gibibyte
	memoryWant     = 6 * gibibyte
	memoryNeed     = 3 * gibibyte
)

// inotify limits that kind asks for: every kubelet, systemd and log follower in every node takes its own from the host's one pool.
// https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
const (
	inotifyWatchesWant   = 524288
	inotifyInstancesWant = 512
)

// openFilesWant covers a port-forward connection for each agent and a batch of attempts, several times over, and what etcd in a
// node opens under the limit that the engine inherited.
const openFilesWant = 8192

func (m *machine) checkDisk(ctx context.Context) []Finding {
	findings := []Finding{freeDisk("disk for images", m.CacheDir, buildDiskWant, buildDiskNeed)}
	// Where no engine answers yet, its default root tells where it will write.
	root := "/var/lib/docker"
	if info, err := m.api.info(ctx); err == nil && info.DockerRootDir != "" {
		root = info.DockerRootDir
	}
	return append(findings, freeDisk("disk for the engine", root, engineDiskWant, engineDiskNeed))
}

// freeDisk measures the file system that dir is on, or will be on once it is made.
func freeDisk(name, dir string, want, needed uint64) Finding {
	existing := dir
	var stat unix.Statfs_t
	for {
		err := unix.Statfs(existing, &stat)
		if err == nil {
			break
		}
		if parent := filepath.Dir(existing); errors.Is(err, fs.ErrNotExist) && parent != existing {
			existing = parent
			continue
		}
		return Finding{Name: name, Level: LevelWarn, Detail: fmt.Sprintf("could not tell for %s: %v", dir, err)}
	}
	return enough(name, fmt.Sprintf("free for %s", dir), stat.Bavail*uint64(stat.Bsize), want, needed, "df -h "+existing)
}

// enough grades an amount of bytes against what is wanted and what is needed at least.
func enough(name, what string, have, want, needed uint64, hint string) Finding {
	finding := Finding{Name: name, Level: LevelOK, Detail: fmt.Sprintf("%s %s", gibibytes(have), what)}
	switch {
	case have < needed:
		finding.Level, finding.Hint = LevelFail, hint
		finding.Detail += fmt.Sprintf("; at least %s are needed", gibibytes(needed))
	case have < want:
		finding.Level, finding.Hint = LevelWarn, hint
		finding.Detail += fmt.Sprintf("; %s are wanted", gibibytes(want))
	}
	return finding
}

func gibibytes(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/gibibyte) }

func (m *machine) checkMemory(context.Context) []Finding {
	const name = "memory"
	text, err := os.ReadFile(filepath.Join(m.procDir, "meminfo"))
	if err != nil {
		return []Finding{{Name: name, Level: LevelWarn, Detail: "could not tell: " + err.Error()}}
	}
	available, err := availableMemory(string(text))
	if err != nil {
		return []Finding{{Name: name, Level: LevelWarn, Detail: "could not tell: " + err.Error()}}
	}
	return []Finding{enough(name, "available", available, memoryWant, memoryNeed, "free -h")}
}

// errNoAvailable reports a meminfo without the line that is looked for.
var errNoAvailable = errors.New("meminfo has no line MemAvailable")

// availableMemory reads, in bytes, what can be used without swapping.
func availableMemory(meminfo string) (uint64, error) {
	for line := range strings.Lines(meminfo) {
		name, rest, _ := strings.Cut(line, ":")
		if name != "MemAvailable" {
			continue
		}
		number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
		kibibytes, err := strconv.ParseUint(number, 10, 54)
		if err != nil {
			return 0, fmt.Errorf("reading MemAvailable: %w", err)
		}
		return kibibytes << 10, nil
	}
	return 0, errNoAvailable
}

func (m *machine) checkLimits(context.Context) []Finding {
	findings := []Finding{
		m.checkAtLeast("inotify watches", "fs/inotify/max_user_watches", inotifyWatchesWant),
		m.checkAtLeast("inotify instances", "fs/inotify/max_user_instances", inotifyInstancesWant),
	}
	files := Finding{Name: "open files", Level: LevelOK}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		files.Level, files.Detail = LevelWarn, "could not tell: "+err.Error()
		return append(findings, files)
	}
	files.Detail = fmt.Sprintf("hard limit %d", limit.Max)
	if limit.Max < openFilesWant {
		files.Level, files.Hint = LevelWarn, fmt.Sprintf("ulimit -Hn %d", openFilesWant)
		files.Detail += fmt.Sprintf("; %d are wanted", openFilesWant)
	}
	return append(findings, files)
}

// checkAtLeast compares a kernel setting with the number that is wanted.
func (m *machine) checkAtLeast(name, setting string, want int) Finding {
	value, err := m.sysctl(setting)
	if err != nil {
		return Finding{Name: name, Level: LevelWarn, Detail: "could not tell: " + err.Error()}
	}
	have, err := strconv.Atoi(value)
	if err != nil {
		return Finding{Name: name, Level: LevelWarn, Detail: "could not tell: " + err.Error()}
	}
	if have < want {
		return Finding{Name: name, Level: LevelWarn, Detail: fmt.Sprintf("%d; kind asks for %d", have, want),
			Hint: fmt.Sprintf("sysctl -w %s=%d", strings.ReplaceAll(setting, "/", "."), want)}
	}
	return Finding{Name: name, Level: LevelOK, Detail: value}
}
