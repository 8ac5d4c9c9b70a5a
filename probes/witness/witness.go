package witness

import (
	"errors"
	"log/slog"
)

// ErrFull reports that a bounded table of the kernel has no room for what was asked. What was in it stays.
var ErrFull = errors.New("the witness is full")

// ErrClosed reports that the witness was closed meanwhile.
var ErrClosed = errors.New("the witness is closed")

// The bounds of one witness. The kernel's tables have these sizes; memory is taken per entry, not ahead.
const (
	// MaxFlows is how many attempts are watched at once: six times the largest batch planned so far, in 110 MiB when every one of them
	// is there at the same time.
	MaxFlows = 65536
	// MaxPods is how many probe pods one node has: four times the kubelet's highest usual limit.
	MaxPods = 1024
)

// Options holds what a Witness may be told; the zero value is good.
type Options struct {
	// Node is the name that every sighting carries.
	Node string
	// Proc is where the node's processes are seen; empty means "/proc". Its process 1 lives in the node's own network namespace.
	Proc string
	// Log gets what an operator would want told; nil discards.
	Log *slog.Logger
}

func (o Options) filled() Options {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Pod is one probe pod on the witness's node.
type Pod struct {
	// Identity is the pod's "namespace/name".
	Identity string
	// NetNS is the inode number of the pod's network namespace, as [probes.Health] tells it.
	NetNS uint64
}
