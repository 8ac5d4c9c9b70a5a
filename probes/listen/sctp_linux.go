package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/gapproof/gapproof/probes/internal/sctp"
)

// errNoKernelSCTP is a kernel that cannot open a socket of SCTP.
var errNoKernelSCTP = errors.New("the kernel has no SCTP")

// backlog is the accept queue of the kernel's own default (net.core.somaxconn).
const backlog = 4096

// kernelSCTP listens for both families, or for IPv4 where the node has no IPv6. A one-to-one socket of SCTP works as one of TCP does
// (RFC 6458, section 4), and the net package, which knows no SCTP, takes it for one.
func kernelSCTP(port uint16) (*net.TCPListener, error) {
	fd, err := boundSCTP(syscall.AF_INET6, &syscall.SockaddrInet6{Port: int(port)})
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		fd, err = boundSCTP(syscall.AF_INET, &syscall.SockaddrInet4{Port: int(port)})
	}
	if errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.ESOCKTNOSUPPORT) {
		return nil, fmt.Errorf("%w: %w", errNoKernelSCTP, err)
	}
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "sctp")
	defer file.Close() // the listener has a descriptor of its own
	socket, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("polling the socket: %w", err)
	}
	return socket.(*net.TCPListener), nil
}

// dialKernelSCTP is an association with a port of the pod's own, for a check of its listener: as a TCP one to the net package. It takes no
// longer than a check.
func dialKernelSCTP(port uint16) (net.Conn, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, sctp.ProtocolNumber)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), "check")
	defer file.Close() // the connection has a descriptor of its own
	limit := syscall.NsecToTimeval(checkTimeout.Nanoseconds())
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &limit); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(port), Addr: loopback.As4()}); err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	return net.FileConn(file)
}

func boundSCTP(family int, to syscall.Sockaddr) (int, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, sctp.ProtocolNumber)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if family == syscall.AF_INET6 {
		err = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0))
	}
	if err == nil {
		err = os.NewSyscallError("bind", syscall.Bind(fd, to))
	}
	if err == nil {
		err = os.NewSyscallError("listen", syscall.Listen(fd, backlog))
	}
	if err != nil {
		_ = syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}
