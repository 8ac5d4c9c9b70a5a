//go:build !linux

package kernelnet

import "context"

// Try returns [ErrUnsupported].
func Try(context.Context, func(string) (string, error)) ([]Trial, error) { return nil, ErrUnsupported }
