package host

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gapproof/gapproof/runner/host/ocifront"
)

// stockRuntime is the runtime an engine uses when its configuration names none.
const stockRuntime = "runc"

// registerRuntime gives the engine configuration with the front at path registered and made the default. Every other key keeps
// its value. changed is false when the configuration says so already. An absent or empty file is an empty configuration.
// https://docs.docker.com/reference/cli/dockerd/#daemon-configuration-file
func registerRuntime(config []byte, path string) (merged []byte, changed bool, err error) {
	members := map[string]json.RawMessage{}
	if len(bytes.TrimSpace(config)) > 0 {
		if err := json.Unmarshal(config, &members); err != nil {
			return nil, false, fmt.Errorf("decoding: %w", err)
		}
		if members == nil {
			return nil, false, errors.New("decoding: want a JSON object, got null")
		}
	}
	var defaultRuntime string
	if raw, found := members["default-runtime"]; found {
		if err := json.Unmarshal(raw, &defaultRuntime); err != nil {
			return nil, false, fmt.Errorf("decoding default-runtime: %w", err)
		}
	}
	switch defaultRuntime {
	case "", stockRuntime, ocifront.Name:
	default:
		return nil, false, fmt.Errorf("%w: default-runtime is %q", ErrRuntimeTaken, defaultRuntime)
	}
	runtimes := map[string]json.RawMessage{}
	if raw, found := members["runtimes"]; found {
		if err := json.Unmarshal(raw, &runtimes); err != nil {
			return nil, false, fmt.Errorf("decoding runtimes: %w", err)
		}
		if runtimes == nil {
			runtimes = map[string]json.RawMessage{}
		}
	}
	var registered struct {
		Path string `json:"path"`
	}
	if raw, found := runtimes[ocifront.Name]; found {
		if err := json.Unmarshal(raw, &registered); err != nil {
			return nil, false, fmt.Errorf("decoding runtimes.%s: %w", ocifront.Name, err)
		}
	}
	if defaultRuntime == ocifront.Name && registered.Path == path {
		return config, false, nil
	}
	registered.Path = path
	if runtimes[ocifront.Name], err = json.Marshal(registered); err != nil {
		return nil, false, fmt.Errorf("encoding runtimes.%s: %w", ocifront.Name, err)
	}
	if members["runtimes"], err = json.Marshal(runtimes); err != nil {
		return nil, false, fmt.Errorf("encoding runtimes: %w", err)
	}
	if members["default-runtime"], err = json.Marshal(ocifront.Name); err != nil {
		return nil, false, fmt.Errorf("encoding default-runtime: %w", err)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(members); err != nil {
		return nil, false, fmt.Errorf("encoding: %w", err)
	}
	return text.Bytes(), true, nil
}

// backUp copies content beside path and returns the copy's path. A copy of the same content that is there already is used, and
// one of other content is never overwritten.
func backUp(path string, content []byte) (string, error) {
	for attempt := 0; ; attempt++ {
		backup := path + ".before-gapproof"
		if attempt > 0 {
			backup += "." + strconv.Itoa(attempt)
		}
		kept, err := os.ReadFile(backup)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return backup, writeFile(backup, content, 0o644)
		case err != nil:
			return "", fmt.Errorf("backing up %s: %w", path, err)
		case bytes.Equal(kept, content):
			return backup, nil
		}
	}
}

// writeFile replaces path by renaming a complete file over it, so that no reader ever sees half of it.
func writeFile(path string, content []byte, mode fs.FileMode) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(file.Name())))
		}
	}()
	if _, err := file.Write(content); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Chmod(mode); err != nil {
		return errors.Join(err, file.Close())
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
