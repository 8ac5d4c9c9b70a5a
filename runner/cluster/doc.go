// Package cluster brings the lab's kind clusters up and takes them down, leaving nothing behind.
//
// [Up] walks a list of named steps: lab checked, engine checked, network created (and sealed, by the caller's [Options.Close], with a
// sink for names), mirror started, node image loaded, kind nodes created, outside names refused, pod network installed (by the caller's
// [Options.Install]), nodes ready. What a failing step was doing is a [*StepError]; the command that failed below it is a [*CommandError]
// with its output. [Down] removes whatever Up made, at any stage of it, and [List] tells what there is. All nodes pull from the mirror, a
// container on the cluster's own network that outlives the process: the nodes' certs.d names it as the server of every registry, so there
// is no second place to ask.
//
// What belongs to a cluster is known by the label [Label] on its network, mirror and sink, and by kind's own label on nodes that are
// attached to that network. Nothing else is ever removed or changed, and a name that somebody else uses is [ErrClusterExists].
//
// The trap: kind's library takes its docker network from the process's environment and knows no context. Up sets the variable
// while kind works and holds a lock file meanwhile, so Ups on one host run one after the other; do not set the environment from
// other goroutines then. A cancelled Up pulls the node containers from under kind, waits for kind to notice, and removes the rest.
package cluster
