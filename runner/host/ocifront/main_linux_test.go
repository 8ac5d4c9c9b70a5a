package ocifront

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMain lets the test binary be the front: started under the front's name it never reaches the tests.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == Name {
		os.Exit(Main(context.Background(), os.Args[1:], os.Stderr))
	}
	os.Exit(m.Run())
}

// front runs the front as an engine would, with a runc that prints its arguments, and gives what came out.
func front(t *testing.T, dir string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := &exec.Cmd{Path: own, Args: append([]string{Name}, args...), Dir: dir, Env: []string{"PATH=" + fakeRuntime(t) + ":/usr/bin:/bin"}}
	var out, fault bytes.Buffer
	command.Stdout, command.Stderr = &out, &fault
	err = command.Run()
	return out.String(), fault.String(), err
}

func fakeRuntime(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeTest(t, filepath.Join(dir, "runc"), "#!/bin/sh\nprintf '%s\\n' \"$@\"\n", 0o755)
	return dir
}

func writeTest(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func readTest(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheFrontBecomesTheRuntimeUnderTheSameArguments(t *testing.T) {
	dir := t.TempDir()
	writeTest(t, filepath.Join(dir, "config.json"), `{"process":{"args":["x"]}}`, 0o600)
	for _, args := range [][]string{
		{"--version"},
		{"--log", "/dev/null", "create", "--bundle", dir, "--", "odd  name"},
		{"delete", "--force", "id"},
		{"exec", "id", "sh", "-c", "exit 0"},
		{},
	} {
		stdout, stderr, err := front(t, dir, args...)
		if err != nil {
			t.Errorf("%q: %v: %s", args, err, stderr)
		}
		if diff := cmp.Diff(strings.Join(args, "\n")+"\n", stdout); diff != "" {
			t.Errorf("%q: arguments of the runtime (-want +got):\n%s", args, diff)
		}
	}
}

func TestTheFrontTakesOutWhatNoHostHas(t *testing.T) {
	// No kernel has this capability, so the test needs no host that lacks one.
	const asked = `{"process":{"capabilities":{"bounding":["CAP_FROM_THE_FUTURE"]}},"hostname":"h"}`
	t.Run("from config.json of a bundle, through a link, keeping its mode", func(t *testing.T) {
		dir := t.TempDir()
		real := filepath.Join(dir, "real.json")
		writeTest(t, real, asked, 0o640)
		if err := os.Symlink("real.json", filepath.Join(dir, "config.json")); err != nil {
			t.Fatal(err)
		}
		if _, stderr, err := front(t, dir, "run", "id"); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		if want, got := `{"hostname":"h","process":{"capabilities":{"bounding":[]}}}`, readTest(t, real); got != want {
			t.Errorf("want %s\ngot  %s", want, got)
		}
		info, err := os.Stat(real)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o640 {
			t.Errorf("mode: want 0640, got %o", got)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Errorf("want the link and the file alone, got %v, %v", entries, err)
		}
	})
	t.Run("from the process file of exec", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "process.json")
		writeTest(t, file, `{"capabilities":{"effective":["CAP_FROM_THE_FUTURE","CAP_CHOWN"]}}`, 0o600)
		if _, stderr, err := front(t, "/", "exec", "--process="+file, "id"); err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		if got := readTest(t, file); strings.Contains(got, "FUTURE") {
			t.Errorf("still asks for it: %s", got)
		}
	})
}

func TestAFaultReachesTheEngineAndLosesNothing(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	log := filepath.Join(dir, "log.json")
	const broken = `{"process":{"capabilities":7}}`
	writeTest(t, config, broken, 0o600)
	writeTest(t, log, "{\"level\":\"info\"}\n", 0o600)
	stdout, stderr, err := front(t, dir, "--log", log, "--log-format", "json", "create", "--bundle", dir, "id")
	var ended *exec.ExitError
	if !errors.As(err, &ended) || ended.ExitCode() != exitFault {
		t.Errorf("exit code: want %d, got %v", exitFault, err)
	}
	if stdout != "" {
		t.Errorf("the runtime ran: %s", stdout)
	}
	if got := readTest(t, config); got != broken {
		t.Errorf("config.json: want it as it was, got %s", got)
	}
	lines := strings.Split(strings.TrimSpace(readTest(t, log)), "\n")
	if len(lines) != 2 {
		t.Fatalf("log: want the line that was there and one more, got %q", lines)
	}
	var line logLine
	if err := json.Unmarshal([]byte(lines[1]), &line); err != nil {
		t.Fatal(err)
	}
	if line.Level != "error" || !strings.Contains(line.Message, config) || !strings.Contains(line.Message, "process.capabilities") {
		t.Errorf("log: want an error that names the file and the field, got %+v", line)
	}
	if _, err := time.Parse(time.RFC3339, line.Time); err != nil {
		t.Error(err)
	}
	if !strings.Contains(stderr, "process.capabilities") {
		t.Errorf("standard error: want the fault too, got %q", stderr)
	}
}

func TestFaults(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := exec.Command("mkfifo", fifo).Run(); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(dir, "huge")
	writeTest(t, huge, "", 0o600)
	if err := os.Truncate(huge, maxSpecBytes+1); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a bundle without config.json", []string{"create", "--bundle", filepath.Join(dir, "none"), "id"}, "no such file or directory"},
		{"a process file that can be read only once", []string{"exec", "-p", fifo, "id"}, ErrNotRegular.Error()},
		{"a file too large to be a specification", []string{"exec", "-p", huge, "id"}, "more than"},
		{"a log that cannot be written is said too", []string{"--log", dir, "exec", "-p", huge, "id"}, "writing the fault to the runtime's log"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, stderr, err := front(t, dir, test.args...)
			if err == nil || !strings.Contains(stderr, test.want) {
				t.Errorf("want a fault with %q, got %v: %s", test.want, err, stderr)
			}
		})
	}
}

func TestTextIsTheLogFormatThatRuncDefaultsTo(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := logFault(parseCommand([]string{"--log", log}), errors.New(`a "fault"`), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	want := `time="1970-01-01T00:00:00Z" level=error msg="gapproof-oci: a \"fault\""` + "\n"
	if got := readTest(t, log); got != want {
		t.Errorf("want %s\ngot  %s", want, got)
	}
}

func TestTheHostsOwnLimitsCanBeRead(t *testing.T) {
	hard, known := hardLimit("RLIMIT_NOFILE")
	if !known || hard == 0 {
		t.Errorf("RLIMIT_NOFILE: want a limit, got %d, %v", hard, known)
	}
	if _, known := hardLimit("RLIMIT_FROM_THE_FUTURE"); known {
		t.Error("a limit that nobody knows is known")
	}
	before := readTest(t, oomScoreAdjFile)
	if got := possibleOOMScoreAdj(1000); got != 1000 {
		t.Errorf("a higher score: want 1000, got %d", got)
	}
	// What the kernel answers depends on the host: either the score may be set, or the current one is the lowest that is sure.
	if got := possibleOOMScoreAdj(-1000); got != -1000 && strconv.Itoa(got) != strings.TrimSpace(before) {
		t.Errorf("a lower score: want -1000 or the current %s, got %d", before, got)
	}
	if after := readTest(t, oomScoreAdjFile); after != before {
		t.Errorf("own score: want %s as before, got %s", before, after)
	}
}

func TestTheFrontNeverBecomesItself(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(own, filepath.Join(dir, "runc")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	found, err := findRuntime()
	if err != nil && !errors.Is(err, ErrNoRuntime) {
		t.Fatal(err)
	}
	if found == filepath.Join(dir, "runc") {
		t.Error("found itself")
	}
}
