// Package images names every container image the lab uses and locks each one by digest.
//
// A [Lock] lists [Image] entries (what may be served and run) and [File] entries (what else travels with them, such as a CNI's
// own manifest). The lab directory it describes is an OCI image layout, with lock.json and the files beside it:
//
//	<lab>/layout/          OCI image layout (oci-layout, index.json, blobs/sha256/…)
//	<lab>/lock.json        this Lock
//	<lab>/files/<path>     every File by its path
//
// The folders beside this file hold one component each: what is in the image, and a go.mod of its own where it is built from
// modules. upstream.yaml lists the images that may be pulled from registries instead, by digest.
//
// The trap: a tag is only a name here. What is served, loaded and run is decided by the digest in the lock, so two names with one digest
// are one image and a name without a digest does not exist.
package images
