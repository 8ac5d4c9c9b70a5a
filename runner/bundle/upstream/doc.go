// Package upstream pulls the images that a lab takes from registries, each by the digest that a list gives it.
//
// A [List] is images/upstream.yaml: which images of the lab may be pulled, and the digest of each. A [Client] asks the registries, or the
// mirrors that stand in for them, for the manifests and blobs of those images. [Client.Resolve] asks what the tags of a list mean now: the
// answers become a new list ([List.Rewritten]), or show what has drifted ([Answer.State]).
//
// Credentials are those of docker's configuration ($DOCKER_CONFIG/config.json, credential helpers included), by the host that is asked. Plain
// HTTP is spoken with the loopback interface alone. Whatever may pass by itself is tried again a few times: refused and broken connections,
// bodies that end early or are not what their digest says, and answers of 408, 429 and 500 and above. A blob that is cut goes on where it was
// cut, if the registry answers ranges; blobs that are whole are kept by package bundle, so a run that was ended does not fetch them again.
//
// The trap: a tag is asked for by Resolve only. Nothing that is pulled depends on what a tag means at that moment.
package upstream
