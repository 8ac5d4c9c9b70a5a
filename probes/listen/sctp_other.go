//go:build !linux

package listen

import (
	"errors"
	"fmt"
	"net"
)

// errNoKernelSCTP is a kernel that cannot open a socket of SCTP.
var errNoKernelSCTP = errors.New("the kernel has no SCTP")

// kernelSCTP is unsupported, and not for the lack of it in a kernel: probes run in Linux pods.
func kernelSCTP(uint16) (*net.TCPListener, error) {
	return nil, fmt.Errorf("listening on SCTP: %w", errors.ErrUnsupported)
}

func dialKernelSCTP(uint16) (net.Conn, error) {
	return nil, fmt.Errorf("checking a listener on SCTP: %w", errors.ErrUnsupported)
}
