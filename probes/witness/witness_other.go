//go:build !linux

package witness

import (
	"context"

	"github.com/gapproof/gapproof/probes"
)

// Witness exists on Linux only.
type Witness struct{}

// Open returns [ErrUnsupported].
func Open(Options) (*Witness, error) { return nil, ErrUnsupported }

// Level is [probes.Unwitnessed].
func (*Witness) Level() probes.Level { return probes.Unwitnessed }

// Adopt returns [ErrUnsupported].
func (*Witness) Adopt([]Pod) error { return ErrUnsupported }

// Watch returns [ErrUnsupported].
func (*Witness) Watch([]probes.Flow) error { return ErrUnsupported }

// Sightings returns [ErrUnsupported].
func (*Witness) Sightings([]string) ([]probes.Sighting, error) { return nil, ErrUnsupported }

// Follow returns [ErrUnsupported].
func (*Witness) Follow(context.Context, func([]string) error) error { return ErrUnsupported }

// Forget does nothing.
func (*Witness) Forget([]string) {}

// Close does nothing.
func (*Witness) Close() error { return nil }
