package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/host"
)

func (a *app) doctor() *cobra.Command {
	var fix, stop bool
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Check what this host has and lacks for a lab; --fix gets it",
		Long: `doctor checks the container engine, capabilities, cgroups, kernel features (by really loading programs), disk and memory.

With --fix it installs what Debian provides, registers an OCI runtime front where the host's bounding set lacks a
capability, and starts the engine where no init system does. It says what it did and changes nothing else.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			o := host.Options{Packages: bundle.HostPackages(), StateDir: a.stateDir, CacheDir: a.cacheDir, Log: a.log}
			if stop {
				actions, err := host.StopEngine(ctx, o)
				a.actions(actions, "nothing to stop: no engine that gapproof started")
				return err
			}
			if fix {
				end := a.waiting("fixing the host: installing packages, starting the engine")
				actions, err := host.Fix(ctx, o)
				end()
				a.actions(actions, host.NothingToFix)
				if err != nil {
					return fmt.Errorf("fixing the host: %w", err)
				}
			}
			findings, err := host.Check(ctx, o)
			if err != nil {
				return fmt.Errorf("checking the host: %w", err)
			}
			for _, f := range findings {
				fmt.Fprintln(a.out, f)
				if f.Hint != "" && f.Level != host.LevelOK {
					fmt.Fprintf(a.out, "      hint: %s\n", f.Hint)
				}
			}
			if host.Worst(findings) == host.LevelFail {
				return exitError(exitInfrastructure)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&fix, "fix", false, "install and start what is missing")
	c.Flags().BoolVar(&stop, "stop-engine", false, "stop the engine that --fix started")
	exclusive(c, "fix", "stop-engine")
	return c
}

func (a *app) actions(done []host.Action, none string) {
	for _, action := range done {
		fmt.Fprintf(a.err, "  did: %s\n", action)
	}
	if len(done) == 0 {
		fmt.Fprintf(a.err, "  %s\n", none)
	}
}
