// Package dial makes one attempt: one connection, one datagram or one lookup, and says what the source's socket saw.
//
// A [Dialer] owns the source ports. [Dialer.Do] takes a [probes.Attempt] and always gives a [probes.Outcome]; it never gives an error
// beside it, because a fault of the instrument is an outcome of its own. Each protocol has a file: TCP and UDP open their
// sockets by system calls, because the net package drops a socket whose connect failed and with it the error queue, which alone tells
// an ICMP error from a reset and names its sender; DNS goes through the resolver of the Go library and the pod's resolv.conf. SCTP
// uses the kernel's sockets, and where the kernel has none package sctp over a raw one; ICMP uses the kernel's ping sockets, and a raw one
// where the pod's group may not open them. The outcome says which, because a raw socket needs the capability NET_RAW.
//
// Source ports. Every attempt binds its own port (an ICMP attempt its own echo identifier), exclusively (no SO_REUSEADDR, so the kernel vouches that it is unique per
// protocol), taken in a cycle over a range below the kernel's ephemeral one. A port that an attempt used rests for [FlowMemory] before
// another gets it: connection tracking on the way remembers a UDP flow or an unanswered SYN for two minutes, and a packet with
// the old numbers would be let through as part of the old flow, whatever a policy says by then.
//
// Closing. A TCP source closes with SO_LINGER 0, which sends a reset. It has the whole answer by then, or has given up, so nothing is
// lost; in return neither end keeps a TIME_WAIT socket, and connection tracking forgets the flow in seconds. Without it
// thousands of attempts a minute would leave ports that can be neither bound nor accepted for a minute each.
//
// The trap: TCP itself sends a SYN again after about a second. That is the kernel's, inside one attempt and its deadline, and a
// deadline of one second sees a single SYN; nothing here ever tries again. The kernel's SCTP does so after three seconds. And an echo has
// no arrival: the destination's kernel answers it and no listener sees it, so a reply that is lost looks like a request that is.
package dial

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// ErrUnsupported is the fault of an attempt whose protocol this build, or this platform, cannot speak.
var ErrUnsupported = errors.New("protocol is not supported by this build of the probe")

// Supports is nil when [Dialer.Do] speaks the protocol, else an error that is [ErrUnsupported].
func Supports(p probes.Protocol) error {
	if platformSupports(p) {
		return nil
	}
	return fmt.Errorf("checking protocol %s: %w", p, ErrUnsupported)
}

// Options holds what a Dialer may be told; the zero value is good.
type Options struct {
	// FirstPort and LastPort bound the source ports, both included; zero means [DefaultFirstPort] and [DefaultLastPort].
	FirstPort, LastPort uint16
	// Avoid lists ports in that range that are never used as a source, such as those of the pod's own listeners.
	Avoid []uint16
	// FlowMemory is how long a used source port rests; zero means [FlowMemory].
	FlowMemory time.Duration
}

// Dialer makes attempts. It may be used by many goroutines at once, holds no descriptor between attempts and needs no closing.
type Dialer struct {
	tcp, udp, sctp, icmp *ports
	// nameServer stands in for the one of resolv.conf in tests.
	nameServer string
}

// New is a Dialer, or an error when the range of source ports is empty.
func New(opts Options) (*Dialer, error) {
	if opts.FirstPort == 0 {
		opts.FirstPort = DefaultFirstPort
	}
	if opts.LastPort == 0 {
		opts.LastPort = DefaultLastPort
	}
	if opts.FlowMemory == 0 {
		opts.FlowMemory = FlowMemory
	}
	if opts.LastPort < opts.FirstPort {
		return nil, fmt.Errorf("choosing source ports: the last, %d, is below the first, %d", opts.LastPort, opts.FirstPort)
	}
	return &Dialer{tcp: newPorts(opts), udp: newPorts(opts), sctp: newPorts(opts), icmp: newPorts(opts)}, nil
}

// Do makes the attempt and says what came of it. The attempt's deadline bounds it; the end of ctx, for whatever reason, cuts it short
// with an outcome of kind Error, because an attempt that was not given its time has seen nothing.
func (d *Dialer) Do(ctx context.Context, a probes.Attempt) probes.Outcome {
	began := time.Now()
	o := probes.Outcome{AttemptID: a.ID, Started: began}
	switch err := errors.Join(a.Validate(), ctx.Err()); {
	case err != nil:
		fault(&o, err)
	case Supports(a.Protocol) != nil:
		fault(&o, Supports(a.Protocol))
	default:
		d.do(ctx, a, began.Add(a.Deadline), &o)
	}
	o.Took = time.Since(began)
	return o
}

// fault makes o an outcome of kind Error for the reason err.
func fault(o *probes.Outcome, err error) {
	o.Kind, o.Detail = probes.Error, err.Error()
}
