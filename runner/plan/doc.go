// Package plan makes a scenario concrete: every attempt with its addresses, every step with its changes, and what must hold.
//
// [Build] joins a scenario with [Facts] (the addresses, nodes and names one cluster gave it) into a [Plan]: [Planned]
// attempts that are the same in every step, and one [Step] per step of the scenario with the policies and labels in effect after it
// and one [Promise] per attempt. A promise holds two verdicts that never overwrite each other: intended, which a person wrote under
// expect, and derived, which runner/reach computes. [Offline] invents facts so that a plan can be read without any cluster,
// [Plan.Only] narrows a plan to the attempt a replay names, and [GroupByWorld] finds
// the scenarios that can share one fixture.
//
// What is planned: every pod to every pod on each port it listens on, itself included; an echo
// from every pod to every other, where the world asks for ICMP; every pod to every port of every Service by
// ClusterIP; every node of the world's reach, on what hostNetwork pods there listen on and on node ports; every host outside
// the cluster, on its ports; the API server; and a name lookup from every pod for each Service that asks for it. Hosts outside attempt pods, node addresses and
// node ports as pods do. All of it once for each address family that the world asks for; what an end has no address for stays in the plan and is
// skipped ([Planned].Lacking). A ClusterIP is judged on the Service's backends and their ports, a lookup on the resolver's
// pods, and the API server on the servers' own addresses, because policies are applied after the Service's address is translated.
//
// Where a CNI may take a hostNetwork pod for a pod or for its node, or may see a call to a node port before or after its addresses are
// rewritten, the verdict is derived in each of these views. If they differ the attempt is skipped, with the reason and the semantics note.
//
// A step that makes pods again gives them addresses that nobody knows before: [Plan.Renew] takes them over.
//
// Names. In the lab a world's namespaces are used as written. Elsewhere [Facts].Prefix is put before each of them, and before the
// values with which a policy's namespaceSelector names one of them through kubernetes.io/metadata.name; a namespace outside
// of the world, such as kube-system, keeps its name. Attempt IDs, sources, destinations and responders stay as written.
//
// A ClusterNetworkPolicy gets the prefix before its own name, and whatever its subject selects is narrowed to the world's namespaces, in the
// lab too: an Admin policy with the subject namespaces: {} would else cut off every pod of the cluster, the beacons first. Its peers
// are left as wide as they are written, because a peer decides about nothing but the subject's own traffic.
//
// The trap: a wildcard is not everything. In expect, "*" and "namespace/*" stand for pods, a Service ("service:…") and "dns" must be
// named, and neither a wildcard nor exhaustive speaks for a pod's traffic to itself, which the API lets no policy cut. The
// package is pure: no client, socket, clock or file.
package plan
