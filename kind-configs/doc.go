// Package kindconfigs holds the lab's topologies: one kind configuration per file, named for what differs.
//
// [Load] decodes a topology strictly into kind's own v1alpha4 type and refuses what the lab cannot carry; [Names] lists what
// there is. Each file opens with a comment that says what the topology is for and which scenarios need it. What depends on the
// host (the mount of certs.d that points every pull at the mirror, the node image) is added by runner/cluster, so a file is the
// same on every machine.
//
// The trap: these files are not for `kind create cluster --config`. Without the mount that runner/cluster adds, the nodes have
// an empty registry configuration folder and would ask the registries on the internet. No Go type of the lab and no CNI
// manifest belongs here.
package kindconfigs
