// Package explain says of one connection whether the policies allow it and why: which policies isolate each end, which rule and field allowed it, or which came nearest and what it lacked.
//
// [Ask] takes a compiled engine, a [Target] and the [manifest.Set] that the engine was made from, and returns an [Answer] per destination: one for a pod or
// an address, one per backend for a Service, each with the file and line of every field that had a part. [Target] values come from [ParseSource] and
// [ParseDestination]. Where both ends have addresses of two families, and these are decided otherwise, each has an answer of its own. [WriteText] and [WriteJSON] render a [Report].
//
// The trap: the answer is derived from the policies, not observed. Whether a cluster does so is for a run to show; the notes of an answer name the places
// where clusters differ. Files mostly state no addresses of pods: an answer that rests on an assumed one is unknown, and [Answer.Assumed] says at which
// address it would be otherwise.
//
// This package is pure: reading files or a cluster is not its part, nor is deciding, which is package reach's.
package explain
