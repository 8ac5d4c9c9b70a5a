// Package bundle builds the lab directory that package images describes: every image of the lab as an OCI layout, lock.json, and
// the files that travel beside them.
//
// [CreateFromModules] is the "modules source": it builds from Go modules and Debian packages alone, for sites that have no
// container registry and no engine. What to build is data: a [Component] per folder of images/, read by [ReadComponents]. Each
// component turns into steps (a go build, a Debian root, a layer), each step has a key over everything that decides its output,
// and a step whose key is in the cache does not run. So a second build does nothing, and an interrupted one goes on where it was.
//
// [CreateFromUpstream] is the "upstream source", for a side that reaches registries: images that images/upstream.yaml lists are pulled by
// digest (package upstream) in place of being built, and all else is built as before: our own images, the node, the CNIs' manifests. Each
// blob is an entry of the same cache, and what comes out is the same kind of lab directory with the same names in it. The list's head says
// why the node is not pulled.
//
// [Sources] are what of a lab directory is carried in one signed file, which package signed writes, and [Load] makes a lab directory of such a file
// on the other side. [Verify] and [Inspect] hold such a file against its lock without writing anything. [Serials] remembers what was loaded last.
// Whoever changes or carries a lab directory holds its lock ([LockLab]).
//
// A step waits for what it needs, whichever of the two lanes makes it: what waits for networks and disks, and what computes.
//
// The trap: a key holds what was asked for, not what an archive answered. A Debian root is rebuilt when its package list
// changes, not when the archive publishes a fix; delete the cache to take those in. What was installed is in the lock.
package bundle
