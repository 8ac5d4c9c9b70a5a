//go:build !linux

package witness

import "context"

// TryPrograms answers [ErrUnsupported] for every kind.
func TryPrograms(context.Context) []Trial {
	trials := make([]Trial, 0, len(Programs()))
	for _, program := range Programs() {
		trials = append(trials, Trial{program, ErrUnsupported})
	}
	return trials
}

// BTF returns [ErrUnsupported].
func BTF() error { return ErrUnsupported }
