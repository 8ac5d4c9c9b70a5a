// Package gate makes a seal.Spec true in this host's kernel and puts it to the proof.
//
// [Close] makes the cluster's own nftables table, [Open] removes it, [Read] compares it with the Spec and returns its counters. [Canaries] sends
// canaries from the network namespaces of nodes and of a pod, with sockets of this process, and says of each what the gate counted and whether a
// tap on the host's other interfaces saw it leave; [Masquerades] looks for rules of anybody that would give the lab's packets an address of the
// host. Judging what they return is package seal's.
//
// Only the table that carries the cluster's name is ever written to: a drop in it is final whatever other tables accept. Everything here needs
// Linux and root; elsewhere it is [ErrUnsupported].
//
// The trap: a network namespace belongs to a thread. Whatever enters one runs in a goroutine that keeps its thread to itself and lets the
// thread die with it, so that no other goroutine ever finds itself in a node's network.
package gate
