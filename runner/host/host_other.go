//go:build !linux

package host

import "context"

// Check returns [ErrUnsupported].
func Check(context.Context, Options) ([]Finding, error) { return nil, ErrUnsupported }

// Fix returns [ErrUnsupported].
func Fix(context.Context, Options) ([]Action, error) { return nil, ErrUnsupported }

// StopEngine returns [ErrUnsupported].
func StopEngine(context.Context, Options) ([]Action, error) { return nil, ErrUnsupported }
