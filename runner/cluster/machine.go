package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Exec runs a command in a node's container as root and returns its standard output. A failure is a [*CommandError] with what it
// printed to its standard error.
func (c *Cluster) Exec(ctx context.Context, node string, command ...string) ([]byte, error) {
	if err := c.has(node); err != nil {
		return nil, fmt.Errorf("running a command on node %s: %w", node, err)
	}
	return newEngine().docker(ctx, nil, append([]string{"container", "exec", node}, command...)...)
}

// Pause freezes every process of a node; its kernel side, interfaces and routes included, goes on. [Cluster.Unpause] undoes it.
func (c *Cluster) Pause(ctx context.Context, node string) error {
	if err := c.has(node); err != nil {
		return fmt.Errorf("pausing node %s: %w", node, err)
	}
	if _, err := newEngine().docker(ctx, nil, "container", "pause", node); err != nil {
		return fmt.Errorf("pausing node %s: %w", node, err)
	}
	return nil
}

// Unpause lets the processes of a node go on. A node that is not paused is left as it is.
func (c *Cluster) Unpause(ctx context.Context, node string) error {
	if err := c.has(node); err != nil {
		return fmt.Errorf("unpausing node %s: %w", node, err)
	}
	return newEngine().unpause(ctx, c.Name, node)
}

// UnpauseAll lets every node go on that a process paused which can no longer do it itself, and returns their names.
func (c *Cluster) UnpauseAll(ctx context.Context) ([]string, error) {
	return newEngine().unpauseAll(ctx, c.Name)
}

// continuing lets every stopped process go on and prints its name and number. The third field of stat is the state, after the name in
// brackets (proc_pid_stat(5)); T is stopped by a signal.
const continuing = `for s in /proc/[0-9]*/stat; do
  read -r line <$s || continue
  state=${line##*) }; p=${s#/proc/}; p=${p%/stat}
  case $state in T*) name=$(cat /proc/$p/comm) && kill -CONT $p && echo "$name ($p)" ;; esac
done 2>/dev/null
exit 0`

// ContinueAll lets every process of every node go on that somebody stopped with a signal, and returns their names: nothing in a node stops
// itself. The nodes must not be paused.
func (c *Cluster) ContinueAll(ctx context.Context) ([]string, error) {
	var done []string
	for _, n := range c.Nodes {
		out, err := c.Exec(ctx, n.Name, "sh", "-c", continuing)
		if err != nil {
			return done, fmt.Errorf("looking for stopped processes on node %s: %w", n.Name, err)
		}
		for line := range strings.Lines(string(out)) {
			done = append(done, strings.TrimSpace(line)+" on node "+n.Name)
		}
	}
	return done, nil
}

func (c *Cluster) has(node string) error {
	if !slices.ContainsFunc(c.Nodes, func(n Node) bool { return n.Name == node }) {
		return fmt.Errorf("cluster %s has no such node", c.Name)
	}
	return nil
}

// paused is docker's word for the state.
const paused = "paused"

func (e engine) unpause(ctx context.Context, cluster, node string) error {
	own, _, err := e.find(ctx, cluster)
	if err != nil {
		return fmt.Errorf("unpausing node %s: %w", node, err)
	}
	for _, k := range own.nodes {
		if k.name != node || k.state != paused {
			continue
		}
		if _, err := e.docker(ctx, nil, "container", "unpause", node); err != nil {
			return fmt.Errorf("unpausing node %s: %w", node, err)
		}
	}
	return nil
}

func (e engine) unpauseAll(ctx context.Context, cluster string) ([]string, error) {
	own, _, err := e.find(ctx, cluster)
	if err != nil {
		return nil, fmt.Errorf("looking for paused nodes: %w", err)
	}
	var done []string
	for _, k := range own.nodes {
		if k.state != paused {
			continue
		}
		if err := e.unpause(ctx, cluster, k.name); err != nil {
			return done, err
		}
		done = append(done, k.name)
	}
	return done, nil
}
