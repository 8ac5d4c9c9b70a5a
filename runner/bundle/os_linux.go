package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
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

// replaceDir puts the folder fresh in the place of dst in one step, so that no reader ever sees a half of either. What was at dst
// is then at fresh.
func replaceDir(fresh, dst string) error {
	if _, err := os.Lstat(dst); errors.Is(err, os.ErrNotExist) {
		return os.Rename(fresh, dst)
	}
	return unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dst, unix.RENAME_EXCHANGE)
}
