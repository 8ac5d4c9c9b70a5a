// Package manifest reads Kubernetes manifests into a world, its Services and its policies, and remembers the line of every field.
//
// [Read] turns the contents of [File]s into a [Set]: [reach.World], [Policy] and [ClusterPolicy] values ready for the engine. Policies are decoded
// strictly, everything else loosely and only for what a policy can see: labels, ports, hostNetwork. A workload (Deployment, StatefulSet,
// DaemonSet, ReplicaSet, ReplicationController, Job, CronJob) becomes one pod of its own name that stands for all its replicas. [Lines] is what
// turns a field path, such as the engine's trace has it, back into a line.
//
// The trap: files rarely hold a whole cluster. [Set.Pods] says whether any workload was among them; without one, "nothing matches" means
// nothing. Addresses that no status gives are invented ([Set.Addresses]).
//
// Scenarios are read by package scenarios, and no file is opened here: contents come as bytes.
package manifest
