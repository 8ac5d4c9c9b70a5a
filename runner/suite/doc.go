// Package suite conducts a run: it brings a world up, proves its paths, applies each step, observes until two successive rounds
// agree, and judges.
//
// A step may delete pods and make them again. Such a pod is another one, whose paths no baseline has proven, and policies are in effect by
// then. A deny from it or to it then stands only on controls of the same round: something that it sent, or that was sent to it, was
// delivered. Where the policies let nothing through at that end, the deny is inconclusive; a scenario that wants it proven restarts first
// and denies in a later step. The same holds for a Service whose backends labels have changed.
//
// A [Suite] owns order, concurrency and clean-up and declares the seams it works through: [Worlds] makes a [World] whose agents
// answer as [Agent], [Policies] changes the cluster's policies. Everything it learns ends in a report.Report. Scenarios whose
// worlds are equal share one World and one baseline. [ClusterPolicies] changes ClusterNetworkPolicies; a scenario that has any is skipped, with
// the reason, where the cluster does not serve them, and fails where the cluster serves them and nothing enforces them.
//
// The life of a step: changes accepted → every node's beacon flipped → a round of attempts, and a second one that overlaps it →
// rounds until two agree → each attempt judged. The trap: a beacon shows that a node has processed what was accepted before it,
// not that every endpoint on it has. Only agreeing rounds make the step's verdicts, a contradiction of a promise is held for some
// seconds before it counts, and what changed after the beacons is reported as a gap. Beacons are toggled by a NetworkPolicy: of a
// ClusterNetworkPolicy they prove nothing, and the agreeing rounds alone tell when it is enforced.
package suite
