package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// DownOptions are what [Down] and [List] can do without.
type DownOptions struct {
	// StateDir is where clusters keep their files. Empty means DefaultStateDir.
	StateDir string
	// Unseal opens a sealed network before it is removed. Without it one that is sealed stays, and the error matches [ErrCannotUnseal].
	Unseal Unseal
	// Log may be nil.
	Log *slog.Logger
	// Progress may be nil.
	Progress Progress
}

func (o *DownOptions) complete() error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StateDir == "" {
		dir, err := DefaultStateDir()
		if err != nil {
			return err
		}
		o.StateDir = dir
	}
	dir, err := filepath.Abs(o.StateDir)
	if err != nil {
		return fmt.Errorf("finding the state directory: %w", err)
	}
	o.StateDir = dir
	return nil
}

// Down removes the cluster: its containers with their volumes, the mirror and its image, the network, and its state. It returns
// what it removed, such as "container gapproof-dev-worker"; that is nothing when there is no such cluster. The node image stays
// in the engine for the next Up. Logs that were collected after a failure stay too.
func Down(ctx context.Context, name string, o DownOptions) (removed []string, err error) {
	if name == "" {
		name = DefaultName
	}
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("taking down cluster %q: %w", name, err)
	}
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("taking down cluster %q: %w", name, err)
	}
	if _, err := os.Stat(o.StateDir); errors.Is(err, os.ErrNotExist) {
		// Nothing was ever brought up with this state; a lock file is not worth a folder. Containers of another state's cluster
		// carry the same label and are still found below.
		removed, err := remove(ctx, newEngine(), name, filesOf(o.StateDir, name), o.Unseal)
		if err != nil {
			return removed, fmt.Errorf("taking down cluster %q: %w", name, err)
		}
		return removed, nil
	}
	release, err := lockState(ctx, o.StateDir, func() {
		if o.Progress != nil {
			o.Progress("state locked", "waiting for another gapproof to finish", 0)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("taking down cluster %q: %w", name, err)
	}
	defer func() { _ = release() }()
	removed, err = remove(ctx, newEngine(), name, filesOf(o.StateDir, name), o.Unseal)
	if err != nil {
		return removed, fmt.Errorf("taking down cluster %q: %w", name, err)
	}
	for _, r := range removed {
		o.Log.Debug("removed", "object", r)
	}
	return removed, nil
}

// removeRounds is how often remove looks again: a command that was under way when its Up was cancelled may have made something
// behind the first look.
const removeRounds = 3

// remove removes whatever belongs to the cluster, going on after a fault so that as little as possible stays.
func remove(ctx context.Context, e engine, name string, f files, unseal Unseal) ([]string, error) {
	var removed []string
	var faults error
	for range removeRounds {
		own, _, err := e.find(ctx, name)
		if err != nil {
			return removed, errors.Join(faults, err)
		}
		if own.empty() {
			faults = nil // what failed is gone all the same
			break
		}
		var gone []string
		gone, faults = e.removeAll(ctx, name, own, unseal)
		removed = append(removed, gone...)
	}
	if _, err := os.Stat(f.dir); err == nil {
		if err := os.RemoveAll(f.dir); err != nil {
			faults = errors.Join(faults, fmt.Errorf("removing the state: %w", err))
		} else {
			removed = append(removed, "directory "+f.dir)
		}
	}
	return removed, faults
}

// removeAll removes belongings in the order in which the engine lets go of them.
func (e engine) removeAll(ctx context.Context, name string, own belongings, unseal Unseal) (removed []string, err error) {
	var faults []error
	mirrors := e.mirrorImages(ctx, own.helpers)
	removed, err = e.removeContainers(ctx, slices.Concat(own.outside, own.nodes, own.helpers))
	faults = append(faults, err)
	if own.sealed { // the network's label is what tells of the seal, so the network goes last
		switch {
		case err != nil:
			return removed, err
		case unseal == nil:
			return removed, ErrCannotUnseal
		}
		if err := unseal(ctx, name); err != nil {
			return removed, err
		}
		removed = append(removed, "seal of "+objectName(name))
	}
	for _, n := range own.networks {
		if _, err := e.docker(ctx, nil, "network", "rm", n); err != nil && !gone(err) {
			faults = append(faults, fmt.Errorf("removing network %s: %w", n, err))
			continue
		}
		removed = append(removed, "network "+n)
	}
	for _, i := range mirrors {
		// Refused while another cluster's mirror runs from it, which is as it should be.
		if _, err := e.docker(ctx, nil, "image", "rm", i); err == nil {
			removed = append(removed, "image "+i)
		}
	}
	return removed, errors.Join(faults...)
}

// mirrorImages are the images of ours that the containers run from. An image whose name cannot be had stays in the engine, where
// the next Up of the same executable uses it again.
func (e engine) mirrorImages(ctx context.Context, all []container) []string {
	var out []string
	for _, c := range all {
		image, err := e.docker(ctx, nil, "container", "inspect", "--format", "{{.Config.Image}}", c.id)
		if i := strings.TrimSpace(string(image)); err == nil && strings.HasPrefix(i, mirrorRepository+":") {
			out = append(out, i)
		}
	}
	return out
}

// Info is one line of [List].
type Info struct {
	Name string
	// Cluster is what was recorded when it was complete, nil for one that is half-made.
	Cluster *Cluster
	// Containers counts its containers that run, mirror included.
	Containers int
}

// List tells the clusters there are, sorted by name: those with a network in the engine and those with state only.
func List(ctx context.Context, o DownOptions) ([]Info, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("listing clusters: %w", err)
	}
	return list(ctx, newEngine(), o.StateDir)
}

func list(ctx context.Context, e engine, stateDir string) ([]Info, error) {
	names := map[string]bool{}
	labels, err := e.lines(ctx, "network", "ls", "--filter", "label="+Label, "--format", fmt.Sprintf("{{.Label %q}}", Label))
	if err != nil {
		return nil, fmt.Errorf("listing clusters: %w", err)
	}
	for _, n := range labels {
		names[n] = true
	}
	entries, err := os.ReadDir(stateDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing clusters: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() && checkName(entry.Name()) == nil {
			names[entry.Name()] = true
		}
	}
	var out []Info
	for n := range names {
		info := Info{Name: n}
		if r, err := readRecord(filesOf(stateDir, n).record()); err == nil {
			info.Cluster = r.Cluster
		}
		own, _, err := e.find(ctx, n)
		if err != nil {
			return nil, fmt.Errorf("listing clusters: %w", err)
		}
		for _, c := range append(own.nodes, own.helpers...) {
			if c.state == "running" {
				info.Containers++
			}
		}
		out = append(out, info)
	}
	sort.Slice(out, func(a, b int) bool { return out[a].Name < out[b].Name })
	return out, nil
}
