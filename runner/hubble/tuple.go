package hubble

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
)

// clockSlack is how far a node's clock may be from that of the pod which made an attempt, in either direction. A source port rests for 130 s
// after an attempt (dial.FlowMemory), so twice this cannot reach into the next one from the same port.
const clockSlack = 10 * time.Second

// Tuple is the way of one attempt's request through the network, before and behind the translation of a Service's address, and when.
type Tuple struct {
	Protocol probes.Protocol
	Source   netip.AddrPort
	// Destination is the address that it was sent to.
	Destination netip.AddrPort
	// Backends are the addresses it may have been sent on to, at any port: the source port alone tells whose it is.
	Backends []netip.Addr
	// From and Until bound the flows' times; zero where the attempt's is not known.
	From, Until time.Time
}

// TupleOf is the tuple of an attempt as it was observed, with the world's facts at the time. The attempt's responders are those of its
// step. Why says what keeps flows from being told to be the attempt's; it is empty with a tuple.
func TupleOf(f plan.Facts, a plan.Planned, o probes.Observation) (t Tuple, why string) {
	t = Tuple{Protocol: a.Protocol, Destination: a.Address}
	switch {
	case a.Lacking != "":
		return Tuple{}, "it was not made: " + a.Lacking
	case a.Self():
		return Tuple{}, "its packets do not leave their pod"
	case a.Protocol == probes.ICMP:
		return Tuple{}, "Hubble does not tell one echo from another"
	case a.Kind == plan.Lookup:
		t.Protocol, t.Destination = probes.UDP, o.Outcome.Remote
		for _, pod := range f.Resolver.Pods {
			t.Backends = append(t.Backends, pod.IPs...)
		}
	case a.Kind == plan.APIServerIP:
		for _, server := range f.APIServer.Endpoints {
			t.Backends = append(t.Backends, server.Addr())
		}
	}
	if o.Outcome.Responder == a.Source || slices.Equal(a.Responders, []string{a.Source}) {
		return Tuple{}, "a call to oneself through a Service carries another source address on its way"
	}
	for _, name := range a.Responders {
		t.Backends = append(t.Backends, addresses(f, name)...)
	}
	if t.Source = sourceOf(f, a, o); !t.Source.IsValid() {
		return Tuple{}, "the port that it was sent from is not known"
	}
	if !o.Outcome.Started.IsZero() {
		t.From = o.Outcome.Started.Add(-clockSlack)
		t.Until = o.Outcome.Started.Add(max(o.Outcome.Took, o.Attempt.Deadline) + clockSlack)
	}
	return t, ""
}

// addresses are those of a pod or of a host outside.
func addresses(f plan.Facts, name string) []netip.Addr {
	if pod, ok := f.Pods[name]; ok {
		return pod.Addresses()
	}
	return f.Outside[name]
}

// sourceOf is the address and port that the attempt was sent from: the socket's, else the source's own address of the destination's family
// with the port it was told to use.
func sourceOf(f plan.Facts, a plan.Planned, o probes.Observation) netip.AddrPort {
	port := o.Attempt.SourcePort
	if local := o.Outcome.Local; local.IsValid() && local.Port() != 0 {
		if !local.Addr().IsUnspecified() {
			return netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
		}
		port = local.Port()
	}
	if port == 0 {
		return netip.AddrPort{}
	}
	for _, own := range addresses(f, a.Source) {
		if !a.Address.IsValid() || own.Is4() == a.Address.Addr().Is4() {
			return netip.AddrPortFrom(own, port)
		}
	}
	return netip.AddrPort{}
}

// key is what flows are told apart by.
type key struct {
	protocol probes.Protocol
	source   netip.AddrPort
}

func (t Tuple) key() key { return key{t.Protocol, t.Source} }
func (f Flow) key() key  { return key{f.Protocol, f.Source} }

// Fault says why a flow is not of the tuple; empty when it is.
func (t Tuple) Fault(f Flow) string {
	switch {
	case f.key() != t.key():
		return fmt.Sprintf("it is %s from %s, the attempt's was %s from %s", f.Protocol, f.Source, t.Protocol, t.Source)
	case f.Destination != t.Destination && !slices.Contains(t.Backends, f.Destination.Addr()):
		return fmt.Sprintf("it went to %s, the attempt to %s", f.Destination, strings.Join(append([]string{t.Destination.String()}, texts(t.Backends)...), " or "))
	case !t.From.IsZero() && (f.Time.Before(t.From) || f.Time.After(t.Until)):
		return fmt.Sprintf("it was seen at %s, the attempt lasted from %s to %s, with %s for the clocks", f.Time.Format(time.RFC3339Nano),
			t.From.Format(time.RFC3339Nano), t.Until.Format(time.RFC3339Nano), clockSlack)
	}
	return ""
}

func texts(list []netip.Addr) []string {
	var out []string
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}
