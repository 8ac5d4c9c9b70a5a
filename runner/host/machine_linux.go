package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/host/capability"
)

// machine is the host as Check and Fix see it. Tests put other paths and another command function in place.
type machine struct {
	Options
	api *engineAPI

	daemonConfig     string // the engine's configuration file
	pidFile          string // written by the engine
	containerdPid    string // written by the engine for the containerd that it starts
	containerdSocket string // of a containerd that runs on its own; the engine uses it when the path exists
	procDir          string // proc(5)

	// command runs a program and returns its standard output; its error carries what the program printed.
	command func(ctx context.Context, name string, args ...string) (string, error)
	// lookPath finds a program as exec.LookPath does, also in the sbin directories.
	lookPath func(name string) (string, error)

	bounding    capability.Set
	lastCap     int
	reloadLimit time.Duration // how long a running engine may take to use a changed configuration
}

// newMachine reads what Check and Fix both need to know.
func newMachine(options Options) (*machine, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	bounding, err := capability.Bounding()
	if err != nil {
		return nil, err
	}
	last, err := capability.Last()
	if err != nil {
		return nil, err
	}
	return &machine{
		Options:          options,
		api:              newEngineAPI("/var/run/docker.sock"),
		daemonConfig:     "/etc/docker/daemon.json",
		pidFile:          "/var/run/docker.pid",
		containerdPid:    "/var/run/docker/containerd/containerd.pid",
		containerdSocket: "/run/containerd/containerd.sock",
		procDir:          "/proc",
		command:          runCommand,
		lookPath:         lookPath,
		bounding:         bounding,
		lastCap:          last,
		reloadLimit:      engineReloadLimit,
	}, nil
}

// missing names the capabilities that no process on this host can have.
func (m *machine) missing() []string { return m.bounding.Missing(m.lastCap) }

// systemd reports whether systemd is the init system, as sd_booted(3) does.
func (m *machine) systemd() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// searchPath is where Debian keeps what Fix installs. An ordinary user's PATH often lacks the sbin directories.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds a program in PATH and in [searchPath].
func lookPath(name string) (string, error) {
	found, err := exec.LookPath(name)
	if err == nil {
		return found, nil
	}
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if info, statErr := os.Stat(path); statErr == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", err
}

// commandError is a program that ended badly, with what it printed.
type commandError struct {
	Command []string
	Output  string // standard output, then standard error, without surrounding space
	// ExitCode is what the program ended with, or -1 when it did not run or was killed.
	ExitCode int
	Err      error
}

// Error gives the command line, how it ended, and the last line it printed, which is where programs name the fault.
func (e *commandError) Error() string {
	text := fmt.Sprintf("running %s: %v", strings.Join(e.Command, " "), e.Err)
	if lines := strings.Split(e.Output, "\n"); lines[len(lines)-1] != "" {
		text += ": " + lines[len(lines)-1]
	}
	return text
}

// Unwrap gives how the program ended.
func (e *commandError) Unwrap() error { return e.Err }

// runCommand runs a program with a plain environment, so that its output has one language and it asks no questions.
func runCommand(ctx context.Context, name string, args ...string) (string, error) {
	path, err := lookPath(name)
	if err != nil {
		return "", &commandError{Command: append([]string{name}, args...), ExitCode: -1, Err: err}
	}
	command := exec.CommandContext(ctx, path, args...)
	command.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":"+searchPath,
		"DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1")
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		if ctxErr := ctx.Err(); ctxErr != nil {
			err = errors.Join(ctxErr, err)
		}
		return stdout.String(), &commandError{Command: append([]string{name}, args...), Output: strings.TrimSpace(stdout.String() + stderr.String()),
			ExitCode: command.ProcessState.ExitCode(), Err: err}
	}
	return stdout.String(), nil
}
