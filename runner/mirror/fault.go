package mirror

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// fault is why a request gets no content. The zero value is none.
type fault int

const (
	faultNone fault = iota
	faultLong
	faultName
	faultTag
	faultDigest
	faultUnsupported
	faultReadOnly
	faultRepository
	faultAmbiguous
	faultManifest
	faultBlob
	faultRange
	faultCorrupt
	faultUnreadable
)

// describe gives a fault's HTTP status and its code and message as the OCI distribution specification, section "Error Codes",
// names them. That section has no code for a registry's own failure, for a path's length and for a range; the nearest of its codes goes with the
// status then.
func (f fault) describe() (status int, code, message string) {
	switch f {
	case faultLong:
		return http.StatusRequestURITooLong, "NAME_INVALID", "the path is longer than that of any image"
	case faultName:
		return http.StatusBadRequest, "NAME_INVALID", "the repository name is malformed"
	case faultTag:
		return http.StatusBadRequest, "MANIFEST_INVALID", "the tag is malformed"
	case faultDigest:
		return http.StatusBadRequest, "DIGEST_INVALID", "the digest is not sha256 and 64 hexadecimal digits"
	case faultUnsupported:
		return http.StatusNotFound, "UNSUPPORTED", "this registry answers manifests and blobs only"
	case faultReadOnly:
		return http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only"
	case faultRepository:
		return http.StatusNotFound, "NAME_UNKNOWN", "the repository is not in the lock"
	case faultAmbiguous:
		return http.StatusNotFound, "NAME_UNKNOWN", "several locked repositories have this name; say which by ?ns="
	case faultManifest:
		return http.StatusNotFound, "MANIFEST_UNKNOWN", "the manifest is not in the lock"
	case faultBlob:
		return http.StatusNotFound, "BLOB_UNKNOWN", "the blob is not in the lock"
	case faultRange:
		return http.StatusRequestedRangeNotSatisfiable, "UNSUPPORTED", "the range is malformed, or behind the blob's end"
	case faultCorrupt:
		return http.StatusInternalServerError, "DIGEST_INVALID", "the stored blob does not match its digest and is not served"
	case faultUnreadable:
		return http.StatusInternalServerError, "BLOB_UNKNOWN", "the stored blob cannot be read"
	default:
		panic("describing a fault that is none") // every caller has checked
	}
}

// write answers with the fault in the specification's JSON form; detail is what was asked for, of which no more than maxKept bytes are echoed.
func (f fault) write(w http.ResponseWriter, detail string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  string `json:"detail,omitempty"`
	}
	status, code, message := f.describe()
	body, err := json.Marshal(map[string][]entry{"errors": {{code, message, keep(detail)}}})
	if err != nil {
		panic("encoding an error answer: " + err.Error()) // three strings always encode
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if status == http.StatusMethodNotAllowed {
		h.Set("Allow", "GET, HEAD")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client has gone when this fails, and the access log has the status
}
