// Package reach derives from a world and its NetworkPolicies whether a connection must be allowed, and says which field of which policy decides.
//
// [Compile] turns a [World] and its [Policy] list into an [Engine]; [Engine.Decide] answers one [Query] with a [Decision]: a [Verdict] for
// the source's egress and the destination's ingress, each with a trace of [Ref]s into the policies. Selectors are evaluated once, at
// compile time, into bitsets over the pods, so that a decision only tests bits; an Engine is immutable and may be used by any
// number of goroutines. Policies are taken raw: the defaults that the API server fills in (policyTypes, protocol) are applied here, on
// nothing but the engine's own copy.
//
// The trap: the API leaves some traffic to the CNI. Where the engine had to choose, the decision carries a note (see [NoteSelfTraffic]
// and its neighbours), and a difference from what was observed there is not a fault of the CNI. Services are not known here: policy
// is judged after DNAT, so ask about each backend.
//
// This package is pure: no client, socket, clock or file. NetworkPolicy v1 is the only policy it knows; the tiers of
// ClusterNetworkPolicy and the evaluation of whole matrices are not part of it.
package reach
