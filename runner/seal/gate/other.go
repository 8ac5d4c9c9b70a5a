//go:build !linux

package gate

import (
	"context"
	"net/netip"

	"github.com/gapproof/gapproof/runner/seal"
)

// Source is where canaries are sent from; on Linux it says more of itself.
type Source struct {
	Name     string
	Kind     seal.Kind
	PID      int
	Address  netip.Addr
	Resolver netip.AddrPort
}

// Check returns ErrUnsupported, as all of this package does here.
func Check() error { return ErrUnsupported }

// Close returns ErrUnsupported.
func Close(seal.Spec) error { return ErrUnsupported }

// Open returns ErrUnsupported.
func Open(string) (bool, error) { return false, ErrUnsupported }

// Read returns ErrUnsupported.
func Read(seal.Spec) (seal.Reading, []string, error) { return seal.Reading{}, nil, ErrUnsupported }

// Canaries returns ErrUnsupported.
func Canaries(context.Context, seal.Spec, []Source) ([]seal.Canary, error) {
	return nil, ErrUnsupported
}

// Names returns ErrUnsupported.
func Names(context.Context, []Source, func(Source) string) ([]seal.Name, error) {
	return nil, ErrUnsupported
}

// Masquerades returns ErrUnsupported.
func Masquerades(context.Context, seal.Spec, []netip.Prefix) ([]string, error) {
	return nil, ErrUnsupported
}

// Resolver returns ErrUnsupported.
func Resolver(int) (netip.AddrPort, error) { return netip.AddrPort{}, ErrUnsupported }

// PodProcess returns ErrUnsupported.
func PodProcess(string) (int, error) { return 0, ErrUnsupported }
