// Package sbom says what an image is made of, as a CycloneDX document (https://cyclonedx.org/specification/overview/).
//
// [Read] takes the image's file system as one tar and finds what names its own origin there: the build information that the Go linker
// leaves in every binary, and dpkg's lists. The outcome is an [Inventory], which [Inventory.Document] turns into the document of a
// [Subject]. It comes from what is in the image, not from what was asked for, so it says the same of images built here and elsewhere.
//
// The same image gives the same bytes: a document has no serial number and no time.
//
// The trap: what names no origin is not listed. A C program that no package owns is not there, and the databases of rpm and apk are not
// read; a document about an image with one of those says of itself that it is incomplete.
package sbom
