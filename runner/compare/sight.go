package compare

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
)

// Drop is where and why the kernel dropped the request of an attempt. Fields are empty where that is not known.
type Drop struct {
	// Reason is the kernel's name, such as "NETFILTER_DROP".
	Reason string `json:"reason,omitempty"`
	// Direction is "egress" when the source's end dropped it, "ingress" when the destination's did: known when it died inside a pod, or
	// on one of two different nodes.
	Direction string `json:"direction,omitempty"`
	Node      string `json:"node,omitempty"`
	// Pod is set when it was dropped inside that pod's network namespace instead of the node's.
	Pod       string `json:"pod,omitempty"`
	Interface string `json:"interface,omitempty"`
}

// String is the drop as a phrase: "NETFILTER_DROP on node n1 at cali12 (ingress)".
func (d Drop) String() string {
	words := d.Reason
	if words == "" {
		words = "a reason the kernel does not give"
	}
	if d.Pod != "" {
		words += " inside pod " + d.Pod
	}
	if d.Node != "" {
		words += " on node " + d.Node
	}
	if d.Interface != "" {
		words += " at " + d.Interface
	}
	if d.Direction != "" {
		words += " (" + d.Direction + ")"
	}
	return words
}

// seen is the sightings of one attempt, sorted by what the rows ask for.
type seen struct {
	probes.Accounting
	// drops are of the request, one per sighting, the first one first; peers are the other addresses the dropped packets had.
	drops []Drop
	peers []netip.AddrPort
	// reached and strayed are the pods that the request got into: permitted responders, and others.
	reached, strayed []string
	// replied: a reply left a permitted responder. replyDrops say where replies died.
	replied    bool
	replyDrops []Drop
	// returned: a reply got back into the source.
	returned bool
	// refuser is the permitted responder whose own stack sent a reset or an ICMP error, refusal says which.
	refuser, refusal string
	// rejecters are the addresses that resets and ICMP errors came from, as seen where they were seen.
	rejecters []string
}

// sortOut reads the sightings of o's attempt; another attempt's say nothing about this one.
func sortOut(o probes.Observation, p plan.Planned) seen {
	var s seen
	own := slices.DeleteFunc(slices.Clone(o.Sightings), func(g probes.Sighting) bool { return g.AttemptID != o.Attempt.ID })
	slices.SortStableFunc(own, func(a, b probes.Sighting) int { return int(a.After - b.After) })
	s.Accounting = probes.Account(own)
	sourceNode := ""
	for _, g := range own {
		if g.Packet == probes.Request && g.Pod == p.Source && g.Point != probes.Reached {
			sourceNode = g.Node
		}
	}
	for _, g := range own {
		responder := g.Pod != "" && slices.Contains(p.Responders, g.Pod)
		switch {
		case g.Packet == probes.Request && g.Point == probes.Dropped:
			s.drops = append(s.drops, dropOf(g, p, sourceNode))
			s.peers = append(s.peers, g.Peer)
		case g.Packet == probes.Request && g.Point == probes.Reached && responder:
			s.reached = append(s.reached, g.Pod)
		case g.Packet == probes.Request && g.Point == probes.Reached && g.Pod != "":
			s.strayed = append(s.strayed, g.Pod)
		case g.Packet == probes.Reply && g.Point == probes.Dropped:
			s.replyDrops = append(s.replyDrops, dropOf(g, p, ""))
		case g.Packet == probes.Reply && g.Point == probes.Left && responder:
			s.replied = true
		case g.Packet == probes.Reply && g.Point == probes.Reached && g.Pod == p.Source:
			s.returned = true
		case g.Packet == probes.ResetPacket || g.Packet == probes.ICMPError:
			what := "a reset"
			if g.Packet == probes.ICMPError {
				what = fmt.Sprintf("an ICMP error of code %d", g.Code)
			}
			switch {
			case g.Point == probes.Left && responder:
				s.refuser, s.refusal = g.Pod, what
			case g.Peer.IsValid():
				s.rejecters = append(s.rejecters, fmt.Sprintf("%s from %s", what, g.Peer.Addr()))
			}
		}
	}
	return s
}

// dropOf is a sighting's place. Which end of the way it is on is known inside a pod, and from the node where both ends have their own.
func dropOf(g probes.Sighting, p plan.Planned, sourceNode string) Drop {
	d := Drop{Reason: g.Reason, Node: g.Node, Pod: g.Pod, Interface: g.Interface}
	switch {
	case p.Self():
	case g.Pod == p.Source:
		d.Direction = "egress"
	case g.Pod != "" && slices.Contains(p.Responders, g.Pod):
		d.Direction = "ingress"
	case g.Pod != "" || p.SameNode || sourceNode == "":
	case g.Node == sourceNode:
		d.Direction = "egress"
	default:
		d.Direction = "ingress"
	}
	return d
}

// died tells whether every request was seen to be dropped before it got to anybody.
func (s seen) died() bool { return s.Dropped > 0 && s.Arrived == 0 && s.Unaccounted == 0 }

// strange is the first drop that no policy makes; level tells whether a missing reason means that the kernel would not say why or could not.
func (s seen) strange(level probes.Level) (Drop, bool) {
	for _, d := range s.drops {
		if !policyMakes(d) && (d.Reason != "" || level == probes.Full) {
			return d, true
		}
	}
	return Drop{}, false
}

// crossing is what is known about whether a dropped packet had passed its Service's translation of addresses.
type crossing uint8

const (
	crossingUnknown crossing = iota
	crossed
	notCrossed
)

// translated tells whether the dropped requests were already on their way to a backend. What is sent to a pod's address needs no
// translation. Before it, a Service without ready endpoints is refused by a rule that looks like any policy's.
func (r reading) translated() crossing {
	service := r.planned.Address.Addr()
	switch r.planned.Kind {
	case plan.ClusterIP, plan.APIServerIP:
	case plan.Lookup:
		service = r.Outcome.Remote.Addr()
	default:
		return crossed
	}
	if !service.IsValid() || slices.ContainsFunc(r.peers, func(p netip.AddrPort) bool { return !p.IsValid() }) {
		return crossingUnknown
	}
	if slices.ContainsFunc(r.peers, func(p netip.AddrPort) bool { return p.Addr() == service }) {
		return notCrossed
	}
	return crossed
}

// watched tells whether the kernel was watched well enough for a request that was not seen to mean something. Lookups are answered by
// pods that are not ours, and a resolver library may send them from a port that no witness was told of.
func (r reading) watched() bool {
	return r.Level >= probes.NoDropReason && (r.planned.Kind != plan.Lookup || len(r.Sightings) > 0)
}

func (r reading) dropWords() string { return "the kernel dropped the request: " + dropsWords(r.drops) }

// dropsWords are drops as one phrase, each once.
func dropsWords(drops []Drop) string {
	var words []string
	for _, d := range drops {
		if s := d.String(); !slices.Contains(words, s) {
			words = append(words, s)
		}
	}
	return strings.Join(words, ", then ")
}

func (r reading) lostWords() string {
	d, _ := r.strange(r.Level)
	return fmt.Sprintf("the kernel dropped the request: %s, which is no policy's doing", d)
}

func (r reading) unaccountedWords() string {
	if r.Sent == 0 {
		return r.outcome() + ", but the witness saw no packet of it: whether it was ever sent is not known"
	}
	return fmt.Sprintf("%s, but %d of %d requests left %s and were neither seen arriving nor being dropped: what took them is not known",
		r.outcome(), r.Unaccounted, r.Sent, r.planned.Source)
}

func (r reading) reachedWords() string {
	if len(r.reached) == 0 {
		return fmt.Sprintf("the request reached a network namespace that is not known (%s)", r.outcome())
	}
	return fmt.Sprintf("the request reached %s, but no listener there recorded it (%s)", names(r.reached), r.outcome())
}

func (r reading) refusedWords() string {
	return fmt.Sprintf("the network let the request through: %s left %s itself, so nobody listened there (%s)", r.refusal, r.refuser, r.outcome())
}

// repliedWords is for a request that was answered at its destination as far as the kernel saw, and whose answer is not known to its source.
func (r reading) repliedWords() string {
	words := fmt.Sprintf("the request reached %s, which replied", names(r.reached))
	switch {
	case len(r.replyDrops) > 0:
		words += "; the kernel dropped the reply: " + dropsWords(r.replyDrops)
	case r.returned:
		words += "; the reply got back to " + r.planned.Source
	default:
		words += "; the reply was not seen coming back"
	}
	if len(r.drops) > 0 {
		words += "; then " + r.dropWords()
	}
	return fmt.Sprintf("%s (%s)", words, r.outcome())
}

// rejectedBy says what is known of who rejected an attempt, as the end of a sentence.
func (r reading) rejectedBy() string {
	var words []string
	words = append(words, r.rejecters...)
	if len(words) == 0 && r.Outcome.Rejecter.IsValid() {
		words = append(words, "an ICMP error from "+r.Outcome.Rejecter.String())
	}
	slices.Sort(words)
	words = slices.Compact(words)
	if len(r.drops) > 0 {
		words = append(words, r.dropWords())
	}
	if len(words) == 0 {
		return ""
	}
	return "; " + strings.Join(words, "; ")
}

// names are pods, each once, in order.
func names(pods []string) string {
	pods = slices.Sorted(slices.Values(pods))
	return strings.Join(slices.Compact(pods), " and ")
}
