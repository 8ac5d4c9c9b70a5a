// Command start_runit starts calico-node under the name its manifest and image use, without a shell and without runit.
//
// It does what upstream's start-up scripts do for a cluster without BGP: two steps that must succeed once (-startup, which writes
// the node's name, and -allocate-tunnel-addrs), then the daemons side by side. The first daemon that ends takes the others with
// it and the container fails, so that the kubelet's restart and its back-off are the one supervisor and a crash is seen in
// the pod's restart count. The trap: BIRD and confd are not in this image, so a backend other than vxlan or none is refused.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// program is found on the image's PATH, which calico-node itself uses too.
	program = "calico-node"
	// nodenameFile is written by "calico-node -startup".
	nodenameFile = "/var/lib/calico/nodename"
	// stopGrace is how long a daemon may take to end after SIGTERM. The manifest's grace period is 0, so this only bounds a
	// restart of the container after a crash of one daemon.
	stopGrace = 3 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start_runit:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	daemons, err := daemonsFor(os.Getenv)
	if err != nil {
		return err
	}
	if err := calicoNode(ctx, os.Environ(), "-startup"); err != nil {
		return err
	}
	name, err := os.ReadFile(nodenameFile)
	if err != nil {
		return fmt.Errorf("reading the node's name after start-up: %w", err)
	}
	env := felixEnv(os.Environ(), strings.TrimSpace(string(name)))
	if err := calicoNode(ctx, env, "-allocate-tunnel-addrs", "-allocate-tunnel-addrs-run-once"); err != nil {
		return err
	}
	return together(ctx, env, daemons)
}

// daemonsFor lists the calico-node daemons to run, each by its flag, for the environment of the manifest.
func daemonsFor(getenv func(string) string) ([]string, error) {
	daemons := []string{"-allocate-tunnel-addrs", "-status-reporter"}
	switch backend := getenv("CALICO_NETWORKING_BACKEND"); backend {
	case "vxlan":
		daemons = append(daemons, "-monitor-addresses")
	case "none":
	default:
		return nil, fmt.Errorf("reading CALICO_NETWORKING_BACKEND: %q needs BIRD, which this image does not carry; want vxlan or none", backend)
	}
	if getenv("CALICO_MANAGE_CNI") != "false" {
		daemons = append(daemons, "-monitor-token")
	}
	if getenv("CALICO_DISABLE_FELIX") == "" {
		daemons = append(daemons, "-felix")
	}
	return daemons, nil
}

// felixEnv adds to env what Felix, which does not know the names of the other daemons' variables, must be told.
func felixEnv(env []string, node string) []string {
	out := append([]string{}, env...)
	out = append(out, "NODENAME="+node, "FELIX_FELIXHOSTNAME="+node)
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "DATASTORE_TYPE="); ok && v != "" {
			out = append(out, "FELIX_DATASTORETYPE="+v)
		}
	}
	return out
}

// together runs a calico-node per flag until asked is done or one of them ends, and waits for all of them. It is an error only
// when nobody asked for the end.
func together(asked context.Context, env, flags []string) error {
	ctx, cancel := context.WithCancelCause(asked)
	defer cancel(nil)
	var wait sync.WaitGroup
	for _, flag := range flags {
		wait.Add(1)
		go func() {
			defer wait.Done()
			err := calicoNode(ctx, env, flag)
			if err == nil {
				err = fmt.Errorf("running %s %s: it ended by itself", program, flag)
			}
			cancel(err) // the first cause stays
		}()
	}
	wait.Wait()
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// calicoNode runs calico-node with flags until it ends, or ctx is done and it is told to.
func calicoNode(ctx context.Context, env []string, flags ...string) error {
	cmd := exec.CommandContext(ctx, program, flags...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("running %s %s: %w", program, strings.Join(flags, " "), err)
	}
	return nil
}
