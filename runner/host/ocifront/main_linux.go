package ocifront

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// exitFault is the exit code for a fault of the front itself; runc uses the same for its own.
const exitFault = 1

// maxSpecBytes bounds what is read of a specification. Real ones are tens of kilobytes; a file beyond this is not one.
const maxSpecBytes = 16 << 20

// ErrNoRuntime reports that no runc was found beside the front.
var ErrNoRuntime = errors.New("no runc found in PATH, /usr/sbin, /usr/bin or /usr/local/sbin")

// ErrNotRegular reports a specification that is not a regular file. It could only be read once, so filtering it would take it
// away from runc.
var ErrNotRegular = errors.New("not a regular file")

// Main is the runtime: args are the arguments after the program name. It returns only on a fault, with the exit code; otherwise
// the process has become runc. A fault is written to stderr and to the file of --log.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	parsed := parseCommand(args)
	err := run(ctx, parsed, args)
	fmt.Fprintf(stderr, "%s: %v\n", Name, err)
	if logErr := logFault(parsed, err, time.Now()); logErr != nil {
		fmt.Fprintf(stderr, "%s: %v\n", Name, logErr)
	}
	return exitFault
}

// run filters what the command uses and becomes runc. It returns only with an error.
func run(ctx context.Context, parsed command, args []string) error {
	runtime, err := findRuntime()
	if err != nil {
		return err
	}
	if parsed.subject != subjectNone {
		host, err := hostLimits()
		if err != nil {
			return err
		}
		if err := filterFor(parsed, host); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("starting %s: %w", runtime, err)
	}
	if err := syscall.Exec(runtime, append([]string{runtime}, args...), os.Environ()); err != nil {
		return fmt.Errorf("starting %s: %w", runtime, err)
	}
	return nil
}

// filterFor lowers the file that the command's process is made from.
func filterFor(parsed command, host limits) error {
	switch parsed.subject {
	case subjectBundle:
		return rewrite(filepath.Join(parsed.bundle, "config.json"), host, filterSpec)
	case subjectProcess:
		return rewrite(parsed.process, host, filterProcess)
	default:
		return nil
	}
}

// findRuntime finds the real runc: the first one that is not this very program.
func findRuntime() (string, error) {
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("finding runc: %w", err)
	}
	var candidates []string
	if found, err := exec.LookPath("runc"); err == nil {
		candidates = append(candidates, found)
	}
	for _, path := range append(candidates, "/usr/sbin/runc", "/usr/bin/runc", "/usr/local/sbin/runc") {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !os.SameFile(own, info) {
			return path, nil
		}
	}
	return "", ErrNoRuntime
}

// rewrite replaces the file at path by its filtered form. The file is left as it is when there is nothing to lower or when
// anything goes wrong.
func rewrite(path string, host limits, filter func([]byte, limits) ([]byte, bool, error)) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("filtering %s: %w", path, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("filtering %s: %w", path, ErrNotRegular)
	}
	if info.Size() > maxSpecBytes {
		return fmt.Errorf("filtering %s: %d bytes is more than the %d a specification may have", path, info.Size(), maxSpecBytes)
	}
	original, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("filtering %s: %w", path, err)
	}
	filtered, changed, err := filter(original, host)
	if err != nil {
		return fmt.Errorf("filtering %s: %w", path, err)
	}
	if !changed {
		return nil
	}
	// The path may be a link; the file it leads to is the one to replace.
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("filtering %s: %w", path, err)
	}
	if err := replaceFile(target, filtered, info); err != nil {
		return fmt.Errorf("filtering %s: %w", path, err)
	}
	return nil
}

// replaceFile writes content beside path and renames it over path, with the mode and owner of the file that was there.
func replaceFile(path string, content []byte, was os.FileInfo) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	if _, err := file.Write(content); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Chmod(was.Mode().Perm()); err != nil {
		return errors.Join(err, file.Close())
	}
	if owner, ok := was.Sys().(*syscall.Stat_t); ok {
		if err := file.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
			return errors.Join(err, file.Close())
		}
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// logLine is one line of runc's JSON log, which the engine's shim reads the last error from.
type logLine struct {
	Level   string `json:"level"`
	Message string `json:"msg"`
	Time    string `json:"time"`
}

// logFault appends the fault to the file of --log in the format that --log-format names. Without --log standard error, which the
// caller has written already, is the log.
func logFault(parsed command, fault error, now time.Time) (err error) {
	if parsed.logFile == "" {
		return nil
	}
	line := logLine{Level: "error", Message: Name + ": " + fault.Error(), Time: now.UTC().Format(time.RFC3339)}
	text := fmt.Sprintf("time=%q level=%s msg=%q\n", line.Time, line.Level, line.Message)
	if parsed.logFormat == "json" {
		encoded, err := json.Marshal(line)
		if err != nil {
			return fmt.Errorf("encoding the fault for %s: %w", parsed.logFile, err)
		}
		text = string(encoded) + "\n"
	}
	file, err := os.OpenFile(parsed.logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing the fault to the runtime's log: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.WriteString(text); err != nil {
		return fmt.Errorf("writing the fault to the runtime's log: %w", err)
	}
	return nil
}
