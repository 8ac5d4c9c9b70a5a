package seal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The types of the statement (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://gapproof.dev/seal/v1"
)

// What a statement is about, by the names of the files whose digests it gives.
const (
	// LockSubject is the lock that the lab was made from, as it lies in the lab's folder and in bundles.
	LockSubject = "lock.json"
	// EvidenceSubject is the manifest of the evidence of the run that the proof belongs to.
	EvidenceSubject = "manifest.json"
)

// ErrStatement reports bytes that are no statement of a seal, or one that says what does not follow from its own facts.
var ErrStatement = errors.New("not a statement of a seal that holds")

// About is what a proof is about, and when and by what it was made. Run and Evidence are empty for one that stands alone.
type About struct {
	// Lock is the SHA-256 of the lock that the cluster was made from, Evidence that of the manifest of the run's evidence: 64 hexadecimal digits.
	Lock     string
	Evidence string
	// Run is the run that the proof belongs to.
	Run     string
	Time    time.Time
	Version string
}

// Subject is one file that a statement is about.
type Subject struct {
	Name string `json:"name"`
	// Digest has one member, "sha256".
	Digest map[string]string `json:"digest"`
}

// Predicate is what a statement says of its subjects: that a lab made from them was found so.
type Predicate struct {
	Spec    Spec      `json:"spec"`
	Time    time.Time `json:"time"`
	Run     string    `json:"run,omitempty"`
	Version string    `json:"version"`
	Tried   []Tried   `json:"tried"`
	Proof
}

// Statement is a proof as an in-toto statement.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Statement states the proof, whatever its verdict.
func (p Proof) Statement(s Spec, a About) (*Statement, error) {
	st := &Statement{Type: StatementType, PredicateType: PredicateType, Predicate: Predicate{
		Spec: s, Time: a.Time.UTC(), Run: a.Run, Version: a.Version, Tried: append([]Tried{}, p.Tried()...), Proof: p,
	}}
	for _, of := range []struct{ name, sum string }{{LockSubject, a.Lock}, {EvidenceSubject, a.Evidence}} {
		if of.sum != "" {
			st.Subject = append(st.Subject, Subject{of.name, map[string]string{"sha256": of.sum}})
		}
	}
	if err := st.validate(); err != nil {
		return nil, fmt.Errorf("stating the proof: %w", err)
	}
	return st, nil
}

// Encode is the statement in the form that is signed.
func (st *Statement) Encode() ([]byte, error) {
	raw, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encoding the statement: %w", err)
	}
	return raw, nil
}

// ParseStatement reads what Encode writes, in just that form, and judges its facts again: a verdict that does not follow from them is refused.
// The error matches [ErrStatement].
func ParseStatement(raw []byte) (*Statement, error) {
	var st Statement
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&st); err != nil {
		return nil, fmt.Errorf("reading the statement: %w: %w", ErrStatement, err)
	}
	if again, err := st.Encode(); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("reading the statement: %w: it is not in the form in which gapproof writes it", ErrStatement)
	}
	if err := st.validate(); err != nil {
		return nil, fmt.Errorf("reading the statement: %w: %w", ErrStatement, err)
	}
	return &st, nil
}

// validate reports every fault at once. Reasons are not compared: another version may word them differently.
func (st *Statement) validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if st.Type != StatementType {
		fault("_type: is %q, want %q", st.Type, StatementType)
	}
	if st.PredicateType != PredicateType {
		fault("predicateType: is %q, want %q", st.PredicateType, PredicateType)
		return errors.Join(faults...) // the rest is of something else
	}
	if len(st.Subject) == 0 || st.Subject[0].Name != LockSubject {
		fault("subject: the first must be %s", LockSubject)
	}
	for i, s := range st.Subject {
		if i > 1 || i == 1 && s.Name != EvidenceSubject {
			fault("subject[%d].name: %q is none of a seal's", i, s.Name)
		}
		if len(s.Digest) != 1 || !isDigest(s.Digest["sha256"]) {
			fault("subject[%d].digest: is not a sha256 of 64 lower-case hexadecimal digits", i)
		}
	}
	if st.Predicate.Time.IsZero() {
		fault("predicate.time: is required")
	}
	again := st.Predicate.Spec.Judge(st.Predicate.Facts)
	if again.Verdict != st.Predicate.Verdict {
		fault("predicate.verdict: is %q, and the facts give %s", st.Predicate.Verdict, again.Verdict)
	}
	if !slices.Equal(again.Tried(), st.Predicate.Tried) {
		fault("predicate.tried: is not what the facts give")
	}
	return errors.Join(faults...)
}

func isDigest(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == 32 && strings.ToLower(s) == s
}
