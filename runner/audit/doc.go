// Package audit looks at a cluster that is not ours, with the least privilege that the question needs.
//
// [Read] turns what a cluster holds into a [manifest.Set], policies of both kinds included; [ReadService] adds one Service. Read needs the verb list
// on pods, namespaces and networkpolicies.networking.k8s.io in all namespaces, on clusternetworkpolicies.policy.networking.k8s.io where the
// cluster serves them, and on nodes where one of those speaks of nodes; ReadService the verb get on services in one namespace. [Role] is that
// as a manifest. Nothing is watched, written or executed, and no Secret or ConfigMap is ever asked for.
//
// The trap: the lists are taken one after another, so what comes back may never have been true at one instant. A pod whose namespace went away meanwhile is
// left out. Pods that ended are left out, too: their addresses may be another's by now.
//
// What a policy means is not known here, and nothing is created.
package audit
