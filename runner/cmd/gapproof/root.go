package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/host"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/scenarios"
)

// Exit codes.
const (
	exitPass           = 0 // every promise held
	exitFail           = 1 // a promise did not hold
	exitUsage          = 2 // wrong usage or configuration; nothing was created
	exitInconclusive   = 3 // could not tell
	exitInfrastructure = 4 // the host, the cluster or the run itself failed
)

// usageError is a fault of the command line or of a file it names.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// hinted is an error with a line that can be typed.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }
func (e hinted) Hint() string  { return e.hint }

// exitError is an outcome that was reported already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// app is what every subcommand shares.
type app struct {
	streams
	log      *slog.Logger
	verbose  bool
	cacheDir string
	stateDir string
}

// run is the whole program: arguments in, exit code out.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{streams: s}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitPass
	}
	var code exitError
	if errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(s.err, "gapproof: %v\n", err)
	var h interface{ Hint() string }
	if errors.As(err, &h) && h.Hint() != "" {
		fmt.Fprintf(s.err, "  hint: %s\n", h.Hint())
	}
	return exitCode(err)
}

// exitCode sorts an error: what the user can mend in a command or file is usage, all else is infrastructure.
func exitCode(err error) int {
	var usage usageError
	var no refused
	var faults scenarios.Faults
	var attempt *plan.UnknownAttemptError
	switch {
	case errors.As(err, &usage), errors.As(err, &faults), errors.As(err, &attempt),
		errors.Is(err, fixture.ErrNamespaceExists), errors.Is(err, kube.ErrConfig), errors.Is(err, signed.ErrSigned):
		return exitUsage
	case errors.As(err, &no):
		return exitFail
	}
	return exitInfrastructure
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "gapproof",
		Short: "Prove on a live cluster that NetworkPolicies do what they promise",
		Long: `gapproof brings up a kind cluster with a real CNI from a local mirror (or uses the one a kubeconfig names), places probe
pods, fires attempts, and compares what arrived with what the policies promise. A deny passes only with proof.

Exit codes: 0 every promise held, 1 a promise did not hold, 2 usage or configuration,
            3 inconclusive, 4 infrastructure.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.prepare()
		},
	}
	root.SetVersionTemplate("gapproof {{.Version}}\n")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hinted{usageError{err}, c.CommandPath() + " --help"}
	})
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log debug lines to stderr")
	root.PersistentFlags().StringVar(&a.cacheDir, "cache-dir", "", "where images are built (default $XDG_CACHE_HOME/gapproof)")
	root.PersistentFlags().StringVar(&a.stateDir, "state-dir", "", "where clusters' files are kept (default $XDG_STATE_HOME/gapproof)")
	root.AddCommand(a.doctor(), a.bundle(), a.up(), a.down(), a.run(), a.report(), a.plan(), a.explain(), a.lint(), a.clean(), a.kubeconfig(), a.importing(), a.selftest(), a.seal(), a.mirror(), a.sink(), a.version())
	group(root)
	for _, c := range root.Commands() {
		wrapArgs(c)
	}
	return root
}

// group makes a command of subcommands print its help, and an unknown subcommand a usage error with what may have been meant.
func group(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		hint := c.CommandPath() + " --help"
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = c.CommandPath() + " " + near[0]
		}
		return hinted{usageError{fmt.Errorf("unknown command %q for %q", args[0], c.CommandPath())}, hint}
	}
	c.SuggestionsMinimumDistance = 2
}

// exclusive makes two flags given together a usage error; cobra's own check has no type to tell it by.
func exclusive(c *cobra.Command, one, other string) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		if c.Flags().Changed(one) && c.Flags().Changed(other) {
			return hinted{usageError{fmt.Errorf("--%s and --%s: only one can be given", one, other)}, c.CommandPath() + " --help"}
		}
		return nil
	}
}

// wrapArgs makes wrong arguments usage errors; cobra itself has no type for them.
func wrapArgs(c *cobra.Command) {
	check := c.Args
	c.Args = func(c *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(c, args); err != nil {
			return hinted{usageError{err}, c.CommandPath() + " --help"}
		}
		return nil
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// prepare fills what every subcommand needs.
func (a *app) prepare() error {
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	a.log = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	var err error
	if a.cacheDir == "" {
		if a.cacheDir, err = host.DefaultCacheDir(); err != nil {
			return err
		}
	}
	if a.stateDir == "" {
		if a.stateDir, err = host.DefaultStateDir(); err != nil {
			return err
		}
	}
	return nil
}

// done prints one finished part of a command to stderr.
func (a *app) done(what string, took time.Duration) {
	fmt.Fprintf(a.err, "  %-62s %7.1f s\n", what, took.Seconds())
}

// waitShown is how long a wait may last before it is announced.
const waitShown = 2 * time.Second

// waiting announces what on stderr when it lasts longer than two seconds; the caller calls the returned function at its end.
func (a *app) waiting(what string) (end func()) {
	var mu sync.Mutex
	over := false
	timer := time.AfterFunc(waitShown, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			fmt.Fprintf(a.err, "  … %s\n", what)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

// terminal tells whether w is one, and how wide; the width is 100 where it is none.
func terminal(w any) (isTerminal bool, width int) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return false, 100
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		width = 100
	}
	return true, width
}
