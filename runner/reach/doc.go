// Package reach derives from a world and its policies whether a connection must be allowed, and says which field of which policy decides.
//
// [Compile] turns a [World], its [Policy] list and, where there are any, its [ClusterPolicy] list into an [Engine]. Five things can be
// asked of it:
//   - [Engine.Decide] answers one [Query] with a [Decision]: a [Verdict] for the source's egress and the destination's ingress, each with a
//     trace of [Ref]s into the policies. It is the reference.
//   - [Engine.DecideEcho] answers for ICMP, about which policies say nothing: allow, or no verdict.
//   - [Engine.Matrix] gives the verdicts of all pods towards all pods over one [Channel], by word operations and without a trace.
//   - [Engine.Classes] tells which pods and which ports no policy tells apart.
//   - [Engine.MinimalProbes] chooses the connections that stand for all others; [Engine.Coverage] says how many they are.
//
// Selectors are evaluated once, at compile time, into bitsets over the pods; an Engine is immutable and may be used by any number of
// goroutines. Policies are taken raw: the defaults that the API server fills in (policyTypes, protocol) are applied here, on
// nothing but the engine's own copy. Each direction is judged by the Admin tier, then by NetworkPolicies where one selects the pod, else by
// the Baseline tier, else it is allowed.
//
// The trap: the API leaves some traffic to the CNI. Where the engine had to choose, the decision carries a note, described by [Notes], and
// a difference from what was observed there is not a fault of the CNI. Services are not known here: policy is judged after
// DNAT, so ask about each backend.
//
// This package is pure: no client, socket, clock or file. It knows NetworkPolicy v1 and ClusterNetworkPolicy v1alpha2; domain names are
// not resolved. The package differential below holds it against another matcher.
package reach
