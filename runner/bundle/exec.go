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

func (e *CommandError) Error() string {
	msg := fmt.Sprintf("running %s in %s: %v", strings.Join(e.Args, " "), e.Dir, e.Err)
	if e.Output != "" {
		msg += "\n" + e.Output
	}
	return msg
}

// Unwrap returns Err.
func (e *CommandError) Unwrap() error { return e.Err }

// runCommand runs name with args in dir and copies its output to stdout. The command and all that it starts are told to end when
// ctx is done, and killed when this process dies. The error is a *CommandError, or the cause of ctx.
func runCommand(ctx context.Context, dir string, env []string, stdout io.Writer, name string, args ...string) error {
	return runCommandWith(ctx, nil, dir, env, stdout, name, args...)
}

// runCommandWith is runCommand for a command that reads stdin.
func runCommandWith(
	ctx context.Context, stdin io.Reader, dir string, env []string, stdout io.Writer, name string, args ...string,
) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = env
	cmd.Stdin = stdin
	cmd.Stdout = stdout
	tail := &tailBuffer{limit: outputKept}
	cmd.Stderr = tail
	cmd.WaitDelay = stopGrace
	done := tieToUs(cmd)
	err := cmd.Run()
	done()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("running %s: %w", name, stopped(ctx))
	}
	return &CommandError{Args: append([]string{name}, args...), Dir: dir, Output: strings.TrimSpace(tail.String()), Err: err}
}

// stopped is nil while ctx runs. Then it is an error that matches both ctx.Err and the cause, which for a signal are not the same.
func stopped(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if err == nil || errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// outputOf is runCommand for a command whose output is wanted as a string, without the white space around it.
func outputOf(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	var out bytes.Buffer
	err := runCommand(ctx, dir, env, &out, name, args...)
	return strings.TrimSpace(out.String()), err
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
