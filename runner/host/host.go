package host

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// Errors that callers branch on.
var (
	// ErrUnsupported reports a platform on which no lab can run.
	ErrUnsupported = errors.New("a lab needs Linux")
	// ErrNotRoot reports that the host cannot be fixed by an ordinary user.
	ErrNotRoot = errors.New("root is needed")
	// ErrEngineBusy reports an engine that would have to be restarted, that this program did not start, and that runs containers.
	ErrEngineBusy = errors.New("the engine runs containers and was not started by gapproof")
	// ErrRuntimeTaken reports a default runtime that somebody chose on purpose and that is therefore not replaced.
	ErrRuntimeTaken = errors.New("another default runtime is configured")
	// ErrNotFront reports an executable that does not act as the runtime front when it is called by the front's name.
	ErrNotFront = errors.New("not a runtime front")
	// ErrEngineNotStarted reports an engine that did not answer within its limit.
	ErrEngineNotStarted = errors.New("the engine did not answer")
)

// HintedError is an error with a command that can be typed.
type HintedError struct {
	Err     error
	Command string
}

// Error is the error's text without the hint.
func (e *HintedError) Error() string { return e.Err.Error() }

// Unwrap gives the error.
func (e *HintedError) Unwrap() error { return e.Err }

// Hint is the command, as every user-facing error of the project gives it.
func (e *HintedError) Hint() string { return e.Command }

// NothingToFix is what to print when [Fix] returns no action.
const NothingToFix = "nothing to fix: packages, runtime and engine are as a lab needs them"

// FixCommand is the hint of every finding that [Fix] cures.
const FixCommand = "gapproof doctor --fix"

// Level says how much a finding matters. The zero value is unknown and is never returned.
type Level int

// The levels, from good to bad.
const (
	LevelUnknown Level = iota
	// LevelOK means that a lab has what it needs here.
	LevelOK
	// LevelWarn means that a lab runs, with the loss that the finding's detail names.
	LevelWarn
	// LevelFail means that a lab cannot run.
	LevelFail
)

// String is the word printed for the level: "ok", "warn", "fail" or "unknown".
func (l Level) String() string {
	switch l {
	case LevelOK:
		return "ok"
	case LevelWarn:
		return "warn"
	case LevelFail:
		return "fail"
	default:
		return "unknown"
	}
}

// MarshalText writes the level as its word.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Step names the part of [Fix] that cures a finding. The empty step means that a person has to act.
type Step string

// The steps of [Fix], in the order in which they run.
const (
	StepPackages Step = "packages" // installs Debian packages
	StepRuntime  Step = "runtime"  // registers the OCI runtime front
	StepEngine   Step = "engine"   // starts the engine
)

// Finding is what was found out about one property of the host. It prints on one line.
type Finding struct {
	// Name says which property, in a few lower-case words, "engine" or "program type tp_btf". Unique within one check.
	Name string `json:"name"`
	// Level says whether a lab can live with it.
	Level Level `json:"level"`
	// Detail is the fact that was measured, and what follows from it where that is not plain.
	Detail string `json:"detail"`
	// Hint is a command that can be typed as it stands. It is empty where the level is ok or where no command helps.
	Hint string `json:"hint,omitempty"`
	// FixedBy is the step of [Fix] that cures it, or empty.
	FixedBy Step `json:"fixedBy,omitempty"`
}

// String is the finding's line without its hint: level, name and detail.
func (f Finding) String() string { return fmt.Sprintf("%-4s  %s: %s", f.Level, f.Name, f.Detail) }

// Worst is the highest level among the findings, or unknown when there are none.
func Worst(findings []Finding) Level {
	worst := LevelUnknown
	for _, finding := range findings {
		worst = max(worst, finding.Level)
	}
	return worst
}

// Action is one change that [Fix] or [StopEngine] made to the host.
type Action struct {
	// Step is the part of [Fix] that made it.
	Step Step `json:"step"`
	// Text says in words what was done, in the past tense, on one line.
	Text string `json:"text"`
}

// String is the action's text.
func (a Action) String() string { return a.Text }

// Options says what the host is wanted for. The zero value is usable for [Check] and [StopEngine].
type Options struct {
	// Packages are Debian packages needed beside the engine's own, such as those that the image build calls.
	Packages []string
	// StateDir is where the runtime front, the engine's log and its record are kept. Empty means [DefaultStateDir].
	StateDir string
	// CacheDir is where images are built; its file system must have room. Empty means [DefaultCacheDir].
	CacheDir string
	// Executable is the gapproof binary that is copied to StateDir and registered as runtime. Empty means the running program.
	Executable string
	// Log receives progress. Nil means none.
	Log *slog.Logger
}

// withDefaults fills what is empty. It is the only place that reads the environment.
func (o Options) withDefaults() (Options, error) {
	var err error
	if o.StateDir == "" {
		if o.StateDir, err = DefaultStateDir(); err != nil {
			return o, err
		}
	}
	if o.CacheDir == "" {
		if o.CacheDir, err = DefaultCacheDir(); err != nil {
			return o, err
		}
	}
	if o.Executable == "" {
		if o.Executable, err = os.Executable(); err != nil {
			return o, fmt.Errorf("finding the running program: %w", err)
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []*string{&o.StateDir, &o.CacheDir, &o.Executable} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return o, fmt.Errorf("making %s absolute: %w", *dir, err)
		}
	}
	return o, nil
}

// DefaultStateDir is $XDG_STATE_HOME/gapproof, or ~/.local/state/gapproof where the variable is not set.
func DefaultStateDir() (string, error) { return userDir("XDG_STATE_HOME", ".local/state") }

// DefaultCacheDir is $XDG_CACHE_HOME/gapproof, or ~/.cache/gapproof where the variable is not set.
func DefaultCacheDir() (string, error) { return userDir("XDG_CACHE_HOME", ".cache") }

func userDir(variable, fallback string) (string, error) {
	// The XDG base directory specification says that a relative path is to be ignored.
	if dir := os.Getenv(variable); filepath.IsAbs(dir) {
		return filepath.Join(dir, "gapproof"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the home directory for %s: %w", variable, err)
	}
	return filepath.Join(home, fallback, "gapproof"), nil
}
