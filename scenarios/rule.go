package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	servicePrefix = "service:"
	lookups       = "dns"
	lookupPrefix  = "dns:"
	nodePrefix    = "node:"
	outsidePrefix = "outside:"
	// APIServer is the cluster's API server in rules and attempts.
	APIServer = "api-server"
	// apiServerPort is where it is attempted: the port of the Service kubernetes.
	apiServerPort = "TCP/443"
	// ICMP stands in the place of a port for echoes between pods, where the world's Reach asks for them.
	ICMP = "ICMP"
	// lookupPort is where a lookup goes, for rules that name ports.
	lookupPort = "UDP/53"
)

// Attempt is what a Rule is held against, in the words of rules.
type Attempt struct {
	// Source is "namespace/pod" or "outside:NAME".
	Source string
	// Destination is "namespace/pod", "service:namespace/name", "node:a", "node:a:namespace/name", "outside:NAME", [APIServer], or "dns" with or
	// without ":" and a name.
	Destination string
	// Port is "TCP/80" or [ICMP]; for a Service its own port. For a lookup it does not matter.
	Port string
	// LoopsBack says that it may end where it began: at the source itself, or at a Service that the source stands behind.
	LoopsBack bool
	// Family is that of the addresses; empty where the world's Reach names none.
	Family corev1.IPFamily
}

// Names tells whether the rule speaks about an attempt. One that loops back must be named in full at both ends, without an asterisk.
func (r Rule) Names(a Attempt) bool {
	match := covers
	if a.LoopsBack {
		match = coversInFull
	}
	return r.namesPort(a.Destination, a.Port) && r.namesFamily(a.Family) &&
		slices.ContainsFunc(r.From, func(p string) bool { return match(p, a.Source) }) &&
		slices.ContainsFunc(r.To, func(p string) bool { return match(p, a.Destination) })
}

func (r Rule) namesPort(destination, port string) bool {
	if isLookup(destination) {
		port = lookupPort
	}
	return len(r.Ports) == 0 || slices.Contains(r.Ports, port)
}

func (r Rule) namesFamily(f corev1.IPFamily) bool {
	return len(r.Families) == 0 || slices.Contains(r.Families, f)
}

func coversInFull(pattern, end string) bool {
	return pattern == end || pattern == lookups && isLookup(end)
}

// covers tells whether a pattern names an end. "*" and "namespace/*" stand for pods; after "service:" they stand for Services, and "outside:*"
// for all hosts outside.
func covers(pattern, end string) bool {
	if coversInFull(pattern, end) {
		return true
	}
	if isLookup(end) || end == APIServer {
		return false
	}
	if strings.HasPrefix(end, nodePrefix) {
		return strings.HasPrefix(pattern, nodePrefix) && strings.HasPrefix(end, pattern+":")
	}
	if strings.HasPrefix(end, outsidePrefix) {
		return pattern == outsidePrefix+every
	}
	if service, is := strings.CutPrefix(end, servicePrefix); is {
		if pattern, is = strings.CutPrefix(pattern, servicePrefix); !is {
			return false
		}
		end = service
	}
	if pattern == every {
		return true
	}
	namespace, isWild := strings.CutSuffix(pattern, "/"+every)
	return isWild && strings.HasPrefix(end, namespace+"/")
}

func isLookup(destination string) bool {
	return destination == lookups || strings.HasPrefix(destination, lookupPrefix)
}

// Outside is the name in rules, attempts and placeholders of the host outside the cluster that is called name.
func Outside(name string) string { return outsidePrefix + name }

// IsOutside tells whether an end of an attempt is a host outside the cluster.
func IsOutside(end string) bool { return strings.HasPrefix(end, outsidePrefix) }

// Backends are the pods ("namespace/pod") that the Service selects by the labels written in the world.
func (w World) Backends(s Service) []string {
	var out []string
	for _, ns := range w.Namespaces {
		if ns.Name != s.Namespace {
			continue
		}
		for _, pod := range ns.Pods {
			if len(s.Selector) > 0 && hasLabels(pod.Labels, s.Selector) {
				out = append(out, ns.Name+"/"+pod.Name)
			}
		}
	}
	return out
}

func hasLabels(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if got, has := labels[k]; !has || got != v {
			return false
		}
	}
	return true
}

// ParsePort reads a port of a Rule, such as "TCP/80".
func ParsePort(s string) (corev1.Protocol, uint16, error) {
	protocol, number, found := strings.Cut(s, "/")
	port, err := strconv.ParseUint(number, 10, 16)
	if !found || err != nil || port == 0 || !isProtocol(corev1.Protocol(protocol)) || strconv.FormatUint(port, 10) != number {
		return "", 0, fmt.Errorf("reading a port: %q is not a protocol and number such as TCP/80", s)
	}
	return corev1.Protocol(protocol), uint16(port), nil
}

// FormatPort writes what ParsePort reads.
func FormatPort(protocol corev1.Protocol, port uint16) string {
	return fmt.Sprintf("%s/%d", protocol, port)
}
