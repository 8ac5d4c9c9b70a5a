package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Fix gives the host what a lab needs and says what it did, in order. A host that has everything is left alone: no action is
// returned, and [NothingToFix] is what to print. It needs root ([ErrNotRoot]). On an error the actions already taken are returned with it.
// One Fix runs at a time for a state directory; a second one waits for the first.
func Fix(ctx context.Context, options Options) ([]Action, error) {
	m, err := newMachine(options)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, &HintedError{ErrNotRoot, "sudo " + FixCommand}
	}
	return m.exclusively(ctx, m.fix)
}

// StopEngine stops an engine that [Fix] started, and leaves any other alone. Containers stop with it. The registered runtime, the
// packages and everything that the engine stores remain. No action means that no engine of ours ran.
func StopEngine(ctx context.Context, options Options) ([]Action, error) {
	m, err := newMachine(options)
	if err != nil {
		return nil, err
	}
	return m.exclusively(ctx, m.stopEngine)
}

// fix walks the steps in order. A failing step names itself.
func (m *machine) fix(ctx context.Context) ([]Action, error) {
	var actions []Action
	for _, step := range []struct {
		name Step
		run  func(context.Context) ([]Action, error)
	}{
		{StepPackages, m.installPackages},
		{StepRuntime, m.registerFront},
		{StepEngine, m.ensureEngine},
	} {
		done, err := step.run(ctx)
		actions = append(actions, done...)
		if err != nil {
			return actions, fmt.Errorf("fixing the %s: %w", step.name, err)
		}
	}
	return actions, nil
}

// exclusively runs change while no other program changes the same state directory. The kernel gives the lock back when this
// process ends, however it ends.
func (m *machine) exclusively(ctx context.Context, change func(context.Context) ([]Action, error)) (actions []Action, err error) {
	if err := os.MkdirAll(m.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	path := filepath.Join(m.StateDir, "lock")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	// Installing packages is what takes longest in a Fix; whoever waits gives it that long and a little more.
	const lockLimit = 15 * time.Minute
	lock := func() (bool, error) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return err == nil, err
	}
	if _, err := poll(ctx, enginePollInterval, lockLimit, lock); err != nil {
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return change(ctx)
}
