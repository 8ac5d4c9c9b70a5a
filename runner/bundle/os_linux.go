package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockRetry is how often a held lock is tried again: a build takes seconds to minutes, so a quarter of a second is not noticed.
const lockRetry = 250 * time.Millisecond

// lockFile takes an exclusive lock on the file name, which it creates. While another process holds it, it calls waiting once and
// tries again until ctx is done. The lock ends with the process, however that ends.
func lockFile(ctx context.Context, name string, waiting func()) (release func(), err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	for first := true; ; first = false {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", name, err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, stopped(ctx)
		case <-time.After(lockRetry):
		}
	}
}

// tieToUs makes cmd the leader of its own process group, which is told to end as a whole when the command's context is done, and
// has the kernel kill it when we die. The kernel does that when the starting thread ends, so the calling goroutine keeps its
// thread until the returned function is called.
func tieToUs(cmd *exec.Cmd) (done func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	return runtime.UnlockOSThread
}

// confine gives cmd, which must be run as root, process and mount namespaces of its own. A program that fills a root file system
// mounts /proc and /sys in it and starts helpers that outlive it: killing the first process of the namespace kills every one of
// them, and no mount of theirs is ever seen outside. Without it, removing what a killed build left could reach a mount.
func confine(cmd *exec.Cmd) {
	if os.Geteuid() != 0 {
		return // mmdebstrap then makes the same namespaces itself, with a user namespace
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID
	cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWNS // package syscall makes the mounts private for this flag
}

// mountBelow returns a mount point at or below dir, or nothing. The format of mountinfo is in proc_pid_mountinfo(5); a space in a
// path is written as \040 there, which no folder that we made has.
func mountBelow(dir string) (string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("reading mounts: %w", err)
	}
	const mountPoint = 4 // index of the field
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > mountPoint && (f[mountPoint] == dir || strings.HasPrefix(f[mountPoint], dir+"/")) {
			return f[mountPoint], nil
		}
	}
	return "", nil
}

// replaceDir puts the folder fresh in the place of dst in one step, so that no reader ever sees a half of either. What was at dst
// is then at fresh.
func replaceDir(fresh, dst string) error {
	if _, err := os.Lstat(dst); errors.Is(err, os.ErrNotExist) {
		return os.Rename(fresh, dst)
	}
	return unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dst, unix.RENAME_EXCHANGE)
}
