// Package ocifront is an OCI runtime in front of runc for hosts whose bounding set lacks a capability.
//
// An engine asked for a privileged container names every capability in the container's process specification, and runc then
// fails on the first one the kernel refuses. [Main] is registered with the engine as its runtime: it reads the command line as runc
// would ([parseCommand]), lowers the specification that the command uses to what this host can give ([filterSpec], [filterProcess],
// both against [limits]), and replaces itself with the real runc under the arguments it was given. Three things are lowered and
// nothing else: capabilities outside the bounding set, rlimits above the host's hard limits, and an oomScoreAdj that the kernel
// would refuse. Every other member of the specification keeps its bytes' meaning, also members this build has never heard of.
//
// A specification is replaced by renaming a complete file over it, so a crash leaves either the old one or the new one. When
// it cannot be understood nothing is written and runc is not run: the fault goes to the --log file in runc's own format, where the engine
// looks for it, and to standard error.
//
// The trap: this process becomes runc by execve, so nothing that must be closed or waited for may be alive by then. It does
// not speak to the engine, knows nothing of images, and has no configuration of its own.
package ocifront
