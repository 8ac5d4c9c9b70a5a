// Package probes is the vocabulary of what runs inside the cluster: attempts, outcomes, arrivals and the observation they make.
//
// A runner sends an [Attempt] to the agent of the source pod; the agent's socket sees an [Outcome]; the listener of the
// destination records an [Arrival] with the attempt's [Token]. An [Observation] joins them with the [Control] that proves both
// ends were alive. Sub-packages do the work: dial makes one attempt per protocol, listen answers, agent serves on the pod's
// loopback, client talks to it.
//
// The trap: nothing here knows what is expected. An outcome of timedOut is a fact about one socket, never a deny; judging is
// done in runner/compare. This package and everything below it except witness use the standard library only, so that the probe
// stays one small static binary.
package probes
