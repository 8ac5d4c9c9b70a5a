// Package seal says what a sealed lab network is and when it is proven sealed.
//
// A [Spec] is one cluster's seal: which packets may pass from the lab's bridge to the host, which are canaries, and which counter every packet
// ends in; [Spec.Chains] spells it out as rules. What was found when the seal was put to the proof is [Facts]; [Spec.Judge] makes a [Proof] of
// them, [Proof.Statement] puts that into the form that is signed, and [ParseStatement] judges such a form again. The kernel's side,
// which makes rules of a Spec and Facts of a cluster, is package gate; the resolver that answers and records names is package sink.
//
// The gate stands where the bridge hands a packet to the host, before routing: there every packet that leaves the lab's segment passes, whatever
// its family and whether or not the host would know a route for it, so a canary is counted on a host without any route too. Two nodes talk
// through the bridge and never pass it.
//
// The trap: that nothing was seen beyond the gate proves nothing by itself. A seal is proven only when canaries that were sent are counted
// exactly, by counters that never ran backwards, in rules that are those of the Spec; all else is [NotProven], never [Sealed].
package seal
