package dial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/gapproof/gapproof/probes"
)

// errnoKinds is what a kernel error says about the network when connect, send or receive returns it. An error that is not here is a
// fault of the instrument: no descriptor, no memory, no address left, a call that was wrong.
//
// The ICMP codes behind each are in the kernel's icmp_err_convert (net/ipv4/icmp.c) and icmpv6_err_convert (net/ipv6/icmp.c).
// A "prohibit" route of the source answers EACCES, an "unreachable" one EHOSTUNREACH; a "blackhole" one answers EINVAL, which stays an
// error because a malformed call does so too.
var errnoKinds = map[syscall.Errno]probes.OutcomeKind{
	syscall.ECONNREFUSED: probes.Refused,
	syscall.ECONNRESET:   probes.Reset,
	syscall.ECONNABORTED: probes.Reset,
	syscall.EPIPE:        probes.Reset,
	syscall.ETIMEDOUT:    probes.TimedOut,
	syscall.EHOSTUNREACH: probes.Unreachable,
	syscall.ENETUNREACH:  probes.Unreachable,
	syscall.EACCES:       probes.Unreachable,
	syscall.EPERM:        probes.Unreachable,
	syscall.EHOSTDOWN:    probes.Unreachable, // ICMP host unknown
	syscall.ENONET:       probes.Unreachable, // ICMP source host isolated
	syscall.ENOPROTOOPT:  probes.Unreachable, // ICMP protocol unreachable
}

// errnoNames are the symbols of the errors that attempts meet; the syscall package knows only their sentences.
var errnoNames = map[syscall.Errno]string{
	syscall.EACCES:          "EACCES",
	syscall.EADDRINUSE:      "EADDRINUSE",
	syscall.EADDRNOTAVAIL:   "EADDRNOTAVAIL",
	syscall.EAFNOSUPPORT:    "EAFNOSUPPORT",
	syscall.ECONNABORTED:    "ECONNABORTED",
	syscall.ECONNREFUSED:    "ECONNREFUSED",
	syscall.ECONNRESET:      "ECONNRESET",
	syscall.EHOSTDOWN:       "EHOSTDOWN",
	syscall.EHOSTUNREACH:    "EHOSTUNREACH",
	syscall.EINVAL:          "EINVAL",
	syscall.EMFILE:          "EMFILE",
	syscall.EMSGSIZE:        "EMSGSIZE",
	syscall.ENETDOWN:        "ENETDOWN",
	syscall.ENETUNREACH:     "ENETUNREACH",
	syscall.ENFILE:          "ENFILE",
	syscall.ENOBUFS:         "ENOBUFS",
	syscall.ENOMEM:          "ENOMEM",
	syscall.ENONET:          "ENONET",
	syscall.ENOPROTOOPT:     "ENOPROTOOPT",
	syscall.EPERM:           "EPERM",
	syscall.EPIPE:           "EPIPE",
	syscall.EPROTO:          "EPROTO",
	syscall.EPROTONOSUPPORT: "EPROTONOSUPPORT",
	syscall.ESOCKTNOSUPPORT: "ESOCKTNOSUPPORT",
	syscall.ETIMEDOUT:       "ETIMEDOUT",
}

// errnoName is the symbol of a kernel error.
func errnoName(e syscall.Errno) string {
	if name, ok := errnoNames[e]; ok {
		return name
	}
	return fmt.Sprintf("errno %d", int(e))
}

// classify fills the outcome for an error of the attempt's socket; s may be nil. The end of ctx, whatever it made of the socket, is a
// fault of the instrument and never a time-out of the network.
func classify(ctx context.Context, o *probes.Outcome, s *socket, err error) {
	if ctx.Err() != nil {
		fault(o, fmt.Errorf("cutting the attempt short: %w", context.Cause(ctx)))
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		o.Kind = probes.TimedOut
		return
	}
	fault(o, err)
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return
	}
	o.Errno = errnoName(errno)
	if !fromNetwork(err) {
		return
	}
	kind, ok := errnoKinds[errno]
	if !ok {
		return
	}
	o.Kind = kind
	if s != nil {
		o.Rejecter = s.rejecter()
	}
	if errno == syscall.EPERM {
		o.Detail = "the source's own node refused it: a netfilter drop in the output chain, or a program on the socket's cgroup"
	}
}

// fromNetwork tells the errors of connecting, sending and receiving from those of making a socket and binding it.
func fromNetwork(err error) bool {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call.Syscall == "connect" || call.Syscall == "read" || call.Syscall == "recvfrom" ||
			call.Syscall == "write" || call.Syscall == "sendto"
	}
	var path *os.PathError // reading and writing an os.File
	return errors.As(err, &path)
}
