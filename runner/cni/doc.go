// Package cni installs a pod network into a lab cluster and waits until it carries pods.
//
// A [Profile] is data: a folder below this package whose profile.yaml names the CNI's own manifest among the lab's locked files,
// says how it is patched and what must be ready. [Install] reads that manifest, verifies it against the lock, patches it in
// memory, pins every image to its locked digest, applies it server-side, and calls [Ready], which waits for conditions and
// fails early with a [*NotReadyError] when something cannot become ready. [Detect] tells which CNI a cluster has, ours or not.
//
// The trap: nothing here enforces that a profile's images are enough. An image of the manifest that the lock does not list is
// refused before anything is applied ([images.ErrNotLocked]); an image that a controller makes up at run time would only fail on
// the node, and be told by [Ready].
package cni
