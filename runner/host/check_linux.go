package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/gapproof/gapproof/runner/host/ocifront"
)

// Check looks at everything a lab needs of its host and returns a finding for each, in an order made for reading: engine, kernel,
// network, resources. A property that cannot be examined is a finding too, never a reason to stop. The error is not nil only when
// nothing could be examined, or when ctx ended before the last one was.
//
// A privileged container is run from an image made for it, programs are loaded, and a network namespace is entered; all of it is
// gone when Check returns.
func Check(ctx context.Context, options Options) ([]Finding, error) {
	m, err := newMachine(options)
	if err != nil {
		return nil, err
	}
	return m.check(ctx)
}

func (m *machine) check(ctx context.Context) ([]Finding, error) {
	var findings []Finding
	for _, examine := range []func(context.Context) []Finding{
		m.checkRoot,
		m.checkPackages,
		m.checkCapabilities,
		m.checkEngine,
		m.checkCgroup,
		m.checkPrograms,
		m.checkNetwork,
		m.checkForwarding,
		m.checkDisk,
		m.checkMemory,
		m.checkLimits,
	} {
		if err := ctx.Err(); err != nil {
			return findings, err
		}
		for _, finding := range examine(ctx) {
			// Joined errors come in lines, and a finding is one.
			finding.Detail = strings.ReplaceAll(finding.Detail, "\n", "; ")
			findings = append(findings, finding)
		}
	}
	return findings, nil
}

// fixable is a finding that stops a lab and that Fix cures.
func fixable(name string, step Step, detail string) []Finding {
	return []Finding{{Name: name, Level: LevelFail, Detail: detail, Hint: FixCommand, FixedBy: step}}
}

// checkRoot says so once where later findings would only repeat that an ordinary user may not look.
func (m *machine) checkRoot(context.Context) []Finding {
	if os.Geteuid() == 0 {
		return nil
	}
	return []Finding{{Name: "user", Level: LevelWarn, Detail: "not root: what only root may try is reported as refused",
		Hint: "sudo gapproof doctor"}}
}

func (m *machine) checkPackages(ctx context.Context) []Finding {
	const name = "packages"
	wanted := m.wantedPackages()
	missing, err := m.missingPackages(ctx, wanted)
	if err != nil {
		return []Finding{{Name: name, Level: LevelWarn, Detail: "could not tell: " + err.Error() + "; needed are " + strings.Join(wanted, " ")}}
	}
	if len(missing) > 0 {
		return fixable(name, StepPackages, "not installed: "+strings.Join(missing, " "))
	}
	return []Finding{{Name: name, Level: LevelOK, Detail: "installed: " + strings.Join(wanted, " ")}}
}

func (m *machine) checkCapabilities(context.Context) []Finding {
	const name = "capabilities"
	missing := m.missing()
	if len(missing) == 0 {
		return []Finding{{Name: name, Level: LevelOK, Detail: "the bounding set holds all that the kernel knows"}}
	}
	lacks := "the bounding set lacks " + strings.Join(missing, ", ")
	config, err := os.ReadFile(m.daemonConfig)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []Finding{{Name: name, Level: LevelFail, Detail: lacks + "; " + err.Error()}}
	}
	_, changed, err := registerRuntime(config, m.frontPath())
	switch {
	case err != nil:
		return []Finding{{Name: name, Level: LevelFail, Detail: fmt.Sprintf("%s; %s: %v", lacks, m.daemonConfig, err),
			Hint: m.configHint(err)}}
	case changed:
		return fixable(name, StepRuntime, lacks+": privileged containers fail without the runtime front")
	}
	if _, err := os.Stat(m.frontPath()); err != nil {
		return fixable(name, StepRuntime, lacks+" and the registered runtime is gone: "+err.Error())
	}
	return []Finding{{Name: name, Level: LevelOK, Detail: lacks + "; " + ocifront.Name + " is registered and filters specifications"}}
}

func (m *machine) checkEngine(ctx context.Context) []Finding {
	const name = "engine"
	version, err := m.api.version(ctx)
	if errors.Is(err, fs.ErrPermission) {
		return []Finding{{Name: name, Level: LevelFail, Detail: err.Error(), Hint: "sudo gapproof doctor"}}
	}
	if err != nil {
		return fixable(name, StepEngine, "no answer: "+err.Error())
	}
	info, err := m.api.info(ctx)
	if err != nil {
		return fixable(name, StepEngine, "no answer: "+err.Error())
	}
	origin := "not started by gapproof"
	if _, own := m.ownEngine(); own {
		origin = "started by gapproof"
	}
	findings := []Finding{{Name: name, Level: LevelOK, Detail: fmt.Sprintf("dockerd %s, API %s, storage %s, runtime %s, %s",
		version.Version, version.APIVersion, info.Driver, info.DefaultRuntime, origin)}}
	return append(append(findings, m.checkDockerClient(ctx)...), m.checkPrivileged(ctx)...)
}

// checkDockerClient looks for the program that kind calls for everything it does.
func (m *machine) checkDockerClient(ctx context.Context) []Finding {
	const name = "docker client"
	path, err := m.lookPath("docker")
	if err != nil {
		return []Finding{{Name: name, Level: LevelFail, Detail: "no docker in PATH, which kind calls", Hint: "apt-get install docker.io"}}
	}
	text, err := m.command(ctx, path, "version", "--format", "{{.Client.Version}} and {{.Server.Version}}")
	if err != nil {
		return []Finding{{Name: name, Level: LevelFail, Detail: err.Error(), Hint: "env -u DOCKER_HOST -u DOCKER_CONTEXT docker version"}}
	}
	return []Finding{{Name: name, Level: LevelOK, Detail: path + ", client and engine are " + strings.TrimSpace(text)}}
}

func (m *machine) checkPrivileged(ctx context.Context) []Finding {
	const name = "privileged container"
	err := m.tryPrivileged(ctx)
	switch {
	case errors.Is(err, errNoTrialProgram):
		return []Finding{{Name: name, Level: LevelWarn, Detail: "not tried: " + err.Error()}}
	case err == nil:
		return []Finding{{Name: name, Level: LevelOK, Detail: "runs, and a privileged process in it too"}}
	}
	if missing := m.missing(); len(missing) > 0 {
		if used, usesErr := m.usesFront(ctx); usesErr == nil && !used {
			return fixable(name, StepEngine, err.Error())
		}
	}
	hint := "journalctl -u docker.service -n 50"
	if _, own := m.ownEngine(); own {
		hint = "tail -n 50 " + m.engineLogPath()
	}
	return []Finding{{Name: name, Level: LevelFail, Detail: err.Error(), Hint: hint}}
}
