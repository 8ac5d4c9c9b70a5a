package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/e2e-framework/pkg/env"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
)

// clusterName is the tests' own cluster: a lab that somebody works with is never touched.
const clusterName = "e2e"

// cniVariable names the pod network of the tests' cluster. Unset is the lab's default.
const cniVariable = "GAPPROOF_E2E_CNI"

var live env.Environment

func TestMain(m *testing.M) {
	binary := os.Getenv("GAPPROOF_BIN")
	if binary == "" {
		fmt.Fprintln(os.Stderr, "e2e: GAPPROOF_BIN names no binary; `make e2e` builds one and prepares the host")
		os.Exit(1)
	}
	live = env.New()
	live.Setup(func(ctx context.Context, cfg *envconf.Config) (context.Context, error) {
		// A cluster that an earlier run left is no ground to test on: it may have been cut off in the middle of anything.
		if err := step(ctx, "down"); err != nil {
			return ctx, err
		}
		up := []string{"up"}
		if name := os.Getenv(cniVariable); name != "" {
			up = append(up, "--cni", name)
		}
		if err := step(ctx, up...); err != nil {
			return ctx, err
		}
		out, err := exec.CommandContext(ctx, binary, "kubeconfig", "--cluster", clusterName).Output()
		if err != nil {
			return ctx, fmt.Errorf("asking for the kubeconfig: %w", err)
		}
		cfg.WithKubeconfigFile(strings.TrimSpace(string(out)))
		return ctx, nil
	})
	live.Finish(func(ctx context.Context, _ *envconf.Config) (context.Context, error) {
		if os.Getenv("GAPPROOF_RETAIN") != "" {
			return ctx, nil
		}
		if err := step(ctx, "down"); err != nil {
			return ctx, err
		}
		return ctx, nothingLeft(ctx)
	})
	os.Exit(live.Run(m))
}

// step runs one subcommand on the tests' cluster with its progress on stderr.
func step(ctx context.Context, args ...string) error {
	c := exec.CommandContext(ctx, os.Getenv("GAPPROOF_BIN"), append(args, "--cluster", clusterName)...)
	c.Stdout, c.Stderr = os.Stderr, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("running gapproof %s: %w", args[0], err)
	}
	return nil
}

// nothingLeft looks for whatever `gapproof down` should have removed.
func nothingLeft(ctx context.Context) error {
	var faults []error
	for what, args := range map[string][]string{
		"container": {"ps", "--all", "--format", "{{.Names}}"},
		"network":   {"network", "ls", "--format", "{{.Name}}"},
		"volume":    {"volume", "ls", "--format", "{{.Name}}", "--filter", "label=io.x-k8s.kind.cluster=" + clusterName},
	} {
		out, err := exec.CommandContext(ctx, "docker", args...).Output()
		if err != nil {
			return fmt.Errorf("listing %ss: %w", what, err)
		}
		for _, name := range strings.Fields(string(out)) {
			if what == "volume" || strings.Contains(name, "gapproof-"+clusterName) || strings.HasPrefix(name, clusterName+"-") {
				faults = append(faults, fmt.Errorf("%s %s is left after down", what, name))
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "gapproof") {
			faults = append(faults, fmt.Errorf("mount is left after down: %s", strings.TrimSpace(line)))
		}
	}
	return errors.Join(faults...)
}

// command is the binary with arguments, run in the checkout, with captured output.
type command struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
}

func gapproof(t *testing.T, args ...string) *command {
	t.Helper()
	c := &command{Cmd: exec.CommandContext(t.Context(), os.Getenv("GAPPROOF_BIN"), args...)}
	c.Dir = checkout(t)
	c.Cmd.Stdout, c.Cmd.Stderr = &c.stdout, &c.stderr
	return c
}

// wantExit runs the command and fails the test when it ends with another code.
func (c *command) wantExit(t *testing.T, want int) {
	t.Helper()
	err := c.Run()
	if got := c.ProcessState.ExitCode(); got != want {
		t.Fatalf("%s: exit code %d (%v), want %d\nstdout:\n%s\nstderr:\n%s", strings.Join(c.Args[1:], " "), got, err, want, lastLines(&c.stdout), &c.stderr)
	}
}

// lastLines are the last of an output: a report of the whole catalogue as JSON has millions.
func lastLines(b *bytes.Buffer) string {
	const most = 200
	lines := strings.SplitAfter(b.String(), "\n")
	if left := len(lines) - most; left > 0 {
		return fmt.Sprintf("(%d lines left out)\n%s", left, strings.Join(lines[left:], ""))
	}
	return b.String()
}

func checkout(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
