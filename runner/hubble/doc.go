// Package hubble holds what Cilium's Hubble saw of a run's packets against what gapproof observed.
//
// A [Tuple] is what a flow of one attempt must look like, made from the attempt's plan and its observation. A [Log] takes every [Flow] that
// is read and keeps those of the tuples it is told of. A [Reading] says how the flows were read. [Corroborate] holds the flows of one
// attempt against its observed verdict: Hubble agrees, is silent, or contradicts.
//
// The trap: Hubble corroborates and does no more. It is fed by the same program that enforces the policies, it aggregates, and it loses
// events when it is busy, so no verdict, no result and no exit code may rest on it. Nothing here talks to a cluster.
package hubble
