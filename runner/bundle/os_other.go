//go:build !linux

package bundle

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
)

// errNeedsLinux is what the parts of a build that only Linux offers return elsewhere.
var errNeedsLinux = fmt.Errorf("building the lab's images needs Linux: %w", errors.ErrUnsupported)

func lockFile(context.Context, string, func()) (func(), error) { return nil, errNeedsLinux }

func tieToUs(*exec.Cmd) func() { return func() {} }

func replaceDir(string, string) error { return errNeedsLinux }

func mountBelow(string) (string, error) { return "", errNeedsLinux }

func confine(*exec.Cmd) {}
