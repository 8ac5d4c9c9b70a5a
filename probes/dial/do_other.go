//go:build !linux

package dial

import (
	"context"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// platformSupports is false for all: probes run in Linux pods, and the error queue that tells a reset from an ICMP error is Linux's.
func platformSupports(probes.Protocol) bool { return false }

func (d *Dialer) do(_ context.Context, _ probes.Attempt, _ time.Time, o *probes.Outcome) {
	fault(o, ErrUnsupported)
}
