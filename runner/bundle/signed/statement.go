package signed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"
	"time"
)

// The types of the statement, as the envelope and the in-toto statement name them.
const (
	// PayloadType is DSSE's for in-toto (https://github.com/in-toto/attestation/blob/main/spec/v1/envelope.md).
	PayloadType = "application/vnd.in-toto+json"
	// StatementType is in-toto's (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
	StatementType = "https://in-toto.io/Statement/v1"
	// PredicateType is this package's.
	PredicateType = "https://gapproof.dev/bundle/v1"
)

// Limits of what is held in memory.
const (
	// maxEnvelope holds all entries that there may be. Reading one allocates up to twenty-four times as much, all in all: it and its payload
	// are decoded, and encoded again to see that they have one form, in buffers that double while they grow.
	maxEnvelope = 2 << 20
	// maxEntries is far more than a lab's few hundred. The decoder would make an entry of every three bytes.
	maxEntries = 8192
	// maxSignatures is far more than the people who sign one thing.
	maxSignatures = 64
	// maxObjects and maxWrappers are how many braces may open in a statement, which has four objects beside its entries', and in an envelope. A
	// name may have braces; who has that many is refused when writing.
	maxObjects, maxWrappers = maxEntries + 8, maxSignatures + 1
	// maxEntry is a single file's: an image layer of more than this does not belong on a node.
	maxEntry = 16 << 30
	// maxName is what a ustar header can hold without splitting a name (POSIX.1-1988).
	maxName = 100
	// maxFaults is how many faults of one list are reported: a list of nine thousand bad entries is as bad after the first few.
	maxFaults = 20
)

// The forms of what a statement says of its maker. They are printed: nothing in them may speak to a terminal or end a line of a log.
var (
	versionForm  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z._+~-]{0,127}$`)
	platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(?:/[a-z0-9]+)?$`)
)

// Subject is what the statement is about.
type Subject struct {
	Name string `json:"name"`
	// Digest has one member, "sha256".
	Digest map[string]string `json:"digest"`
}

// Entry is one file of a bundle.
type Entry struct {
	// Name is slash-separated and relative, at most 100 visible ASCII characters.
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// SHA256 is the lower-case hexadecimal digest of its bytes.
	SHA256 string `json:"sha256"`
}

// Predicate is what is said about the subject.
type Predicate struct {
	// Serial grows with every bundle that a site should move on to; an older one than the last seen is refused.
	Serial uint64 `json:"serial"`
	// Expires is when the bundle may no longer be loaded. Zero means never.
	Expires time.Time `json:"expires,omitzero"`
	// Version is the gapproof that made it: letters, digits and "._+~-", at most 128.
	Version string `json:"version"`
	// Platform is the images', such as "linux/amd64".
	Platform string `json:"platform"`
	// Entries are all files of the bundle, in its order.
	Entries []Entry `json:"entries"`
}

// Statement is the in-toto statement.
type Statement struct {
	Type string `json:"_type"`
	// Subject is the entry named in [Write], the root from which everything else can be found.
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Size is the sum of the entries' sizes in bytes.
func (s *Statement) Size() int64 {
	var n int64
	for _, e := range s.Predicate.Entries {
		n += e.Size
	}
	return n
}

// validate reports the first twenty faults at once.
func (s *Statement) validate() error {
	var faults []error
	left := 0
	fault := func(format string, args ...any) {
		if len(faults) == maxFaults {
			left++
			return
		}
		faults = append(faults, fmt.Errorf(format, args...))
	}
	all := func() error {
		if left > 0 {
			faults = append(faults, fmt.Errorf("and %d faults more", left))
		}
		return errors.Join(faults...)
	}
	if s.Type != StatementType {
		fault("_type: is %.100q, want %q", s.Type, StatementType)
	}
	if s.PredicateType != PredicateType {
		fault("predicateType: is %.100q, want %q", s.PredicateType, PredicateType)
	}
	if n := len(s.Predicate.Entries); n > maxEntries {
		fault("predicate.entries: are %d, want at most %d", n, maxEntries)
	}
	if !versionForm.MatchString(s.Predicate.Version) {
		fault("predicate.version: %.100q is not 1 to 128 letters, digits and ._+~-", s.Predicate.Version)
	}
	if !platformForm.MatchString(s.Predicate.Platform) {
		fault("predicate.platform: %.100q is not one such as linux/amd64", s.Predicate.Platform)
	}
	seen := map[string]int{}
	for i, e := range s.Predicate.Entries {
		field := fmt.Sprintf("predicate.entries[%d]", i)
		if err := ValidateName(e.Name); err != nil {
			fault("%s.name: %w", field, err)
		}
		if first, ok := seen[e.Name]; ok {
			fault("%s.name: %.100q is listed already at predicate.entries[%d]", field, e.Name, first)
		}
		seen[e.Name] = i
		if e.Size < 0 || e.Size > maxEntry {
			fault("%s.size: %d is not from 0 to %d", field, e.Size, int64(maxEntry))
		}
		if !isDigest(e.SHA256) {
			fault("%s.sha256: %.100q is not 64 lower-case hexadecimal digits", field, e.SHA256)
		}
	}
	for i, e := range s.Predicate.Entries {
		for dir := path.Dir(e.Name); len(dir) > 1; dir = path.Dir(dir) {
			if first, ok := seen[dir]; ok {
				fault("predicate.entries[%d].name: %.100q is below predicate.entries[%d], which is a file", i, e.Name, first)
			}
		}
	}
	if len(s.Subject) != 1 {
		fault("subject: has %d members, want 1", len(s.Subject))
		return all()
	}
	subject := s.Subject[0]
	i, ok := seen[subject.Name]
	switch {
	case !ok:
		fault("subject[0].name: %.100q is no entry", subject.Name)
	case len(subject.Digest) != 1 || subject.Digest["sha256"] != s.Predicate.Entries[i].SHA256:
		fault("subject[0].digest: is not the entry's sha256")
	}
	return all()
}

// ValidateName says what keeps a name from being an entry's.
func ValidateName(name string) error {
	switch {
	case name == "" || len(name) > maxName:
		return fmt.Errorf("%.100q has %d characters, want 1 to %d", name, len(name), maxName)
	case name == envelopeName:
		return fmt.Errorf("%q is the envelope's own", name)
	case path.Clean(name) != name || strings.HasPrefix(name, "/") || name == "." || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("%q is not a clean relative path", name)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' || name[i] == '\\' {
			return fmt.Errorf("%q: byte %#x at %d is not a visible ASCII character, or a backslash", name, name[i], i)
		}
	}
	return nil
}

func isDigest(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && strings.ToLower(s) == s
}

// decodeStrict reads exactly one JSON value of at most so many objects without unknown members, in the one form in which this package writes
// it.
func decodeStrict[T any](raw []byte, objects int, into *T) error {
	if n := bytes.Count(raw, []byte("{")); n > objects {
		return fmt.Errorf("it has %d objects, want at most %d", n, objects)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind the JSON value")
	}
	again, err := json.Marshal(*into)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, raw) {
		return errors.New("it is not in the form in which gapproof writes it")
	}
	return nil
}
