package explain

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/runner/reach"
)

// Target is one end of a connection as a person names it: exactly one of a pod, a Service and an address.
type Target struct {
	// Endpoint is a pod or an address; zero for a Service.
	Endpoint reach.Endpoint
	// Service is "namespace/name"; empty for a pod or an address.
	Service string
}

// String is the target as it is typed.
func (t Target) String() string {
	if t.Service != "" {
		return servicePrefix + t.Service
	}
	return t.Endpoint.String()
}

const servicePrefix = "service:"

// ParseSource reads "namespace/pod" or an IP address.
func ParseSource(s string) (Target, error) {
	if strings.HasPrefix(s, servicePrefix) {
		return Target{}, fmt.Errorf("reading the source %q: a Service connects to nothing; name one of its pods", s)
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return Target{Endpoint: reach.Endpoint{Addr: addr.Unmap().WithZone("")}}, nil
	}
	namespace, pod, ok := splitName(s)
	if !ok {
		return Target{}, fmt.Errorf("reading the source %q: it is neither namespace/pod nor an IP address", s)
	}
	return Target{Endpoint: reach.Endpoint{Namespace: namespace, Pod: pod}}, nil
}

// ParseDestination reads what ParseSource reads, and "service:namespace/name".
func ParseDestination(s string) (Target, error) {
	name, isService := strings.CutPrefix(s, servicePrefix)
	if isService {
		if _, _, ok := splitName(name); !ok {
			return Target{}, fmt.Errorf("reading the destination %q: a Service is service:namespace/name", s)
		}
		return Target{Service: name}, nil
	}
	t, err := ParseSource(s)
	if err != nil {
		return Target{}, fmt.Errorf("reading the destination %q: it is none of namespace/pod, service:namespace/name and an IP address", s)
	}
	return t, nil
}

func splitName(s string) (namespace, name string, ok bool) {
	namespace, name, ok = strings.Cut(s, "/")
	return namespace, name, ok && namespace != "" && name != "" && !strings.Contains(name, "/")
}

// Port is a destination port; for a Service, the Service's own.
type Port struct {
	Protocol corev1.Protocol `json:"protocol"`
	Number   uint16          `json:"port"`
}

// String is "TCP/80".
func (p Port) String() string { return fmt.Sprintf("%s/%d", p.Protocol, p.Number) }

// ParsePort reads "80", "TCP/80" or "udp/53"; without a protocol it is TCP.
func ParsePort(s string) (Port, error) {
	protocol, number, ok := strings.Cut(s, "/")
	if !ok {
		protocol, number = string(corev1.ProtocolTCP), s
	}
	p := Port{Protocol: corev1.Protocol(strings.ToUpper(protocol))}
	switch p.Protocol {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		return Port{}, fmt.Errorf("reading the port %q: %q is not one of TCP, UDP, SCTP", s, protocol)
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return Port{}, fmt.Errorf("reading the port %q: %q is not a number from 1 to 65535 (of a named port give the number: each pod has its own)", s, number)
	}
	p.Number = uint16(n)
	return p, nil
}
