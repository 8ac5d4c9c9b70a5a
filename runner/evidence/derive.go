package evidence

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"slices"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
)

// applied is one semantics note and how many judged attempts it had a part in.
type applied struct {
	reach.Note
	Attempts int `json:"attempts"`
}

// notesOf are the semantics notes that applied, by ID. One that planning adds has no text of its own besides its ID.
func notesOf(r *report.Report) []applied {
	count := map[string]int{}
	for _, s := range r.Scenarios {
		for _, st := range s.Steps {
			for _, j := range st.Judgements {
				for _, id := range j.Promise.Derived.Notes {
					count[id]++
				}
			}
		}
	}
	notes := []applied{}
	for _, n := range reach.Notes() {
		if count[n.ID] > 0 {
			notes = append(notes, applied{n, count[n.ID]})
			delete(count, n.ID)
		}
	}
	for id, n := range count {
		notes = append(notes, applied{reach.Note{ID: id}, n})
	}
	slices.SortFunc(notes, func(a, b applied) int { return cmp.Compare(a.ID, b.ID) })
	return notes
}

// writeAttempts writes what was seen in every round of each attempt that did not pass, in the log's own form and keys.
func writeAttempts(w io.Writer, scenario string, p *plan.Plan, n int, judgements []compare.Judgement, rounds []compare.Round) {
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey { // the moment of writing is no fact; rounds have their own
				return slog.Attr{}
			}
			return a
		},
	})).With("scenario", scenario, "step", p.Steps[n].Name)
	current := compare.Backends(p.Attempts, p.Steps[n].Promises)
	for i, j := range judgements {
		if j.Result == compare.Pass {
			continue
		}
		log := log.With("attempt", j.Attempt.ID)
		for k, r := range rounds {
			o := r.Observations[i]
			seen := compare.Observe(o, current[i])
			log.Debug("attempt observed", append([]any{
				"round", k + 1, "after", r.After, "token", o.Attempt.Token.String(), "outcome", o.Outcome.Kind.String(), "took", o.Outcome.Took,
			}, details(o, seen)...)...)
		}
		log.Info("attempt judged", "result", j.Result.String(), "promised", j.Promise.Verdict().String(), "verdict", j.Observed.Verdict.String(), "reason", j.Reason)
	}
}

// details are the parts of an observation that are often empty, and what follows from all of it.
func details(o probes.Observation, seen compare.Observed) []any {
	var out []any
	for _, f := range []struct{ key, value string }{
		{"errno", o.Outcome.Errno}, {"detail", o.Outcome.Detail}, {"responder", o.Outcome.Responder}, {"local", valid(o.Outcome.Local)},
		{"rejecter", valid(o.Outcome.Rejecter)}, {"sourceFault", o.Control.SourceFault}, {"destinationFault", o.Control.DestinationFault},
		{"baselineFault", o.Control.BaselineFault}, {"witnessFault", o.Control.WitnessFault},
	} {
		if f.value != "" {
			out = append(out, f.key, f.value)
		}
	}
	for _, a := range o.Arrivals {
		out = append(out, "arrival", fmt.Sprintf("%d at %s from %s", a.Count, a.Listener, a.Source))
	}
	for _, s := range o.Sightings {
		out = append(out, "sighting", fmt.Sprintf("%d %s %s node=%s pod=%s interface=%s reason=%s peer=%s", s.Count, s.Packet, s.Point, s.Node, s.Pod, s.Interface, s.Reason, valid(s.Peer)))
	}
	return append(out, "evidence", seen.Evidence.String(), "verdict", seen.Verdict.String())
}

// valid is an address's text, empty for none.
func valid[T interface {
	IsValid() bool
	String() string
}](a T) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
