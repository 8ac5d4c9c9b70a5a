package dial

import (
	"context"
	"time"

	"github.com/gapproof/gapproof/probes"
)

func platformSupports(p probes.Protocol) bool {
	return p != probes.ProtocolUnknown // Validate refuses whatever has no name
}

// do makes an attempt that is valid and supported.
func (d *Dialer) do(ctx context.Context, a probes.Attempt, deadline time.Time, o *probes.Outcome) {
	switch a.Protocol {
	case probes.TCP:
		d.doTCP(ctx, a, deadline, o)
	case probes.UDP:
		d.doUDP(ctx, a, deadline, o)
	case probes.SCTP:
		d.doSCTP(ctx, a, deadline, o)
	case probes.ICMP:
		d.doICMP(ctx, a, deadline, o)
	case probes.DNS:
		d.doDNS(ctx, a, deadline, o)
	default:
		panic("dial: a supported protocol without a function")
	}
}
