package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gapproof/gapproof/runner/host/ocifront"
)

// frontVersionLimit bounds the call that asks the front for its version; runc answers in milliseconds, and a program that takes
// longer is not a runtime.
const frontVersionLimit = 10 * time.Second

// frontPath is where the runtime front is kept. It lies outside any checkout: the engine calls it for as long as one container
// made with it lives, whatever becomes of the binary it was copied from.
func (m *machine) frontPath() string { return filepath.Join(m.StateDir, "bin", ocifront.Name) }

// registerFront copies the front and enters it in the engine's configuration, where the bounding set lacks a capability.
// It does not tell a running engine.
func (m *machine) registerFront(ctx context.Context) ([]Action, error) {
	missing := m.missing()
	if len(missing) == 0 {
		return nil, nil
	}
	config, err := os.ReadFile(m.daemonConfig)
	existed := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the engine's configuration: %w", err)
	}
	merged, changed, err := registerRuntime(config, m.frontPath())
	if err != nil {
		return nil, &HintedError{fmt.Errorf("registering the runtime in %s: %w", m.daemonConfig, err), m.configHint(err)}
	}
	// The binary comes first: an engine that is told of a runtime must find it.
	actions, err := m.installFront(ctx)
	if err != nil || !changed {
		return actions, err
	}
	text := fmt.Sprintf("registered %s as default runtime in %s, because this host lacks %s", m.frontPath(), m.daemonConfig,
		strings.Join(missing, ", "))
	if existed {
		backup, err := backUp(m.daemonConfig, config)
		if err != nil {
			return actions, err
		}
		text += "; the file as it was is " + backup
	}
	if err := writeFile(m.daemonConfig, merged, 0o644); err != nil {
		return actions, err
	}
	m.Log.InfoContext(ctx, "registered the runtime front", "path", m.frontPath(), "missing", missing)
	return append(actions, Action{StepRuntime, text}), nil
}

// configHint is what to type when the engine's configuration cannot take the runtime.
func (m *machine) configHint(fault error) string {
	if errors.Is(fault, ErrRuntimeTaken) {
		return "sed -i '/\"default-runtime\"/d' " + m.daemonConfig + " && " + FixCommand
	}
	return "dockerd --validate --config-file " + m.daemonConfig
}

// installFront copies the executable to [machine.frontPath] unless the same bytes are there already.
func (m *machine) installFront(ctx context.Context) ([]Action, error) {
	wanted, err := fileDigest(m.Executable)
	if err != nil {
		return nil, fmt.Errorf("installing the runtime front: %w", err)
	}
	present, err := fileDigest(m.frontPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("installing the runtime front: %w", err)
	}
	if bytes.Equal(wanted, present) {
		return nil, nil
	}
	if err := m.verifyFront(ctx); err != nil {
		return nil, fmt.Errorf("installing the runtime front: %w", err)
	}
	content, err := os.ReadFile(m.Executable)
	if err != nil {
		return nil, fmt.Errorf("installing the runtime front: %w", err)
	}
	if err := writeFile(m.frontPath(), content, 0o755); err != nil {
		return nil, fmt.Errorf("installing the runtime front: %w", err)
	}
	m.Log.InfoContext(ctx, "installed the runtime front", "path", m.frontPath())
	return []Action{{StepRuntime, "installed the runtime front as " + m.frontPath()}}, nil
}

// verifyFront calls the executable by the front's name and wants runc's version. An engine told to use a program that does not act
// as a runtime could start no container at all.
func (m *machine) verifyFront(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, frontVersionLimit)
	defer cancel()
	call := exec.CommandContext(ctx, m.Executable)
	call.Args = []string{ocifront.Name, "--version"}
	call.Env = []string{"PATH=" + searchPath}
	output, err := call.CombinedOutput()
	text := strings.TrimSpace(string(output))
	if err != nil {
		return fmt.Errorf("%w: %s: %w: %s", ErrNotFront, m.Executable, err, text)
	}
	if !strings.HasPrefix(text, "runc version ") {
		return fmt.Errorf("%w: %s: it printed %q", ErrNotFront, m.Executable, text)
	}
	return nil
}

func fileDigest(path string) (digest []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return hash.Sum(nil), nil
}
