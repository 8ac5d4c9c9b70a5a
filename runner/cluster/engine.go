package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
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

// fromKind gives a failed command of kind's library the form of this package's, so that callers find the output in one place.
func fromKind(err error) error {
	run := kindexec.RunErrorForError(err)
	if run == nil {
		return err
	}
	return &CommandError{Args: run.Command, Output: tail(run.Output), Err: run.Inner}
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
	// A group of its own: Ctrl-C at a terminal must reach this process alone, which then ends its commands in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.in, c.out, c.err
	err := cmd.Run()
	if err != nil && ctx.Err() != nil {
		return ended(ctx) // "signal: killed" would be our own doing
	}
	return err
}

// ended is why ctx is done: its error, and its cause where that says more.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// createLimit is how long the engine may take over making one network or starting one container.
const createLimit = time.Minute

// create runs a command that makes something. It is let run to its end even when ctx is cancelled meanwhile: the engine might
// otherwise make the thing after the clean-up has looked for it.
func (e engine) create(ctx context.Context, args ...string) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), createLimit)
	defer cancel()
	_, err := e.docker(whole, nil, args...)
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
	state    string
	networks []string
}

// belongings are what one cluster has in the engine.
type belongings struct {
	nodes    []container
	helpers  []container // the mirror and the sink
	outside  []container // outside hosts of runs
	networks []string
	sealed   bool // whether one of the networks is
}

func (b belongings) empty() bool {
	return len(b.nodes) == 0 && len(b.helpers) == 0 && len(b.outside) == 0 && len(b.networks) == 0
}

// Labels that tell what belongs to a cluster.
const (
	// Label is on every network, container and image that this package makes; its value is the cluster's name.
	Label = "gapproof.dev/cluster"
	// kindLabel is the label kind puts on nodes (sigs.k8s.io/kind/pkg/cluster/internal/providers/docker/constants.go); its value is
	// the name kind knows the cluster by.
	kindLabel = "io.x-k8s.kind.cluster"
)

// find lists what belongs to the cluster, and what carries its names without being its own.
//
// A node is the cluster's own when it has kind's label for the cluster and is attached, or was to be attached, to the cluster's
// network. Nodes of somebody else's network of that name are not.
func (e engine) find(ctx context.Context, name string) (own belongings, foreign []string, err error) {
	networks, err := e.lines(ctx, "network", "ls", "--filter", "name=^"+objectName(name)+"$", "--format", fmt.Sprintf("{{.Name}}\t{{.Label %q}}\t{{.Label %q}}", Label, sealedLabel))
	if err != nil {
		return own, nil, fmt.Errorf("listing networks: %w", err)
	}
	taken := false
	for _, line := range networks {
		network, rest, _ := strings.Cut(line, "\t")
		label, sealed, _ := strings.Cut(rest, "\t")
		if label == name {
			own.networks = append(own.networks, network)
			own.sealed = own.sealed || sealed != ""
		} else {
			taken = true
			foreign = append(foreign, "network "+network)
		}
	}
	helpers, err := e.containers(ctx, Label+"="+name)
	if err != nil {
		return own, nil, err
	}
	for _, c := range helpers {
		if strings.HasPrefix(c.name, outsidePrefix(name)) {
			own.outside = append(own.outside, c)
		} else {
			own.helpers = append(own.helpers, c)
		}
	}
	nodes, err := e.containers(ctx, kindLabel+"="+objectName(name))
	if err != nil {
		return own, nil, err
	}
	for _, c := range nodes {
		if !taken && slices.Contains(c.networks, objectName(name)) {
			own.nodes = append(own.nodes, c)
		} else {
			foreign = append(foreign, "container "+c.name)
		}
	}
	return own, foreign, nil
}

// containers lists those that carry the label, running or not.
func (e engine) containers(ctx context.Context, label string) ([]container, error) {
	lines, err := e.lines(ctx, "container", "ls", "--all", "--no-trunc", "--filter", "label="+label,
		"--format", "{{.ID}}\t{{.Names}}\t{{.State}}\t{{.Networks}}")
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	all := make([]container, 0, len(lines))
	for _, line := range lines {
		f := strings.Split(line, "\t")
		if len(f) < 3 {
			return nil, fmt.Errorf("listing containers: docker printed %q, want an id, a name, a state and networks", line)
		}
		c := container{id: f[0], name: f[1], state: f[2]}
		if len(f) > 3 { // lines are trimmed, and a container may have no network
			c.networks = strings.Split(f[3], ",")
		}
		all = append(all, c)
	}
	return all, nil
}

// removeContainers removes containers with their anonymous volumes. One that is gone already is no error.
func (e engine) removeContainers(ctx context.Context, all []container) (removed []string, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	args := []string{"container", "rm", "--force", "--volumes"}
	for _, c := range all {
		args = append(args, c.id)
		removed = append(removed, "container "+c.name)
	}
	if _, err := e.docker(ctx, nil, args...); err != nil && !gone(err) {
		return nil, fmt.Errorf("removing containers: %w", err)
	}
	return removed, nil
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
