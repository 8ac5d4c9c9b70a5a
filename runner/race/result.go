package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/gapproof/gapproof/runner/reach"
)

// Result is what one contestant took and saw. It is written as JSON beside the raw output it was read from.
type Result struct {
	// Contestant names the program, with its version.
	Contestant string `json:"contestant"`
	// Config says in words or as a command line how it was run.
	Config string `json:"config"`
	// DestinationType is what attempts are sent to: a pod's address, its Service's name or its Service's address.
	DestinationType Destination `json:"destinationType"`
	// Wall is from its start to its end, with making and (where it does so) removing its own world.
	Wall  time.Duration `json:"wall"`
	Parts []Part        `json:"parts,omitempty"`
	Steps []Step        `json:"steps"`
}

// Part is a named share of the wall that is no step.
type Part struct {
	What string        `json:"what"`
	Took time.Duration `json:"took"`
}

// Step is one step of one case.
type Step struct {
	// Case is the case's title and Number the step's place in it, from 1.
	Case   string        `json:"case"`
	Number int           `json:"number"`
	Took   time.Duration `json:"took"`
	// Enforced is the measured time to enforce; zero from who does not measure it.
	Enforced time.Duration `json:"enforced,omitempty"`
	// Rounds is how often every attempt was made.
	Rounds int `json:"rounds"`
	// Answers are by attempt as gapproof names it: "x/a>x/b:TCP/80".
	Answers map[string]Answer `json:"answers"`
}

// Answer is what a contestant says about one attempt.
type Answer struct {
	// Verdict is the observed one; unknown where the contestant could not tell.
	Verdict reach.Verdict `json:"verdict"`
	// Promised is what the contestant's own engine derived from the policies.
	Promised reach.Verdict `json:"promised"`
	// Detail is the evidence or fault in words, where there are any.
	Detail string `json:"detail,omitempty"`
}

// Destination is what attempts are sent to, as cyclonus' --destination-type names it.
type Destination string

// The destinations.
const (
	ToServiceName Destination = "service-name"
	ToServiceIP   Destination = "service-ip"
	ToPodIP       Destination = "pod-ip"
)

// parseDestination reads a flag's value.
func parseDestination(s string) (Destination, error) {
	switch d := Destination(s); d {
	case ToServiceName, ToServiceIP, ToPodIP:
		return d, nil
	}
	return "", fmt.Errorf("%q is not %s, %s or %s", s, ToServiceName, ToServiceIP, ToPodIP)
}

// stepping is the time that the steps took together.
func (r *Result) stepping() time.Duration {
	var sum time.Duration
	for _, s := range r.Steps {
		sum += s.Took
	}
	return sum
}

// write writes the result as JSON.
func (r *Result) write(path string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing a result: %w", err)
	}
	return nil
}

// readResult reads what write wrote.
func readResult(path string) (*Result, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading a result: %w", err)
	}
	var r Result
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &r, nil
}
