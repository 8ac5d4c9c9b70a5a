package probes

import (
	"slices"
	"strings"
)

// Reasons by which a kernel gives up a packet inside the namespace that it had reached, by what they say of the way there.
//
// refusedReasons are given by filters on the way to the socket: the packet did not arrive. socketReasons are given by the destination's own
// sockets: it did. Any other, and a drop without a reason, tells neither.
var (
	refusedReasons = [...]string{"NETFILTER_DROP", "TC_INGRESS", "IP_RPFILTER", "XFRM_POLICY", "SECURITY_HOOK"}
	socketReasons  = [...]string{"NO_SOCKET", "SOCKET_RCVBUFF", "SOCKET_BACKLOG", "SOCKET_CLOSE", "PROTO_MEM", "QUEUE_PURGE"}
)

// unspecified is the reason of a free for which the kernel's code names none.
const unspecified = "NOT_SPECIFIED"

// Account adds up what the kernel saw of one attempt's requests, from the sightings of every witness. It is pure, and the order of the
// sightings does not matter.
//
// Sent are the requests that left their namespace, and those dropped in it before. Arrived are those that reached a pod, less those
// that were dropped inside it again: by a filter, which counts as dropped, or for a reason that does not tell, which stays unaccounted.
// What the destination's sockets give up has arrived. A free whose reason the kernel knows but does not specify is no drop: it may be that of
// a packet that went on as a copy. No more arrive than were sent, and no more are dropped than did not arrive, since a
// copy of a packet may be dropped while the packet arrives. Where no witness saw the source, sent is what was seen further on.
func Account(sightings []Sighting) Accounting {
	type pod struct{ reached, refused, unsure uint64 }
	pods := make(map[string]*pod)
	var sent, arrived, dropped, unsure, unspoken uint64
	for _, s := range sightings {
		if s.Packet == Request && s.Point == Reached {
			if pods[s.Pod] == nil {
				pods[s.Pod] = new(pod)
			}
			pods[s.Pod].reached += s.Count
		}
	}
	for _, s := range sightings {
		if s.Packet != Request {
			continue
		}
		in := pods[s.Pod]
		switch {
		case s.Point == Left:
			sent += s.Count
		case s.Point != Dropped:
		case s.Local:
			sent += s.Count
			if s.Reason != unspecified {
				dropped += s.Count
			}
		case in == nil && s.Reason == unspecified:
			unspoken += s.Count
		case in == nil || s.Reason == "XDP": // before the tap of a pod
			dropped += s.Count
		case slices.Contains(refusedReasons[:], s.Reason):
			in.refused += s.Count
		case !fromSocket(s.Reason):
			in.unsure += s.Count
		}
	}
	for _, p := range pods {
		back := min(p.reached, p.refused)
		open := min(p.reached-back, p.unsure)
		arrived += p.reached - back - open
		dropped += p.refused
		unsure += open
	}
	if sent == 0 {
		sent = arrived + max(dropped+unsure, unspoken)
	}
	arrived = min(arrived, sent)
	unsure = min(unsure, sent-arrived)
	dropped = min(dropped, sent-arrived-unsure)
	return Accounting{Sent: sent, Arrived: arrived, Dropped: dropped, Unaccounted: sent - arrived - dropped}
}

// fromSocket also knows the many reasons of TCP, whose names all begin alike.
func fromSocket(reason string) bool {
	return strings.HasPrefix(reason, "TCP_") || slices.Contains(socketReasons[:], reason)
}
