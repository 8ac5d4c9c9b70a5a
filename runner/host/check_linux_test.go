package host

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/probes/witness"
)

// named gives the one finding of the name.
func named(t *testing.T, findings []Finding, name string) Finding {
	t.Helper()
	for _, finding := range findings {
		if finding.Name == name {
			return finding
		}
	}
	t.Fatalf("no finding %q among %v", name, findings)
	return Finding{}
}

func TestCheckFindsEverythingOnceAndOnOneLine(t *testing.T) {
	m := fakeBench(t, map[string]any{})
	findings, err := m.check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, finding := range findings {
		t.Log(finding)
		if seen[finding.Name] {
			t.Errorf("%s: found twice", finding.Name)
		}
		seen[finding.Name] = true
		if finding.Level == LevelUnknown || finding.Detail == "" || strings.Contains(finding.String(), "\n") {
			t.Errorf("want a level, a detail and one line, got %+v", finding)
		}
		if finding.FixedBy != "" && finding.Hint != FixCommand {
			t.Errorf("%s: fixed by %s, but the hint is %q", finding.Name, finding.FixedBy, finding.Hint)
		}
	}
	for _, program := range witness.Programs() {
		if !seen["program type "+program.String()] {
			t.Errorf("program type %s was not examined", program)
		}
	}
	if got := named(t, findings, "engine"); got.Level != LevelFail || got.FixedBy != StepEngine {
		t.Errorf("without an engine: want a failure that the engine step fixes, got %+v", got)
	}
	if got := named(t, findings, "capabilities"); got.Level != LevelFail || got.FixedBy != StepRuntime || !strings.Contains(got.Detail, "CAP_SYS_RESOURCE") {
		t.Errorf("without a front: want a failure that names the capability, got %+v", got)
	}
	if got := Worst(findings); got != LevelFail {
		t.Errorf("worst: want fail, got %s", got)
	}
}

func TestCheckAfterFixHasNothingLeftToFix(t *testing.T) {
	m := fakeBench(t, map[string]any{})
	steps(t, m)
	findings, err := m.check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"packages", "capabilities", "engine"} {
		if got := named(t, findings, name); got.Level != LevelOK || got.Hint != "" {
			t.Errorf("want ok without a hint, got %+v", got)
		}
	}
	if got := named(t, findings, "engine").Detail; !strings.Contains(got, "started by gapproof") || strings.Contains(got, "not started") {
		t.Errorf("engine: want it to be ours, got %s", got)
	}
	// The fake engine runs no container, and that must not pass for one that ran.
	if got := named(t, findings, "privileged container"); got.Level != LevelFail || !strings.Contains(got.Hint, m.engineLogPath()) {
		t.Errorf("privileged container: want a failure with the engine's log as hint, got %+v", got)
	}
}

func TestCheckNamesAConfigurationItCannotUse(t *testing.T) {
	for config, hint := range map[string]string{
		`{`:                            "--validate",
		`{"default-runtime":"nvidia"}`: "sed -i",
	} {
		m := fakeBench(t, map[string]any{})
		if err := os.WriteFile(m.daemonConfig, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		got := m.checkCapabilities(t.Context())[0]
		if got.Level != LevelFail || !strings.Contains(got.Hint, hint) || got.FixedBy != "" {
			t.Errorf("%s: want a failure with a hint for a person, got %+v", config, got)
		}
		_, err := m.fix(t.Context())
		var hinted *HintedError
		if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), hint) {
			t.Errorf("%s: fix: want the same hint, got %v", config, err)
		}
		if text, err := os.ReadFile(m.daemonConfig); err != nil || string(text) != config {
			t.Errorf("configuration: want %s untouched, got %s, %v", config, text, err)
		}
	}
}

func TestAnExecutableThatIsNoRuntimeIsNotRegistered(t *testing.T) {
	for name, script := range map[string]string{"another program": "echo hello", "one that fails": "echo no such command >&2; exit 2"} {
		m := fakeBench(t, map[string]any{})
		writeScript(t, m.Executable, script)
		before, err := os.ReadFile(m.daemonConfig)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.fix(t.Context()); !errors.Is(err, ErrNotFront) {
			t.Errorf("%s: want ErrNotFront, got %v", name, err)
		}
		if after, err := os.ReadFile(m.daemonConfig); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: configuration: want %s, got %s, %v", name, before, after, err)
		}
	}
}

func TestTheFrontFollowsItsExecutable(t *testing.T) {
	m := fakeBench(t, map[string]any{})
	steps(t, m)
	writeScript(t, m.Executable, "echo runc version 0.0.1")
	wantSteps(t, m, "after a rebuild", StepRuntime)
	wantSteps(t, m, "a second time")
	if err := os.RemoveAll(filepath.Dir(m.frontPath())); err != nil {
		t.Fatal(err)
	}
	if got := m.checkCapabilities(t.Context())[0]; got.FixedBy != StepRuntime {
		t.Errorf("a front that is gone: want a finding that the runtime step fixes, got %+v", got)
	}
	wantSteps(t, m, "after the front was deleted", StepRuntime)
}

func TestPackages(t *testing.T) {
	const query = "dpkg-query"
	unknown := &commandError{Command: []string{query}, ExitCode: 1, Err: errors.New("exit status 1")}
	tests := []struct {
		name      string
		printed   string
		queryErr  error
		aptErr    error
		wantCalls []string
		wantText  string // of the action, or of the error
	}{
		{name: "all installed: apt-get is not called", printed: "iptables installed\njq installed\n"},
		{name: "one removed but still configured is missing", printed: "iptables installed\njq config-files\n",
			wantCalls: []string{"update", "install jq"}, wantText: "installed Debian packages jq"},
		{name: "names that dpkg never heard of are missing", printed: "iptables installed\n", queryErr: unknown,
			wantCalls: []string{"update", "install jq"}, wantText: "installed Debian packages jq"},
		{name: "no dpkg is an error", queryErr: &commandError{Command: []string{query}, ExitCode: -1, Err: exec.ErrNotFound},
			wantText: "asking for installed packages"},
		{name: "what apt-get says is passed on", printed: "iptables installed\n", queryErr: unknown,
			aptErr:    &commandError{Command: []string{"apt-get"}, Output: "Reading\nE: no room", ExitCode: 100, Err: errors.New("exit status 100")},
			wantCalls: []string{"update", "install jq"}, wantText: "E: no room"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var calls []string
			m := &machine{lookPath: func(name string) (string, error) { return "/usr/sbin/" + name, nil }}
			m.Options, _ = Options{Packages: []string{"jq", "iptables"}}.withDefaults()
			m.command = func(_ context.Context, name string, args ...string) (string, error) {
				if name == query {
					return test.printed, test.queryErr
				}
				call := args[0]
				for i, arg := range args {
					if arg == "--" {
						call += " " + strings.Join(args[i+1:], " ")
					}
				}
				if args[0] == "install" && !strings.Contains(strings.Join(args, " "), "--no-remove") {
					t.Error("installing may remove packages")
				}
				calls = append(calls, call)
				return "", test.aptErr
			}
			actions, err := m.installPackages(t.Context())
			got := ""
			if len(actions) > 0 {
				got = actions[0].Text
			}
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.wantCalls, calls); diff != "" {
				t.Errorf("calls of apt-get (-want +got):\n%s", diff)
			}
			if !strings.Contains(got, test.wantText) || (got == "") != (test.wantText == "") {
				t.Errorf("want %q, got %q", test.wantText, got)
			}
		})
	}
}

func TestTheEnginePackageIsWantedOnlyWithoutAnEngine(t *testing.T) {
	m := &machine{Options: Options{Packages: []string{"jq", "iptables"}}}
	m.lookPath = func(string) (string, error) { return "", exec.ErrNotFound }
	if diff := cmp.Diff([]string{"docker.io", "iptables", "jq"}, m.wantedPackages()); diff != "" {
		t.Errorf("on a bare host (-want +got):\n%s", diff)
	}
	m.lookPath = func(string) (string, error) { return "/usr/bin/dockerd", nil }
	if diff := cmp.Diff([]string{"iptables", "jq"}, m.wantedPackages()); diff != "" {
		t.Errorf("beside another vendor's engine (-want +got):\n%s", diff)
	}
}

func TestReadCgroupLayout(t *testing.T) {
	const (
		root    = "20 1 254:0 / / rw - ext4 /dev/vda rw\n"
		unified = "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
		memory  = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
		beside  = "32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		foreign = "33 30 0:29 / /mnt/cgroup rw - cgroup2 cgroup2 rw\n"
	)
	tests := []struct {
		name, mountinfo string
		want            cgroupLayout
	}{
		{"one tree of version 2", root + unified, cgroupUnified},
		{"controllers of version 1 with version 2 beside them", root + memory + beside, cgroupHybrid},
		{"the order of mounts does not matter", root + beside + memory, cgroupHybrid},
		{"controllers of version 1 alone", root + memory, cgroupLegacy},
		{"version 2 mounted elsewhere is nobody's", root + memory + foreign, cgroupLegacy},
		{"none", root, cgroupNone},
		{"lines that are no mounts", "\n - \nx - cgroup2\n", cgroupNone},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := readCgroupLayout(test.mountinfo); got != test.want {
				t.Errorf("want %s, got %s", test.want, got)
			}
		})
	}
}

func TestAvailableMemory(t *testing.T) {
	tests := []struct {
		name, meminfo string
		want          uint64
		fails         bool
	}{
		{"kibibytes become bytes", "MemTotal: 9 kB\nMemAvailable:   2048 kB\n", 2 << 20, false},
		{"no such line", "MemTotal: 9 kB\n", 0, true},
		{"no number", "MemAvailable: much\n", 0, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := availableMemory(test.meminfo)
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("want %d, failure %v; got %d, %v", test.want, test.fails, got, err)
			}
		})
	}
}

func TestEnoughGradesAtItsLimits(t *testing.T) {
	for have, want := range map[uint64]Level{0: LevelFail, 9: LevelFail, 10: LevelWarn, 19: LevelWarn, 20: LevelOK, math.MaxUint64: LevelOK} {
		got := enough("disk", "free", have, 20, 10, "df -h")
		if got.Level != want || (got.Hint == "") != (want == LevelOK) {
			t.Errorf("%d bytes: want %s, and a hint unless ok, got %+v", have, want, got)
		}
	}
}

func TestFreeDiskMeasuresWhereAFolderWillBe(t *testing.T) {
	dir := t.TempDir()
	present := freeDisk("disk", dir, 0, 0)
	absent := freeDisk("disk", filepath.Join(dir, "not", "yet"), 0, 0)
	if present.Level != LevelOK || absent.Level != LevelOK {
		t.Errorf("want both ok, got %v and %v", present, absent)
	}
}

func TestIPTablesOfTheEngine(t *testing.T) {
	tests := []struct {
		name, version string
		works         []string
		want          Level
		hint          string
	}{
		{"the chosen back end works", "iptables v1.8.9 (nf_tables)", []string{"iptables-nft"}, LevelOK, ""},
		{"only the other one works", "iptables v1.8.9 (nf_tables)", []string{"iptables-legacy"}, LevelFail,
			"update-alternatives --set iptables /usr/sbin/iptables-legacy"},
		{"none works", "iptables v1.8.9 (legacy)", nil, LevelFail, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := &machine{command: func(context.Context, string, ...string) (string, error) { return test.version, nil }}
			got := m.checkIPTables(t.Context(), test.works)[0]
			if got.Level != test.want || got.Hint != test.hint {
				t.Errorf("want %s with hint %q, got %+v", test.want, test.hint, got)
			}
		})
	}
}

func TestShortRefusalIsTheKernelsOwnAnswer(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want string
	}{
		{"an errno", &witness.RefusedError{Program: witness.ProgramFentry, Stage: "loading", Err: fmt.Errorf("load program: %w (MEMLOCK?)", unix.EPERM)},
			"refused at loading: operation not permitted"},
		{"another cause", &witness.RefusedError{Program: witness.ProgramKprobe, Stage: "attaching", Err: fmt.Errorf("a: %w", errors.New("no tracefs"))},
			"refused at attaching: no tracefs"},
		{"no refusal", context.Canceled, "context canceled"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := shortRefusal(test.err); got != test.want {
				t.Errorf("want %q, got %q", test.want, got)
			}
		})
	}
}

func TestTheTrialProgramsRun(t *testing.T) {
	archive, err := trialArchive(runtime.GOARCH)
	if errors.Is(err, errNoTrialProgram) {
		t.Skipf("%v: run the test on amd64", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var names []string
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := elf.NewFile(bytes.NewReader(content)); err != nil {
			t.Errorf("%s: %v", header.Name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, header.Name), content, 0o700); err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
	}
	if diff := cmp.Diff([]string{"wait", "leave"}, names); diff != "" {
		t.Fatalf("programs (-want +got):\n%s", diff)
	}
	if err := exec.Command(filepath.Join(dir, "leave")).Run(); err != nil {
		t.Errorf("leave: %v", err)
	}
	waiting := exec.Command(filepath.Join(dir, "wait"))
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	// pause(2) is where it must arrive; wchan is not readable everywhere, but the system call's number is.
	if _, err := poll(t.Context(), enginePollInterval, engineStopLimit, func() (bool, error) {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", waiting.Process.Pid))
		return strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_PAUSE, " ")), err
	}); err != nil {
		t.Errorf("wait does not wait: %v", err)
	}
	if err := waiting.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var ended *exec.ExitError
	if err := waiting.Wait(); !errors.As(err, &ended) {
		t.Errorf("wait ended by itself: %v", err)
	}
}

func TestNoTrialProgramIsNotAFailure(t *testing.T) {
	if _, err := trialArchive("riscv64"); !errors.Is(err, errNoTrialProgram) {
		t.Errorf("want errNoTrialProgram, got %v", err)
	}
}

func TestRunCommandCarriesWhatTheProgramSaid(t *testing.T) {
	text, err := runCommand(t.Context(), "sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3")
	var failed *commandError
	if text != "out\n" || !errors.As(err, &failed) || failed.ExitCode != 3 || !strings.HasSuffix(err.Error(), ": last") {
		t.Errorf("want the output, exit code 3 and the last line, got %q, %v", text, err)
	}
	if _, err := runCommand(t.Context(), "gapproof-no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("want exec.ErrNotFound, got %v", err)
	}
}

func TestDefaultFoldersFollowXDG(t *testing.T) {
	t.Setenv("HOME", "/home/a")
	t.Setenv("XDG_CACHE_HOME", "relative")
	t.Setenv("XDG_STATE_HOME", "/state")
	state, err := DefaultStateDir()
	if err != nil || state != "/state/gapproof" {
		t.Errorf("state: want /state/gapproof, got %s, %v", state, err)
	}
	cache, err := DefaultCacheDir()
	if err != nil || cache != "/home/a/.cache/gapproof" {
		t.Errorf("cache: want /home/a/.cache/gapproof, as a relative path is ignored, got %s, %v", cache, err)
	}
}
