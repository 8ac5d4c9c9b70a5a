package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/runner/host/ocifront"
)

// TestMain lets the test binary be an engine and a runtime front: which one, if any, its name decides.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case ocifront.Name:
		os.Exit(ocifront.Main(context.Background(), os.Args[1:], os.Stderr))
	case "dockerd":
		os.Exit(fakeEngine(context.Background(), os.Args[1:], os.Stderr))
	}
	os.Exit(m.Run())
}

// fakeConfig is the part of an engine's configuration that the fake engine honours. Keys of the tests' own begin with test-.
type fakeConfig struct {
	Hosts    []string `json:"hosts"`
	Default  string   `json:"default-runtime"`
	Runtimes map[string]struct {
		Path string `json:"path"`
	} `json:"runtimes"`
	Fault      string `json:"test-fault"`      // say this and end at once
	Deaf       string `json:"test-deaf"`       // do not reload
	Containers int    `json:"test-containers"` // so many run
}

// fakeEngine is a process that behaves as dockerd does towards this package: it writes its pid file and refuses to start over that of
// a living process, answers on its socket, reloads on SIGHUP and ends on SIGTERM.
func fakeEngine(ctx context.Context, args []string, log io.Writer) int {
	if err := serveFake(ctx, args); err != nil {
		fmt.Fprintln(log, "starting")
		fmt.Fprintln(log, err)
		return 1
	}
	return 0
}

func serveFake(ctx context.Context, args []string) (err error) {
	flag := func(name string) string { return args[slices.Index(args, name)+1] }
	load := func() (config fakeConfig, err error) {
		text, err := os.ReadFile(flag("--config-file"))
		if err != nil {
			return config, err
		}
		return config, json.Unmarshal(text, &config)
	}
	config, err := load()
	if err != nil {
		return err
	}
	if config.Fault != "" {
		return errors.New(config.Fault)
	}
	if pid, found := readPID(flag("--pidfile")); found {
		if _, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid))); err == nil {
			return fmt.Errorf("pid file found, ensure docker is not running or delete %s", flag("--pidfile"))
		}
	}
	if err := os.WriteFile(flag("--pidfile"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGHUP, unix.SIGTERM)
	socket := strings.TrimPrefix(config.Hosts[0], "unix://")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	configs := make(chan fakeConfig, 1)
	configs <- config
	server := &http.Server{Handler: fakeAPI(configs)}
	go func() {
		for received := range signals {
			if received == unix.SIGTERM {
				server.Shutdown(ctx)
				return
			}
			old := <-configs
			if fresh, err := load(); err == nil && old.Deaf == "" {
				old = fresh
			}
			configs <- old
		}
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return os.Remove(flag("--pidfile"))
}

func fakeAPI(configs chan fakeConfig) http.Handler {
	api := http.NewServeMux()
	api.HandleFunc("GET /_ping", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "OK") })
	api.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"Version":"0.0.0","ApiVersion":"1.41","MinAPIVersion":"1.12"}`)
	})
	api.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
		config := <-configs
		configs <- config
		if config.Default == "" {
			config.Default = stockRuntime
		}
		json.NewEncoder(w).Encode(map[string]any{
			"DefaultRuntime": config.Default, "Runtimes": config.Runtimes, "ContainersRunning": config.Containers,
		})
	})
	return api
}

// bench is a machine whose every path lies in a folder of the test's own, lacking CAP_SYS_RESOURCE, with an engine of its own.
// The engine that the host may run is neither asked nor touched.
func bench(t *testing.T, dockerd string, config map[string]any) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("an engine needs root: run the test with sudo")
	}
	// Not t.TempDir, whose names can be longer than the 107 bytes that a socket's path may have.
	dir, err := os.MkdirTemp("", "gph")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMachine(Options{StateDir: filepath.Join(dir, "state"), CacheDir: dir, Executable: own})
	if err != nil {
		t.Fatal(err)
	}
	m.api = newEngineAPI(filepath.Join(dir, "docker.sock"))
	m.daemonConfig = filepath.Join(dir, "daemon.json")
	m.pidFile = filepath.Join(dir, "docker.pid")
	m.containerdPid = filepath.Join(dir, "exec", "containerd", "containerd.pid")
	m.containerdSocket = filepath.Join(dir, "containerd.sock")
	m.bounding &^= 1 << 24
	m.lookPath = func(name string) (string, error) {
		if name == "dockerd" {
			return dockerd, nil
		}
		return lookPath(name)
	}
	config["hosts"] = []string{"unix://" + filepath.Join(dir, "docker.sock")}
	writeConfig(t, m, config)
	t.Cleanup(func() {
		if _, err := m.stopEngine(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return m
}

// fakeBench is a bench with the fake engine. Its runtime front is not asked for its version, which would need a real runc.
func fakeBench(t *testing.T, config map[string]any) *machine {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dockerd := filepath.Join(t.TempDir(), "dockerd")
	if err := os.Symlink(own, dockerd); err != nil {
		t.Fatal(err)
	}
	m := bench(t, dockerd, config)
	m.reloadLimit = time.Second // the fake reloads at once or not at all
	m.Executable = filepath.Join(m.CacheDir, "front")
	writeScript(t, m.Executable, "echo runc version 0.0.0")
	m.command = func(_ context.Context, name string, _ ...string) (string, error) {
		if name == "dpkg-query" {
			return "iptables installed\n", nil
		}
		return "", fmt.Errorf("the test wants no %s", name)
	}
	return m
}

func writeScript(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func writeConfig(t *testing.T, m *machine, config map[string]any) {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.daemonConfig, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// steps fixes the machine and gives the steps that did something.
func steps(t *testing.T, m *machine) []Step {
	t.Helper()
	actions, err := m.exclusively(t.Context(), m.fix)
	if err != nil {
		t.Fatal(err)
	}
	var taken []Step
	for _, action := range actions {
		t.Logf("did: %s", action)
		taken = append(taken, action.Step)
	}
	return slices.Compact(taken)
}

// wantSteps compares the steps of one fix with what is wanted.
func wantSteps(t *testing.T, m *machine, when string, want ...Step) {
	t.Helper()
	if diff := cmp.Diff(want, steps(t, m)); diff != "" {
		t.Fatalf("%s: steps (-want +got):\n%s", when, diff)
	}
}

// killEngine ends the machine's engine as the kernel would when memory is short. It stays a zombie, since nobody waits for it, as
// under an init process that does not.
func killEngine(t *testing.T, m *machine) {
	t.Helper()
	engine, alive := m.ownEngine()
	if !alive {
		t.Fatal("no engine to kill")
	}
	if err := unix.Kill(engine.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := poll(t.Context(), enginePollInterval, engineStopLimit, func() (bool, error) { return !engine.alive("/proc"), nil }); err != nil {
		t.Fatal(err)
	}
}

// testEngineLife is the contract between this package and an engine, whichever it is.
func testEngineLife(t *testing.T, m *machine, healthy func(*testing.T)) {
	original, err := os.ReadFile(m.daemonConfig)
	if err != nil {
		t.Fatal(err)
	}
	wantSteps(t, m, "on a bare host", StepRuntime, StepEngine)
	healthy(t)
	wantSteps(t, m, "a second time")
	if kept, err := os.ReadFile(m.daemonConfig + ".before-gapproof"); err != nil || !bytes.Equal(original, kept) {
		t.Errorf("the configuration as it was: want %s, got %s, %v", original, kept, err)
	}

	killEngine(t, m)
	wantSteps(t, m, "after the engine was killed", StepEngine)
	healthy(t)

	killEngine(t, m)
	recycled := []byte(strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(m.pidFile, recycled, 0o600); err != nil {
		t.Fatal(err)
	}
	wantSteps(t, m, "after the engine's number went to another program", StepEngine)
	healthy(t)

	// An engine keeps what a reloaded configuration no longer mentions, so the stock runtime has to be named.
	var undone map[string]any
	if err := json.Unmarshal(original, &undone); err != nil {
		t.Fatal(err)
	}
	undone["default-runtime"] = stockRuntime
	writeConfig(t, m, undone)
	if err := m.signalReload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := poll(t.Context(), enginePollInterval, m.reloadLimit, func() (bool, error) {
		used, err := m.usesFront(t.Context())
		return !used, err
	}); err != nil {
		t.Fatalf("making the engine forget the front: %v", err)
	}
	before, _ := m.ownEngine()
	wantSteps(t, m, "after the registration was undone", StepRuntime, StepEngine)
	if after, _ := m.ownEngine(); after != before {
		t.Errorf("a reload would have done, but engine %d became %d", before.PID, after.PID)
	}
	healthy(t)

	engine, _ := m.ownEngine()
	stopped, err := m.stopEngine(t.Context())
	if err != nil || len(stopped) != 1 {
		t.Fatalf("stopping: want one action, got %v, %v", stopped, err)
	}
	if engine.alive("/proc") {
		t.Errorf("engine %d is alive", engine.PID)
	}
	if pid, found := readPID(m.containerdPid); found && programName("/proc", pid) == "containerd" {
		t.Errorf("its containerd, process %d, is alive", pid)
	}
	if stopped, err := m.stopEngine(t.Context()); err != nil || len(stopped) != 0 {
		t.Errorf("stopping again: want nothing done, got %v, %v", stopped, err)
	}
}

func TestEngineLifeWithTheFakeEngine(t *testing.T) {
	m := fakeBench(t, map[string]any{"labels": []string{"kept"}})
	testEngineLife(t, m, func(t *testing.T) {
		if used, err := m.usesFront(t.Context()); err != nil || !used {
			t.Errorf("uses the front: want true, got %v, %v", used, err)
		}
	})
}

// TestEngineLifeWithDockerd runs the same against Debian's dockerd, in folders of its own, without a network. It needs root, docker.io
// and runc, and runs where GAPPROOF_LIVE=1, as in CI.
func TestEngineLifeWithDockerd(t *testing.T) {
	if os.Getenv("GAPPROOF_LIVE") != "1" {
		t.Skip("starts a real engine: set GAPPROOF_LIVE=1 and have docker.io installed")
	}
	dockerd, err := lookPath("dockerd")
	if err != nil {
		t.Fatalf("GAPPROOF_LIVE is set: %v", err)
	}
	config := map[string]any{"bridge": "none", "iptables": false, "ip-forward": false}
	m := bench(t, dockerd, config)
	config["data-root"] = filepath.Join(m.CacheDir, "data")
	config["exec-root"] = filepath.Join(m.CacheDir, "exec")
	writeConfig(t, m, config)
	t.Cleanup(func() { unmountBelow(t, m.CacheDir) })
	testEngineLife(t, m, func(t *testing.T) {
		if err := m.tryPrivileged(t.Context()); err != nil {
			t.Error(err)
		}
		var containers, images []json.RawMessage
		if err := m.api.do(t.Context(), http.MethodGet, "/containers/json?all=true", nil, &containers); err != nil || len(containers) > 0 {
			t.Errorf("containers left: %s, %v", containers, err)
		}
		if err := m.api.do(t.Context(), http.MethodGet, "/images/json?all=true", nil, &images); err != nil || len(images) > 0 {
			t.Errorf("images left: %s, %v", images, err)
		}
	})
}

// unmountBelow takes away what a killed engine left mounted, so that the folder can be removed.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if where := strings.Fields(line)[4]; strings.HasPrefix(where, dir+"/") {
			if err := unix.Unmount(where, unix.MNT_DETACH); err != nil {
				t.Errorf("unmounting %s: %v", where, err)
			}
		}
	}
}

func TestAnEngineThatDoesNotReloadIsRestartedIfItIsOurs(t *testing.T) {
	m := fakeBench(t, map[string]any{"test-deaf": "yes", "test-containers": 2})
	if _, err := m.launch(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, _ := m.ownEngine()
	wantSteps(t, m, "with a deaf engine of ours", StepRuntime, StepEngine)
	after, alive := m.ownEngine()
	if !alive || after == before {
		t.Errorf("want another living engine than %d, got %d", before.PID, after.PID)
	}
}

func TestAnEngineOfOthersThatRunsContainersIsLeftAlone(t *testing.T) {
	m := fakeBench(t, map[string]any{"test-deaf": "yes", "test-containers": 2})
	if _, err := m.launch(t.Context()); err != nil {
		t.Fatal(err)
	}
	engine, _ := m.ownEngine()
	record, err := os.ReadFile(m.recordPath())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the bench's own clean-up stops what is recorded
		if err := os.WriteFile(m.recordPath(), record, 0o600); err != nil {
			t.Error(err)
		}
	})
	if err := os.Remove(m.recordPath()); err != nil {
		t.Fatal(err)
	}
	_, err = m.fix(t.Context())
	var hinted *HintedError
	if !errors.Is(err, ErrEngineBusy) || !errors.As(err, &hinted) || hinted.Hint() == "" {
		t.Errorf("want ErrEngineBusy with a hint, got %v", err)
	}
	if stopped, err := m.stopEngine(t.Context()); err != nil || len(stopped) != 0 {
		t.Errorf("stopping: want nothing done, got %v, %v", stopped, err)
	}
	if !engine.alive("/proc") {
		t.Error("the engine of others is gone")
	}
}

func TestAnEngineThatEndsAtOnceIsReportedWithItsLastWords(t *testing.T) {
	m := fakeBench(t, map[string]any{"test-fault": "no disk left for layers"})
	_, err := m.fix(t.Context())
	if !errors.Is(err, ErrEngineNotStarted) || !strings.Contains(err.Error(), "no disk left for layers") {
		t.Errorf("want ErrEngineNotStarted with the log's last line, got %v", err)
	}
	if _, err := os.Stat(m.recordPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the record of an engine that never was: %v", err)
	}
}

func TestACancelledStartLeavesNoEngine(t *testing.T) {
	m := fakeBench(t, map[string]any{})
	sleeper := filepath.Join(m.CacheDir, "dockerd")
	writeScript(t, sleeper, "exec sleep 600")
	m.lookPath = func(string) (string, error) { return sleeper, nil }
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan process, 1)
	go func() {
		defer cancel()
		var engine process
		_, _ = poll(t.Context(), enginePollInterval, engineStartLimit, func() (bool, error) {
			var alive bool
			engine, alive = m.ownEngine()
			return alive, nil
		})
		started <- engine
	}()
	if _, err := m.launch(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("want context.Canceled, got %v", err)
	}
	if engine := <-started; engine.PID == 0 || engine.alive("/proc") {
		t.Errorf("engine %d: want one that was started and is gone", engine.PID)
	}
}

func TestClearStaleRemovesOnlyWhatIsDead(t *testing.T) {
	m := fakeBench(t, map[string]any{})
	listener, err := net.Listen("unix", m.containerdSocket)
	if err != nil {
		t.Fatal(err)
	}
	if actions, err := m.clearStale(t.Context()); err != nil || len(actions) != 0 {
		t.Errorf("a socket that is listened on: want nothing done, got %v, %v", actions, err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.pidFile, []byte("no number"), 0o600); err != nil {
		t.Fatal(err)
	}
	actions, err := m.clearStale(t.Context())
	if err != nil || len(actions) != 1 || !strings.Contains(actions[0].Text, m.containerdSocket) {
		t.Errorf("a socket that nobody listens on: want it removed, got %v, %v", actions, err)
	}
}

func TestParseStat(t *testing.T) {
	tail := strings.Repeat(" 0", 18) + " 4711 0 0"
	tests := []struct {
		name, stat string
		started    uint64
		zombie     bool
		fails      bool
	}{
		{"the start time is field 22", "7 (dockerd) S" + tail, 4711, false, false},
		{"a program's name may hold spaces and parentheses", "7 (a) S (b c) S" + tail, 4711, false, false},
		{"a process nobody waited for is a zombie", "7 (dockerd) Z" + tail, 4711, true, false},
		{"a line cut short is an error", "7 (dockerd) S 1 2", 0, false, true},
		{"a line without a name is an error", "7 dockerd S", 0, false, true},
		{"a start time that is no number is an error", "7 (x) S" + strings.Repeat(" 0", 18) + " soon", 0, false, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			started, zombie, err := parseStat(test.stat)
			if started != test.started || zombie != test.zombie || (err != nil) != test.fails {
				t.Errorf("want %d, %v, failure %v; got %d, %v, %v", test.started, test.zombie, test.fails, started, zombie, err)
			}
		})
	}
}

func TestAProcessIsTheSameOnlyWithItsStartTime(t *testing.T) {
	self, err := identify("/proc", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.alive("/proc") {
		t.Error("the test itself is not alive")
	}
	self.Started++
	if self.alive("/proc") {
		t.Error("a process that started at another time counts as the same")
	}
	child := exec.Command("/bin/true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := poll(t.Context(), enginePollInterval, engineStopLimit, func() (bool, error) {
		return programName("/proc", child.Process.Pid) == "", nil
	}); err != nil {
		t.Errorf("a child that ended and was not waited for still has a name: %v", err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
}
