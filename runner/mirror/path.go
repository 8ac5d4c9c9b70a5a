package mirror

import (
	"regexp"
	"strings"
)

// kind is what a request path asks for.
type kind int

const (
	kindUnknown  kind = iota
	kindBase          // /v2/
	kindManifest      // /v2/<repository>/manifests/<reference>
	kindBlob          // /v2/<repository>/blobs/<digest>
)

// asked is a parsed request path.
type asked struct {
	kind       kind
	repository string // with or without a registry host in front, as the client wrote it
	reference  string // tag or digest for a manifest, digest for a blob
}

// The grammars are those of the OCI distribution specification, section "Pulling manifests". The first component of a
// repository may be a registry host with a port, which that grammar alone would refuse.
var (
	componentForm = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*$`)
	hostForm      = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]{1,5})?$`)
	tagForm       = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	digestForm    = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
)

// maxRepository bounds a repository name; 255 is the length that common registries and containerd accept.
const maxRepository = 255

// maxPath is the longest path that asks for anything: a manifest by a tag of 128 characters.
const maxPath = len("/v2/") + maxRepository + len("/manifests/") + 128

// parsePath reads a decoded URL path. The fault is what to answer when the path is none of ours.
func parsePath(path string) (asked, fault) {
	if len(path) > maxPath {
		return asked{}, faultLong
	}
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok || (rest != "" && rest[0] != '/') {
		return asked{}, faultUnsupported
	}
	rest = strings.TrimPrefix(rest, "/")
	if rest == "" {
		return asked{kind: kindBase}, faultNone
	}
	// The repository may hold any number of slashes and a component named "manifests" or "blobs"; the reference holds none, so
	// the path is read from its end.
	cut := strings.LastIndexByte(rest, '/')
	if cut < 0 {
		return asked{}, faultUnsupported
	}
	front, reference := rest[:cut], rest[cut+1:]
	cut = strings.LastIndexByte(front, '/')
	if cut < 0 {
		return asked{}, faultUnsupported
	}
	a := asked{repository: front[:cut], reference: reference}
	switch front[cut+1:] {
	case "manifests":
		a.kind = kindManifest
	case "blobs":
		a.kind = kindBlob
	default:
		return asked{}, faultUnsupported
	}
	if !validRepository(a.repository) {
		return asked{}, faultName
	}
	isDigest := strings.Contains(reference, ":")
	switch {
	case isDigest && !digestForm.MatchString(reference), !isDigest && a.kind == kindBlob:
		return asked{}, faultDigest
	case !isDigest && !tagForm.MatchString(reference):
		return asked{}, faultTag
	}
	return a, faultNone
}

func validRepository(name string) bool {
	if name == "" || len(name) > maxRepository {
		return false
	}
	for i, c := range strings.Split(name, "/") {
		if !componentForm.MatchString(c) && (i > 0 || !hostForm.MatchString(c)) {
			return false
		}
	}
	return true
}
