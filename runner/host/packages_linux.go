package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Debian packages of the engine. docker.io only recommends what makes its networks work on some releases, so iptables is named.
// https://packages.debian.org/bookworm/docker.io
const (
	enginePackage   = "docker.io"
	iptablesPackage = "iptables"
)

// aptLockSeconds is how long apt-get waits for another package manager; unattended upgrades take a few minutes.
const aptLockSeconds = "300"

// wantedPackages lists what has to be installed on this host, sorted. The engine's own package is wanted only where no dockerd is
// there: another vendor's engine is used as it is, never replaced.
func (m *machine) wantedPackages() []string {
	wanted := append([]string{iptablesPackage}, m.Packages...)
	if _, err := m.lookPath("dockerd"); err != nil {
		wanted = append(wanted, enginePackage)
	}
	slices.Sort(wanted)
	return slices.Compact(wanted)
}

// missingPackages lists which of the named packages Debian's package manager does not call installed.
func (m *machine) missingPackages(ctx context.Context, packages []string) ([]string, error) {
	args := append([]string{"--show", "--showformat=${Package} ${db:Status-Status}\n", "--"}, packages...)
	text, err := m.command(ctx, "dpkg-query", args...)
	// dpkg-query prints what it knows and then fails with 1 for a name that it has never heard of.
	const someUnknown = 1
	var failed *commandError
	if err != nil && !(errors.As(err, &failed) && failed.ExitCode == someUnknown) {
		return nil, fmt.Errorf("asking for installed packages: %w", err)
	}
	installed := map[string]bool{}
	for line := range strings.Lines(text) {
		name, status, _ := strings.Cut(strings.TrimSpace(line), " ")
		if status == "installed" {
			installed[name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(packages), func(name string) bool { return installed[name] }), nil
}

// installPackages installs what is missing and removes nothing for it.
func (m *machine) installPackages(ctx context.Context) ([]Action, error) {
	missing, err := m.missingPackages(ctx, m.wantedPackages())
	if err != nil {
		return nil, err
	}
	if len(missing) == 0 {
		return nil, nil
	}
	m.Log.InfoContext(ctx, "installing Debian packages", "packages", missing)
	// A list that cannot be refreshed may still be good enough, so its failure counts only when the installation fails too.
	_, updateErr := m.command(ctx, "apt-get", "update", "-q", "-o", "DPkg::Lock::Timeout="+aptLockSeconds)
	args := []string{"install", "-y", "-q", "--no-install-recommends", "--no-remove", "-o", "DPkg::Lock::Timeout=" + aptLockSeconds,
		"-o", "Dpkg::Options::=--force-confold", "--"}
	if _, err := m.command(ctx, "apt-get", append(args, missing...)...); err != nil {
		err = fmt.Errorf("installing %s: %w", strings.Join(missing, " "), err)
		if updateErr != nil {
			err = fmt.Errorf("%w; the package lists could not be refreshed either: %w", err, updateErr)
		}
		return nil, &HintedError{err, "apt-get update && apt-get install " + strings.Join(missing, " ")}
	}
	return []Action{{StepPackages, "installed Debian packages " + strings.Join(missing, " ")}}, nil
}
