package gate

import "errors"

// ErrUnsupported reports a platform without nftables.
var ErrUnsupported = errors.New("a sealed network needs Linux")

// ErrNotClosed reports that the kernel has no table of the cluster.
var ErrNotClosed = errors.New("the network is not sealed")

// ErrNotPermitted reports a process that may not change this host's packet filter.
var ErrNotPermitted = errors.New("sealing a network needs root")
