package hubble

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// Verdict is Hubble's on one packet, as its API spells it.
//
// https://github.com/cilium/cilium/blob/v1.20.2/api/v1/flow/flow.proto, enum Verdict
type Verdict string

// The verdicts that decide, and the one of a flow whose verdict is none of the API's.
const (
	Forwarded Verdict = "FORWARDED"
	Dropped   Verdict = "DROPPED"
	Unknown   Verdict = "VERDICT_UNKNOWN"
)

// verdicts are all of the API's. Those beside Forwarded and Dropped decide nothing.
var verdicts = []Verdict{Unknown, Forwarded, Dropped, "ERROR", "AUDIT", "REDIRECTED", "TRACED", "TRANSLATED"}

// VerdictOf is the verdict of this name, Unknown when the API has none: a newer Hubble may know more.
func VerdictOf(name string) Verdict {
	if v := Verdict(name); slices.Contains(verdicts, v) {
		return v
	}
	return Unknown
}

// UnmarshalText reads a verdict that a run has kept; anything else than those of the API is an error.
func (v *Verdict) UnmarshalText(b []byte) error {
	if *v = Verdict(b); !slices.Contains(verdicts, *v) {
		return fmt.Errorf("reading a verdict of Hubble's: %q is not one of %s", b, verdicts)
	}
	return nil
}

// toEndpoint is the trace point of a packet that is handed to the pod it is for. All others lie before it, the source's node among them,
// and a packet that passed there may still be dropped.
const toEndpoint = "TO_ENDPOINT"

// The reasons of drops that policies make: no rule allows it, or one denies it.
const (
	policyDenied = "POLICY_DENIED"
	policyDeny   = "POLICY_DENY"
)

// Flow is one or more packets of a request, alike in all that is told here, as one node saw them.
type Flow struct {
	// Time is the node's, of the first of them.
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`
	Verdict Verdict   `json:"verdict"`
	// DropReason is why, such as "POLICY_DENIED"; only of drops.
	DropReason string `json:"dropReason,omitempty"`
	// Point is the trace point, such as "TO_ENDPOINT"; empty for drops and policy verdicts.
	Point string `json:"point,omitempty"`
	// Direction is "INGRESS" or "EGRESS" where Hubble knows it.
	Direction string          `json:"direction,omitempty"`
	Protocol  probes.Protocol `json:"protocol"`
	// Source and Destination are as the packet had them at this point: a Service's address is a backend's by then, or not yet.
	Source      netip.AddrPort `json:"source"`
	Destination netip.AddrPort `json:"destination"`
	// Count is how many flows were told that are alike; at least 1. Hubble tells of several packets in one flow, so it is not their number.
	Count uint64 `json:"count"`
}

// Alike tells whether two flows differ in nothing but their times.
func (f Flow) Alike(g Flow) bool {
	f.Time, f.Count = g.Time, g.Count
	return f == g
}

// denied tells whether a policy dropped it.
func (f Flow) denied() bool {
	return f.Verdict == Dropped && (f.DropReason == policyDenied || f.DropReason == policyDeny)
}

// delivered tells whether it was handed to the pod it was for.
func (f Flow) delivered() bool { return f.Verdict == Forwarded && f.Point == toEndpoint }

// String is "DROPPED POLICY_DENIED INGRESS on node-b, 10.0.0.1:12000 → 10.0.1.2:80".
func (f Flow) String() string {
	words := strings.Join(strings.Fields(fmt.Sprintf("%s %s %s %s", f.Verdict, f.DropReason, f.Point, f.Direction)), " ")
	return fmt.Sprintf("%s on %s, %s → %s", words, f.Node, f.Source, f.Destination)
}
