package hubble

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/reach"
)

// Word is what Hubble's flows say to one observed verdict. The zero value is unknown.
type Word uint8

// The words.
const (
	WordUnknown Word = iota
	// Agree: it saw the packets come to the same end.
	Agree
	// Silent: it saw nothing that tells either way.
	Silent
	// Contradicts: it saw them come to the opposite end.
	Contradicts
)

var wordNames = [...]string{"unknown", "agree", "silent", "contradicts"}

// String is the word as reports print it.
func (w Word) String() string {
	if int(w) >= len(wordNames) {
		return fmt.Sprintf("invalid(%d)", uint8(w))
	}
	return wordNames[w]
}

// MarshalText writes the word.
func (w Word) MarshalText() ([]byte, error) {
	if int(w) >= len(wordNames) {
		return nil, fmt.Errorf("writing a word of Hubble's: %d has no name", uint8(w))
	}
	return []byte(wordNames[w]), nil
}

// UnmarshalText reads the word; anything else is an error.
func (w *Word) UnmarshalText(b []byte) error {
	n := slices.Index(wordNames[:], string(b))
	if n < 0 {
		return fmt.Errorf("reading a word of Hubble's: %q is not one of %s", b, strings.Join(wordNames[:], ", "))
	}
	*w = Word(n)
	return nil
}

// Corroboration is what Hubble says to the observed verdict of one attempt.
type Corroboration struct {
	AttemptID string `json:"attemptID"`
	Word      Word   `json:"word"`
	// Reason says in words what was seen, or why nothing was.
	Reason string `json:"reason"`
	// Flows is how many unlike flows of it were seen.
	Flows int `json:"flows,omitempty"`
	// Flow is the one that contradicts.
	Flow *Flow `json:"flow,omitempty"`
}

// ends are to what ends flows saw an attempt's packets come.
type ends struct {
	denied, droppedOtherwise, delivered bool
}

// said is one row of the table.
type said struct {
	word Word
	// reason has a %s for the flow that decides, if it is one that does.
	reason string
}

// table says for the observed verdict and the ends what Hubble's word is. Both nodes tell of a packet, and it may be sent again: a source's
// node forwards what the destination's drops, which [ends] leaves out; but one that was handed to its pod and one that was dropped are two
// packets, of which it cannot be told which was the attempt's first.
func table(observed reach.Verdict, e ends) said {
	const both = "some of its packets reached their pod and some were dropped: %s"
	switch {
	case e == ends{}:
		return said{Silent, "it was seen on its way, and not where it ended: %s"}
	case observed == reach.Unknown:
		return said{Silent, "there is no observed verdict to hold it against: %s"}
	case e.delivered && (e.denied || e.droppedOtherwise):
		return said{Silent, both}
	case observed == reach.Allow && e.delivered, observed == reach.Deny && e.denied:
		return said{Agree, "%s"}
	case observed == reach.Deny && e.droppedOtherwise:
		return said{Silent, "it was dropped, for a reason that is no policy's: %s"}
	default:
		return said{Contradicts, "%s was observed, Hubble saw it otherwise: %s"}
	}
}

// Corroborate holds the flows of one attempt, in the order of their times, against its observed verdict. Without any flow the reason
// is why, or what the reading says.
func Corroborate(attempt string, observed reach.Verdict, flows []Flow, why string, r Reading) Corroboration {
	c := Corroboration{AttemptID: attempt, Word: Silent, Flows: len(flows)}
	if why != "" {
		c.Reason = why
		return c
	}
	if len(flows) == 0 {
		c.Reason = "no flow of it was seen" + r.excuse()
		return c
	}
	e, decisive := endsOf(flows)
	s := table(observed, e)
	c.Word = s.word
	words := []any{decisive.String()}
	if s.word == Contradicts {
		words, c.Flow = []any{observed.String(), decisive.String()}, &decisive
	}
	c.Reason = fmt.Sprintf(s.reason, words...)
	return c
}

// endsOf are the ends that flows, of which there is at least one, saw; and the first flow that tells the one which weighs most.
func endsOf(flows []Flow) (ends, Flow) {
	var e ends
	decisive := flows[0]
	for _, end := range []struct {
		seen *bool
		is   func(Flow) bool
	}{
		{&e.delivered, Flow.delivered},
		{&e.droppedOtherwise, func(f Flow) bool { return f.Verdict == Dropped && !f.denied() }},
		{&e.denied, Flow.denied},
	} {
		if n := slices.IndexFunc(flows, end.is); n >= 0 {
			*end.seen, decisive = true, flows[n]
		}
	}
	return e, decisive
}
