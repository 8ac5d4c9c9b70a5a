// Package mirror serves the lab's locked images to the nodes: a read-only registry over an OCI image layout.
//
// A [Mirror] is made from a lab directory and its lock. [New] walks from every locked digest to its manifests, configs and
// layers, verifies each manifest, and keeps that closed set; nothing else is ever answered, whatever lies in the layout beside
// it. It is an [http.Handler] for the pull half of the OCI distribution specification (manifests by tag and digest, blobs with
// ranges; no upload, no listing), honours containerd's ns parameter, and writes one [Access] per request to a log that is
// evidence: it shows which digests a node got and what else it asked for. [Mirror.Serve] runs it on a listener.
//
// A handler of our own is used because go-containerregistry's registry package is a writable registry that knows no lock, no ns
// parameter and no re-hashing; its layout, manifest and hash types are used here, and its remote client tests this package.
//
// What a client does is bounded: what it may write into the log (of a method, a path and an ns the first 512 bytes, [Access].Cut says how many
// more there were), how long it may send headers and take nothing of an answer; no body is waited for. [ReadAccessLog] leaves out a line that it
// cannot read, and says which. What net/http refuses while it reads a request (400: no HTTP, 431: more than 36 KiB of headers) never comes to the
// handler: it is answered in plain text and is not in the log, and neither are connections that send no request. None of them got anything.
//
// The trap: a blob is hashed before its first byte is sent and again whenever its file changes, so the first request for a layer
// costs one reading of it. A file that does not match its digest is an error for ever, never content.
package mirror
