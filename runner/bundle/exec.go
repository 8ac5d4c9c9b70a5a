package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// stopGrace is how long a command may take to end by itself when the build is cancelled: mmdebstrap unmounts what it mounted in
// the new root, which takes it about a second.
const stopGrace = 10 * time.Second

// outputKept is how much of a command's error output a CommandError carries: the go command prints the cause last.
const outputKept = 8 << 10

// CommandError is a command of the build that failed.
type CommandError struct {
	// Args are the program and its arguments, Dir is where it ran.
	Args []string
	Dir  string
	// Output is the end of what it wrote to its error output.
	Output string
	// Err is the error of os/exec.
	Err error
}

// Error names the command and its folder, and has what it wrote on the lines below.
func (e *CommandError) Error() string {
	msg := fmt.Sprintf("running %s in %s: %v", strings.Join(e.Args, " "), e.Dir, e.Err)
	if e.Output != "" {
		msg += "\n" + e.Output
	}
	return msg
}

// Unwrap returns Err.
func (e *CommandError) Unwrap() error { return e.Err }

// command is how a program of the build runs. Its zero value runs in our own folder and environment.
type command struct {
	dir    string
	env    []string // nil means ours
	stdin  io.Reader
	stdout io.Writer // nil means nowhere
	// confined gives the program and all it starts a world of processes and mounts that ends with it; see confine.
	confined bool
}

// run runs the program name and waits for it. When ctx is done the program and what it started are told to end; when this process
// dies the kernel kills it. The error is a *CommandError, or says that ctx was done.
func (c command) run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	tail := &tailBuffer{limit: outputKept}
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = c.dir, c.env, c.stdin, c.stdout, tail
	cmd.WaitDelay = stopGrace
	done := tieToUs(cmd)
	if c.confined {
		confine(cmd)
	}
	err := cmd.Run()
	done()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("running %s: %w", name, stopped(ctx))
	}
	return &CommandError{Args: cmd.Args, Dir: c.dir, Output: strings.TrimSpace(tail.String()), Err: err}
}

// output is run for a program whose output is wanted, without the white space around it.
func (c command) output(ctx context.Context, name string, args ...string) (string, error) {
	var out bytes.Buffer
	c.stdout = &out
	err := c.run(ctx, name, args...)
	return strings.TrimSpace(out.String()), err
}

// stopped is nil while ctx runs. Then it is an error that matches both ctx.Err and the cause, which for a signal are not the same.
func stopped(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// found reports whether the host has a program of this name.
func found(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil || errors.Is(err, exec.ErrDot)
}

// tailBuffer keeps the last limit bytes written to it.
type tailBuffer struct {
	limit int
	data  []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p...)
	if over := len(b.data) - b.limit; over > 0 {
		b.data = append(b.data[:0], b.data[over:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string { return string(b.data) }
