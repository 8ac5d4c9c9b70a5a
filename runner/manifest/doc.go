// Package manifest makes of Kubernetes objects, whether read from files or from a cluster, a world ready for the engine, and remembers where each was written.
//
// [Of] turns the objects that package scenarios reads out of manifests into a [Set]: [reach.World], [Policy] and [ClusterPolicy] values for the
// engine, [Service]s for questions about them. A workload becomes one pod of its own name that stands for all its replicas. [PodOf] and
// [ServiceOf] do the same for objects of a live cluster. A policy's Lines turn a field path, such as the engine's trace has it, back into a line and its column.
//
// The trap: files rarely hold a whole cluster. [Set.Pods] says whether any workload was among them; without one, "nothing matches" means
// nothing. Addresses that no status gives are invented ([Set.Addresses]).
//
// Reading and decoding files is the part of package scenarios, also for lint and explain: nothing is decoded here.
package manifest
