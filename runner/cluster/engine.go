package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"

	kindexec "sigs.k8s.io/kind/pkg/exec"
)

// ErrEngine reports that the container engine does not answer.
var ErrEngine = errors.New("container engine does not answer")

const (
	// outputKept is how much of a failed command's output an error keeps, from its end, where the reason is.
	outputKept = 4 << 10
	// killGrace is how long a cancelled docker command may take to let go of its pipes.
	killGrace = 2 * time.Second
)

// CommandError is a command that failed, with what it printed.
type CommandError struct {
	// Args are the command and its arguments.
	Args []string
	// Output is the end of its standard output and error, or of its error alone where the output was wanted.
	Output string
	// Err is the reason, such as an [*exec.ExitError].
	Err error
}

// Error names the command and the last line it printed.
func (e *CommandError) Error() string {
	last := strings.TrimSpace(e.Output)
	if i := strings.LastIndexByte(last, '\n'); i >= 0 {
		last = last[i+1:]
	}
	if last == "" {
		return fmt.Sprintf("running %q: %v", strings.Join(e.Args, " "), e.Err)
	}
	return fmt.Sprintf("running %q: %v: %s", strings.Join(e.Args, " "), e.Err, last)
}

// Unwrap returns the reason.
func (e *CommandError) Unwrap() error { return e.Err }

// fromKind gives an error of kind's library the form of this package's, so that callers find the output in one place.
func fromKind(err error) error {
	run := kindexec.RunErrorForError(err)
	if run == nil {
		return err
	}
	return fmt.Errorf("%w (kind: %w)", &CommandError{Args: run.Command, Output: tail(run.Output), Err: run.Inner}, err)
}

func tail(b []byte) string {
	if len(b) > outputKept {
		b = b[len(b)-outputKept:]
	}
	return string(b)
}

// call is one docker command to run.
type call struct {
	args []string
	// in is read as its standard input, nothing when nil.
	in io.Reader
	// out and err receive what it prints.
	out, err io.Writer
}

// engine is the docker command. The lab uses the command and not the API's client: kind does too, so both see one context.
type engine struct {
	// run runs one command to its end; the error is why it failed.
	run func(context.Context, call) error
}

func newEngine() engine { return engine{run: runDocker} }

func runDocker(ctx context.Context, c call) error {
	cmd := exec.CommandContext(ctx, "docker", c.args...)
	cmd.WaitDelay = killGrace
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, c.out, c.err
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // "signal: killed" would be our own doing
	}
	return err
}

// docker runs docker with args and returns its standard output. stdin may be nil. A failure is a *CommandError.
func (e engine) docker(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	if err := e.run(ctx, call{args: args, in: stdin, out: &stdout, err: &stderr}); err != nil {
		return nil, &CommandError{Args: append([]string{"docker"}, args...), Output: tail(stderr.Bytes()), Err: err}
	}
	return stdout.Bytes(), nil
}

// lines runs docker and returns the lines it printed, without empty ones.
func (e engine) lines(ctx context.Context, args ...string) ([]string, error) {
	out, err := e.docker(ctx, nil, args...)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all, nil
}

// check asks the engine for its version.
func (e engine) check(ctx context.Context) (string, error) {
	out, err := e.docker(ctx, nil, "version", "--format", "{{.Server.Version}}")
	if err != nil {
		return "", fmt.Errorf("asking the engine for its version: %w: %w", ErrEngine, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// container is one container of a cluster.
type container struct {
	id, name string
	// state is docker's word: created, running, exited, …
	state string
}

// belongings are what one cluster has in the engine.
type belongings struct {
	nodes    []container
	helpers  []container // the mirror
	networks []string
	images   []string
}

func (b belongings) empty() bool {
	return len(b.nodes) == 0 && len(b.helpers) == 0 && len(b.networks) == 0
}

// Labels that tell what belongs to a cluster.
const (
	// Label is on every network, container and image that this package makes; its value is the cluster's name.
	Label = "gapproof.dev/cluster"
	// kindLabel is the label kind puts on nodes (sigs.k8s.io/kind/pkg/cluster/internal/providers/docker/constants.go); its value is
	// the name kind knows the cluster by.
	kindLabel = "io.x-k8s.kind.cluster"
)

// find lists what belongs to the cluster, and the containers that carry its kind name without being its own.
func (e engine) find(ctx context.Context, name string) (own belongings, foreign []container, err error) {
	mine := "label=" + Label + "=" + name
	if own.networks, err = e.lines(ctx, "network", "ls", "--filter", mine, "--format", "{{.Name}}"); err != nil {
		return own, nil, fmt.Errorf("listing networks: %w", err)
	}
	if own.helpers, err = e.containers(ctx, "--filter", mine); err != nil {
		return own, nil, err
	}
	kindNodes := "label=" + kindLabel + "=" + objectName(name)
	all, err := e.containers(ctx, "--filter", kindNodes)
	if err != nil {
		return own, nil, err
	}
	if len(own.networks) > 0 {
		if own.nodes, err = e.containers(ctx, "--filter", kindNodes, "--filter", "network="+objectName(name)); err != nil {
			return own, nil, err
		}
	}
	attached := map[string]bool{}
	for _, c := range own.nodes {
		attached[c.id] = true
	}
	for _, c := range all {
		if !attached[c.id] {
			foreign = append(foreign, c)
		}
	}
	return own, foreign, nil
}

func (e engine) containers(ctx context.Context, filters ...string) ([]container, error) {
	args := append([]string{"container", "ls", "--all", "--no-trunc", "--format", "{{.ID}}\t{{.Names}}\t{{.State}}"}, filters...)
	lines, err := e.lines(ctx, args...)
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	all := make([]container, 0, len(lines))
	for _, line := range lines {
		f := strings.Split(line, "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("listing containers: docker printed %q, want an id, a name and a state", line)
		}
		all = append(all, container{id: f[0], name: f[1], state: f[2]})
	}
	return all, nil
}

// removeContainers removes containers with their anonymous volumes. One that is gone already is no error.
func (e engine) removeContainers(ctx context.Context, all []container) ([]string, error) {
	var removed []string
	var faults []error
	if len(all) == 0 {
		return nil, nil
	}
	args := []string{"container", "rm", "--force", "--volumes"}
	for _, c := range all {
		args = append(args, c.id)
		removed = append(removed, "container "+c.name)
	}
	if _, err := e.docker(ctx, nil, args...); err != nil && !gone(err) {
		faults = append(faults, fmt.Errorf("removing containers: %w", err))
		removed = nil
	}
	return removed, errors.Join(faults...)
}

// gone tells whether the command failed only because what it was to remove does not exist.
func gone(err error) bool {
	var failed *CommandError
	if !errors.As(err, &failed) {
		return false
	}
	lines := strings.Split(strings.TrimSpace(failed.Output), "\n")
	for _, line := range lines {
		if !strings.Contains(line, "No such") && !strings.Contains(line, "not found") && !strings.Contains(line, "already in progress") {
			return false
		}
	}
	return true
}
