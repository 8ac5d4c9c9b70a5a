package scenarios

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Intent is what a person wants of one attempt. The zero value means that nothing was stated.
type Intent uint8

// The intents.
const (
	IntentUnstated Intent = iota
	IntentAllow
	IntentDeny
)

const (
	servicePrefix = "service:"
	lookups       = "dns"
	lookupPrefix  = "dns:"
)

// Intent is what e wants of the attempt from source ("namespace/pod") to destination ("namespace/pod", "service:namespace/name", or "dns" with or without
// ":name") on port ("TCP/80"; no matter for a lookup), and the field inside e that says so: "allow[0]", "deny[2]" or "exhaustive". The world tells
// which Services have no other backend than the source: that is the source's traffic to itself. A nil Expect states nothing.
func (e *Expect) Intent(w World, source, destination, port string) (Intent, string) {
	if e == nil {
		return IntentUnstated, ""
	}
	a := attempt{source: source, destination: destination, port: port, self: w.isSelf(source, destination)}
	for i := range e.Deny {
		if e.Deny[i].names(a) {
			return IntentDeny, item("deny", i)
		}
	}
	for i := range e.Allow {
		if e.Allow[i].names(a) {
			return IntentAllow, item("allow", i)
		}
	}
	if e.Exhaustive && !a.self {
		return IntentDeny, "exhaustive"
	}
	return IntentUnstated, ""
}

// attempt is what rules are held against.
type attempt struct {
	source, destination, port string
	self                      bool // it can only come back to the source
}

// names tells whether the rule covers an attempt. One to the source itself must be named in full, without an asterisk.
func (r *Rule) names(a attempt) bool {
	if !r.namesPort(a.destination, a.port) {
		return false
	}
	covers := matches
	if a.self {
		covers = matchesInFull
	}
	return matchesAny(r.From, a.source, covers) && matchesAny(r.To, a.destination, covers)
}

func (r *Rule) namesPort(destination, port string) bool {
	return len(r.Ports) == 0 || isLookup(destination) || slices.Contains(r.Ports, port)
}

func matchesAny(patterns []string, name string, covers func(pattern, name string) bool) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return covers(p, name) })
}

func matchesInFull(pattern, name string) bool {
	return pattern == name || pattern == lookups && isLookup(name)
}

// matches tells whether a pattern, perhaps with an asterisk, covers a source or destination. Services and lookups are only ever named in full.
func matches(pattern, name string) bool {
	if matchesInFull(pattern, name) {
		return true
	}
	if strings.HasPrefix(name, servicePrefix) || isLookup(name) {
		return false
	}
	if pattern == every {
		return true
	}
	namespace, isWild := strings.CutSuffix(pattern, "/"+every)
	return isWild && strings.HasPrefix(name, namespace+"/")
}

func isLookup(destination string) bool {
	return destination == lookups || strings.HasPrefix(destination, lookupPrefix)
}

// isSelf tells whether an attempt can only come back to where it started.
func (w World) isSelf(source, destination string) bool {
	if source == destination {
		return true
	}
	name, isService := strings.CutPrefix(destination, servicePrefix)
	if !isService {
		return false
	}
	for _, s := range w.Services {
		if s.Namespace+"/"+s.Name == name {
			backends := w.Backends(s)
			return len(backends) == 1 && backends[0] == source
		}
	}
	return false
}

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
		return "", 0, fmt.Errorf("%q is not a protocol and port such as TCP/80", s)
	}
	return corev1.Protocol(protocol), uint16(port), nil
}

// FormatPort writes what ParsePort reads.
func FormatPort(protocol corev1.Protocol, port uint16) string {
	return fmt.Sprintf("%s/%d", protocol, port)
}
