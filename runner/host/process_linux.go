package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process identifies one process beyond the reuse of its number: the number, the boot it lives in, and its start time.
type process struct {
	PID     int    `json:"pid"`
	Boot    string `json:"boot"`    // /proc/sys/kernel/random/boot_id
	Started uint64 `json:"started"` // clock ticks after boot, field 22 of /proc/PID/stat
}

// identify gives the process that has the number now.
func identify(procDir string, pid int) (process, error) {
	boot, err := os.ReadFile(filepath.Join(procDir, "sys/kernel/random/boot_id"))
	if err != nil {
		return process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	stat, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	started, zombie, err := parseStat(string(stat))
	if err != nil {
		return process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	if zombie {
		return process{}, fmt.Errorf("identifying process %d: %w", pid, fs.ErrNotExist)
	}
	return process{PID: pid, Boot: strings.TrimSpace(string(boot)), Started: started}, nil
}

// parseStat reads the start time and the state from the text of /proc/PID/stat. The second field is the program's name in
// parentheses and may hold spaces and parentheses itself, so fields are counted from the last one.
// https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
func parseStat(stat string) (started uint64, zombie bool, err error) {
	end := strings.LastIndexByte(stat, ')')
	if end < 0 {
		return 0, false, errors.New("stat has no program name")
	}
	const (
		stateField = 3
		startField = 22
	)
	fields := strings.Fields(stat[end+1:])
	if len(fields) <= startField-stateField {
		return 0, false, fmt.Errorf("stat has %d fields after the program name", len(fields))
	}
	started, err = strconv.ParseUint(fields[startField-stateField], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("reading the start time: %w", err)
	}
	return started, fields[0] == "Z" || fields[0] == "X", nil
}

// alive reports whether this very process still runs.
func (p process) alive(procDir string) bool {
	now, err := identify(procDir, p.PID)
	return err == nil && now == p
}

// programName is the kernel's name of the process, or empty when there is none. A process that has ended but was not waited for
// counts as none.
func programName(procDir string, pid int) string {
	if _, err := identify(procDir, pid); err != nil {
		return ""
	}
	name, err := os.ReadFile(filepath.Join(procDir, strconv.Itoa(pid), "comm"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

// readPID reads a pid file. found is false when there is no such file or it holds no number.
func readPID(path string) (pid int, found bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, err == nil && pid > 0
}
