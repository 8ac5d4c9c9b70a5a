// Package program is what the programs inside a cluster have in common: flags that the environment may give, the token's file, the
// build's version.
//
// [FromEnvironment] sets the flags that were not given, [ReadToken] reads a bearer token, [Version] tells what was built.
//
// The trap: none of the errors quotes a token or the content of its file.
package program

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/gapproof/gapproof/probes/internal/loopback"
)

// Exit codes.
const (
	// ExitOK is the end by a signal.
	ExitOK = 0
	// ExitUsage is a wrong flag, argument or environment.
	ExitUsage = 2
	// ExitInfrastructure is a service that could not be had.
	ExitInfrastructure = 4
)

// Version is the version of the main module that the build recorded.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// FromEnvironment sets the flags that were not given from GAPPROOF_AGENT_PORT and its like; a flag called version is for people.
func FromEnvironment(flags *flag.FlagSet, env func(string) (string, bool)) error {
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var faults []error
	flags.VisitAll(func(f *flag.Flag) {
		name := "GAPPROOF_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value, ok := env(name); ok && !given[f.Name] && f.Name != "version" {
			if err := flags.Set(f.Name, value); err != nil {
				faults = append(faults, fmt.Errorf("%s: %q: %w", name, value, err))
			}
		}
	})
	return errors.Join(faults...)
}

// Limits of the token file.
const (
	// MaxTokenFile holds any token; a larger file is not one.
	MaxTokenFile = 4 << 10
	// othersMask are the permissions of everybody, which a secret must not have.
	othersMask = 0o007
)

// ReadToken reads the token, without the line end that editors leave. Its errors never quote it.
func ReadToken(path string) (string, error) {
	if path == "" {
		return "", errors.New("is required")
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&othersMask != 0 {
		return "", fmt.Errorf("%s: mode %s: want a file that others can neither read nor write (defaultMode 0440 and an fsGroup)", path, mode)
	}
	text, err := io.ReadAll(io.LimitReader(file, MaxTokenFile+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimRight(string(text), "\r\n")
	if len(text) > MaxTokenFile {
		return "", fmt.Errorf("%s: more than %d bytes", path, MaxTokenFile)
	}
	if err := loopback.CheckToken(token); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return token, nil
}
