// Package sink is the sealed network's only resolver: it knows the lab's nodes, refuses every other name, and records all that it was asked.
//
// A [Sink] answers DNS over UDP and TCP (RFC 1035) and writes one [Query] per question to a log that is evidence: names are what leaves a network
// whose packets cannot. Nodes find each other by their names, as kubeadm wants it, so those are looked up with the engine that runs the
// sink's container; for every other name the answer is that it does not exist.
//
// The trap: the engine passes names it does not know on to a resolver, which must be this sink again or names would leave by it. Questions from
// the sink's own host are therefore answered at once and never looked up.
package sink
