package seal

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The types of the statement (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md).
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://gapproof.dev/seal/v1"
)

// About is what a proof is about, and when and by what it was made.
type About struct {
	// Lock is the digest of the lock that the cluster was made from: "sha256:" and 64 hexadecimal digits.
	Lock string
	// Run is the run that the proof belongs to, empty for one that stands alone.
	Run     string
	Time    time.Time
	Version string
}

// predicate is what a statement says about the lock: that a lab made from it was found so.
type predicate struct {
	Spec    Spec      `json:"spec"`
	Time    time.Time `json:"time"`
	Run     string    `json:"run,omitempty"`
	Version string    `json:"version"`
	Tried   []Tried   `json:"tried"`
	Proof
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Statement is the proof as an in-toto statement, in the form that is signed.
func (p Proof) Statement(s Spec, a About) ([]byte, error) {
	sum, ok := strings.CutPrefix(a.Lock, "sha256:")
	if !ok {
		return nil, fmt.Errorf("stating the proof: the lock's digest %q has no sha256", a.Lock)
	}
	tried := p.Tried()
	if tried == nil {
		tried = []Tried{}
	}
	raw, err := json.Marshal(struct {
		Type          string    `json:"_type"`
		Subject       []subject `json:"subject"`
		PredicateType string    `json:"predicateType"`
		Predicate     predicate `json:"predicate"`
	}{StatementType, []subject{{"lock.json", map[string]string{"sha256": sum}}}, PredicateType,
		predicate{Spec: s, Time: a.Time.UTC(), Run: a.Run, Version: a.Version, Tried: tried, Proof: p}})
	if err != nil {
		return nil, fmt.Errorf("stating the proof: %w", err)
	}
	return raw, nil
}
