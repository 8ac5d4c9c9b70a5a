package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/host/capability"
	"github.com/gapproof/gapproof/runner/host/ocifront"
)

const (
	// enginePollInterval is short against the second or two that an engine takes to answer and long against one call.
	enginePollInterval = 100 * time.Millisecond
	// engineStartLimit allows for an engine that first has to restore containers of an earlier life on a slow disk.
	engineStartLimit = 90 * time.Second
	// engineReloadLimit bounds the wait for an engine to take over a changed configuration, which it does at once.
	engineReloadLimit = 10 * time.Second
	// engineStopLimit is twice what the engine gives its containers to stop before it kills them.
	engineStopLimit = 30 * time.Second
)

// engineRecord is what Fix keeps of an engine that it started. It is the proof that the engine may be stopped again.
type engineRecord struct {
	Process process `json:"process"`
}

func (m *machine) recordPath() string { return filepath.Join(m.StateDir, "engine.json") }

// engineLogPath is where an engine started by Fix writes its log.
func (m *machine) engineLogPath() string { return filepath.Join(m.StateDir, "dockerd.log") }

// ownEngine gives the engine that Fix started, if that very process still runs.
func (m *machine) ownEngine() (process, bool) {
	text, err := os.ReadFile(m.recordPath())
	if err != nil {
		return process{}, false
	}
	var record engineRecord
	if err := json.Unmarshal(text, &record); err != nil {
		return process{}, false
	}
	return record.Process, record.Process.alive(m.procDir)
}

// ensureEngine leaves an engine that answers and, where the front is needed, uses it.
func (m *machine) ensureEngine(ctx context.Context) ([]Action, error) {
	actions, err := m.startEngine(ctx)
	if err != nil || len(m.missing()) == 0 {
		return actions, err
	}
	more, err := m.reloadEngine(ctx)
	return append(actions, more...), err
}

// startEngine starts the engine unless one answers already.
func (m *machine) startEngine(ctx context.Context) ([]Action, error) {
	if m.api.reachable(ctx) {
		return nil, nil
	}
	if m.systemd() {
		if _, err := m.command(ctx, "systemctl", "start", "docker.service"); err != nil {
			return nil, &HintedError{fmt.Errorf("starting the engine: %w", err), "journalctl -u docker.service -n 50"}
		}
		took, err := m.waitForEngine(ctx, nil)
		if err != nil {
			return nil, err
		}
		return []Action{{StepEngine, fmt.Sprintf("started docker.service; it answered after %s", took)}}, nil
	}
	if pid, found := readPID(m.pidFile); found && programName(m.procDir, pid) == "dockerd" {
		// Somebody else is starting one at this moment, or it hangs; the wait tells which.
		m.Log.InfoContext(ctx, "waiting for a running engine to answer", "pid", pid)
		took, err := m.waitForEngine(ctx, nil)
		if err != nil {
			return nil, &HintedError{fmt.Errorf("waiting for dockerd, process %d: %w", pid, err), fmt.Sprintf("kill %d", pid)}
		}
		return []Action{{StepEngine, fmt.Sprintf("waited %s for dockerd, process %d, that was starting", took, pid)}}, nil
	}
	actions, err := m.clearStale(ctx)
	if err != nil {
		return actions, err
	}
	more, err := m.launch(ctx)
	return append(actions, more...), err
}

// clearStale removes what a killed engine left and a new one would stumble over: pid files whose number now belongs to another
// program, and the socket of a containerd that nobody listens on.
func (m *machine) clearStale(ctx context.Context) ([]Action, error) {
	var actions []Action
	for _, left := range []struct{ path, program string }{{m.pidFile, "dockerd"}, {m.containerdPid, "containerd"}} {
		pid, found := readPID(left.path)
		if !found || programName(m.procDir, pid) == left.program {
			continue
		}
		if err := os.Remove(left.path); err != nil {
			return actions, fmt.Errorf("removing a stale pid file: %w", err)
		}
		actions = append(actions, Action{StepEngine, fmt.Sprintf("removed %s: process %d is no %s", left.path, pid, left.program)})
	}
	if _, err := os.Lstat(m.containerdSocket); err != nil {
		return actions, nil
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, "unix", m.containerdSocket)
	switch {
	case err == nil:
		return actions, connection.Close()
	case !errors.Is(err, unix.ECONNREFUSED):
		return actions, nil
	}
	if err := os.Remove(m.containerdSocket); err != nil {
		return actions, fmt.Errorf("removing a stale socket: %w", err)
	}
	return append(actions, Action{StepEngine, fmt.Sprintf("removed %s: nothing listens there", m.containerdSocket)}), nil
}

// launch starts dockerd in a session of its own, so that it outlives this program and its terminal, and waits until it answers.
func (m *machine) launch(ctx context.Context) (actions []Action, err error) {
	path, err := m.lookPath("dockerd")
	if err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	if err := os.MkdirAll(m.StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	log, err := os.OpenFile(m.engineLogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the engine's log: %w", err)
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("opening the engine's log: %w", err)
	}
	// Not bound to the context: the engine is meant to stay.
	args := []string{"--config-file", m.daemonConfig, "--pidfile", m.pidFile}
	if !m.bounding.Has(capability.SysResource) {
		// The engine would otherwise try to lower its own score, which the kernel refuses without the capability.
		args = append(args, "--oom-score-adjust", "0")
	}
	engine := exec.Command(path, args...)
	engine.Dir = "/"
	// A plain environment: what a CI job keeps in its own is nothing for a daemon that outlives the job.
	engine.Env = []string{"PATH=" + searchPath, "HOME=/root"}
	engine.Stdout, engine.Stderr = log, log
	engine.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	m.Log.InfoContext(ctx, "starting the engine", "program", path, "log", m.engineLogPath())
	if err := engine.Start(); err != nil {
		return nil, fmt.Errorf("starting the engine: %w", err)
	}
	pid := engine.Process.Pid
	if err := m.record(pid); err != nil {
		return nil, errors.Join(err, engine.Process.Kill(), engine.Wait())
	}
	ended := false
	took, err := m.waitForEngine(ctx, func() error {
		fault := childEnded(pid)
		ended = fault != nil
		return fault
	})
	if err != nil {
		err = m.withLogTail(err, begin)
		if !ended {
			err = errors.Join(err, abandon(ctx, pid))
		}
		return nil, errors.Join(err, os.Remove(m.recordPath()))
	}
	if err := engine.Process.Release(); err != nil {
		return nil, fmt.Errorf("letting go of the engine: %w", err)
	}
	return []Action{{StepEngine, fmt.Sprintf("started %s, process %d, log %s; it answered after %s", path, pid, m.engineLogPath(), took)}}, nil
}

// abandon ends an engine that was started and did not come up, also when ctx is over. The process is a child: until it is waited
// for it stays a zombie.
func abandon(ctx context.Context, pid int) error {
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		return fmt.Errorf("ending the engine that did not come up: %w", err)
	}
	if _, err := poll(context.WithoutCancel(ctx), enginePollInterval, engineStopLimit, func() (bool, error) {
		return childEnded(pid) != nil, nil
	}); err != nil {
		return fmt.Errorf("ending the engine that did not come up, process %d: %w", pid, err)
	}
	return nil
}

// record keeps the identity of a started engine.
func (m *machine) record(pid int) error {
	identity, err := identify(m.procDir, pid)
	if err != nil {
		return fmt.Errorf("recording the engine: %w", err)
	}
	text, err := json.Marshal(engineRecord{Process: identity})
	if err != nil {
		return fmt.Errorf("recording the engine: %w", err)
	}
	return writeFile(m.recordPath(), append(text, '\n'), 0o644)
}

// childEnded gives an error once the child has ended, and collects it.
func childEnded(pid int) error {
	var status unix.WaitStatus
	ended, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	switch {
	case errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return fmt.Errorf("waiting for process %d: %w", pid, err)
	case ended == pid:
		return fmt.Errorf("process %d ended with status %d", pid, status.ExitStatus())
	}
	return nil
}

// waitForEngine polls the API until it answers. ended, when not nil, gives an error once waiting is pointless.
func (m *machine) waitForEngine(ctx context.Context, ended func() error) (time.Duration, error) {
	took, err := poll(ctx, enginePollInterval, engineStartLimit, func() (bool, error) {
		if m.api.reachable(ctx) {
			return true, nil
		}
		if ended != nil {
			return false, ended()
		}
		return false, nil
	})
	if err != nil {
		return took, fmt.Errorf("%w: %w", ErrEngineNotStarted, err)
	}
	return took, nil
}

// withLogTail adds the last words of the engine's log, from the offset on, to the error.
func (m *machine) withLogTail(fault error, begin int64) error {
	text, err := os.ReadFile(m.engineLogPath())
	if err != nil || int64(len(text)) <= begin {
		return &HintedError{fmt.Errorf("%w; its log is empty", fault), "dockerd --debug --config-file " + m.daemonConfig}
	}
	lines := strings.Split(strings.TrimSpace(string(text[begin:])), "\n")
	return &HintedError{fmt.Errorf("%w; its log ends: %s", fault, lines[len(lines)-1]), "tail -n 50 " + m.engineLogPath()}
}

// reloadEngine makes a running engine use the registered front. The engine takes over runtimes on SIGHUP without touching a
// container; only one that does not is restarted, if that harms nobody.
// https://docs.docker.com/reference/cli/dockerd/#configuration-reload-behavior
func (m *machine) reloadEngine(ctx context.Context) ([]Action, error) {
	if used, err := m.usesFront(ctx); err != nil || used {
		return nil, err
	}
	if err := m.signalReload(ctx); err != nil {
		return nil, err
	}
	took, err := poll(ctx, enginePollInterval, m.reloadLimit, func() (bool, error) { return m.usesFront(ctx) })
	if err == nil {
		return []Action{{StepEngine, fmt.Sprintf("reloaded the engine's configuration; no container was touched (%s)", took)}}, nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	return m.restartEngine(ctx)
}

// usesFront reports whether the running engine starts containers with the front by default.
func (m *machine) usesFront(ctx context.Context) (bool, error) {
	info, err := m.api.info(ctx)
	if err != nil {
		return false, fmt.Errorf("asking the engine for its runtime: %w", err)
	}
	return info.DefaultRuntime == ocifront.Name && info.Runtimes[ocifront.Name].Path == m.frontPath(), nil
}

func (m *machine) signalReload(ctx context.Context) error {
	if m.systemd() {
		_, err := m.command(ctx, "systemctl", "reload", "docker.service")
		return err
	}
	pid, found := readPID(m.pidFile)
	if !found || programName(m.procDir, pid) != "dockerd" {
		return fmt.Errorf("reloading the engine: %s names no dockerd", m.pidFile)
	}
	if err := unix.Kill(pid, unix.SIGHUP); err != nil {
		return fmt.Errorf("reloading the engine, process %d: %w", pid, err)
	}
	return nil
}

// restartEngine restarts an engine that would not reload.
func (m *machine) restartEngine(ctx context.Context) ([]Action, error) {
	info, err := m.api.info(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the engine for its containers: %w", err)
	}
	_, own := m.ownEngine()
	if !own && info.ContainersRunning > 0 {
		return nil, &HintedError{fmt.Errorf("making the engine use %s: %w (%d containers)", m.frontPath(), ErrEngineBusy,
			info.ContainersRunning), "docker stop $(docker ps -q) && " + FixCommand}
	}
	switch {
	case m.systemd():
		if _, err := m.command(ctx, "systemctl", "restart", "docker.service"); err != nil {
			return nil, fmt.Errorf("restarting the engine: %w", err)
		}
	case own:
		if _, err := m.stopEngine(ctx); err != nil {
			return nil, err
		}
		if _, err := m.launch(ctx); err != nil {
			return nil, err
		}
	default:
		return nil, &HintedError{fmt.Errorf("making the engine use %s: it did not reload %s and was not started by gapproof",
			m.frontPath(), m.daemonConfig), fmt.Sprintf("kill $(cat %s) && %s", m.pidFile, FixCommand)}
	}
	if _, err := poll(ctx, enginePollInterval, engineStartLimit, func() (bool, error) {
		return m.api.reachable(ctx), nil
	}); err != nil {
		return nil, fmt.Errorf("restarting the engine: %w", err)
	}
	if used, err := m.usesFront(ctx); err != nil || !used {
		return nil, errors.Join(fmt.Errorf("restarting the engine: it does not use %s although %s says so", m.frontPath(), m.daemonConfig), err)
	}
	return []Action{{StepEngine, "restarted the engine so that it uses the registered runtime"}}, nil
}

// stopEngine stops the engine that Fix started, and the containerd that a killed one of ours left behind.
func (m *machine) stopEngine(ctx context.Context) ([]Action, error) {
	engine, alive := m.ownEngine()
	if engine.PID == 0 {
		return nil, nil
	}
	var actions []Action
	if alive {
		m.Log.InfoContext(ctx, "stopping the engine", "pid", engine.PID)
		took, err := m.terminate(ctx, engine)
		if err != nil {
			return nil, fmt.Errorf("stopping the engine: %w", err)
		}
		actions = append(actions, Action{StepEngine, fmt.Sprintf("stopped dockerd, process %d, in %s", engine.PID, took)})
	}
	if pid, found := readPID(m.containerdPid); found && programName(m.procDir, pid) == "containerd" && !m.api.reachable(ctx) {
		orphan, err := identify(m.procDir, pid)
		if err == nil {
			if _, err := m.terminate(ctx, orphan); err != nil {
				return actions, fmt.Errorf("stopping the engine's containerd: %w", err)
			}
			actions = append(actions, Action{StepEngine, fmt.Sprintf("stopped containerd, process %d, that the engine left", pid)})
		}
	}
	if err := os.Remove(m.recordPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return actions, fmt.Errorf("forgetting the engine: %w", err)
	}
	return actions, nil
}

// terminate sends SIGTERM and waits until the process is gone.
func (m *machine) terminate(ctx context.Context, target process) (time.Duration, error) {
	if err := unix.Kill(target.PID, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("ending process %d: %w", target.PID, err)
	}
	took, err := poll(ctx, enginePollInterval, engineStopLimit, func() (bool, error) { return !target.alive(m.procDir), nil })
	if err != nil {
		return took, fmt.Errorf("ending process %d: %w", target.PID, err)
	}
	return took, nil
}

// poll calls done at the interval until it reports true, fails, or the limit has passed, and says how long it took.
func poll(ctx context.Context, interval, limit time.Duration, done func() (bool, error)) (time.Duration, error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("gave up after %s", limit))
	defer cancel()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		finished, err := done()
		if err != nil || finished {
			return time.Since(begin).Round(time.Millisecond), err
		}
		select {
		case <-ctx.Done():
			return time.Since(begin).Round(time.Millisecond), context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
