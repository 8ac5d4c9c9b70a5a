package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// nearestShown is how many similar IDs an error offers: few enough to be read at a glance.
const nearestShown = 3

// UnknownAttemptError tells that a scenario plans no attempt of that ID.
type UnknownAttemptError struct {
	Scenario string
	ID       string
	// Nearest are the most similar IDs of the plan, best first.
	Nearest []string
}

// Error names the attempt and the scenario.
func (e *UnknownAttemptError) Error() string {
	return fmt.Sprintf("selecting attempt %q: scenario %s plans no such attempt", e.ID, e.Scenario)
}

// Hint is what could have been meant, each quoted for a shell.
func (e *UnknownAttemptError) Hint() string {
	if len(e.Nearest) == 0 {
		return ""
	}
	quoted := make([]string, len(e.Nearest))
	for i, id := range e.Nearest {
		quoted[i] = "'" + id + "'"
	}
	return "the nearest are " + strings.Join(quoted, ", ")
}

// Only is p with the one attempt of that ID, its steps and changes whole. Any other ID is an [UnknownAttemptError].
func (p *Plan) Only(id string) (*Plan, error) {
	n := slices.IndexFunc(p.Attempts, func(a Planned) bool { return a.ID == id })
	if n < 0 {
		return nil, &UnknownAttemptError{Scenario: p.Name, ID: id, Nearest: p.nearest(id)}
	}
	only := *p
	only.only = id
	only.Attempts = p.Attempts[n : n+1 : n+1]
	only.Steps = slices.Clone(p.Steps)
	for i := range only.Steps {
		only.Steps[i].Promises = only.Steps[i].Promises[n : n+1 : n+1]
	}
	return &only, nil
}

// nearest are the IDs with the fewest edits between them and id.
func (p *Plan) nearest(id string) []string {
	type candidate struct {
		id       string
		distance int
	}
	candidates := make([]candidate, len(p.Attempts))
	for i, a := range p.Attempts {
		candidates[i] = candidate{a.ID, levenshtein.ComputeDistance(a.ID, id)}
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) })
	var ids []string
	for _, c := range candidates[:min(nearestShown, len(candidates))] {
		ids = append(ids, c.id)
	}
	return ids
}
