//go:build !linux

package ocifront

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ErrUnsupported reports that there are no OCI containers of this kind on the platform.
var ErrUnsupported = errors.New("an OCI runtime front needs Linux")

// Main writes [ErrUnsupported] to stderr and returns 1.
func Main(_ context.Context, _ []string, stderr io.Writer) int {
	fmt.Fprintf(stderr, "%s: %v\n", Name, ErrUnsupported)
	return 1
}
