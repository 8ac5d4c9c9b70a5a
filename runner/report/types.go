package report

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/hubble"
)

// Report is everything one run has to tell. Renderers read it; nothing in it depends on a renderer.
type Report struct {
	// Run is the run's identifier, the value of the label on every object it made.
	Run      string        `json:"run"`
	Started  time.Time     `json:"started"`
	Took     time.Duration `json:"took"`
	Versions Versions      `json:"versions"`
	// Level is the level of evidence, as probes.Level writes it: the weakest that any node had at any time of the run.
	Level string `json:"level"`
	// LevelReason says why the level is no better, where that is known.
	LevelReason string     `json:"levelReason,omitempty"`
	Scenarios   []Scenario `json:"scenarios"`
	// Baseline is what failures were held against, if anything; Stale are those of its differences that did not show.
	Baseline *Baseline    `json:"baseline,omitempty"`
	Stale    []Difference `json:"stale,omitempty"`
	// Seal is nil for a run on a cluster that is not sealed, or of which nobody asked.
	Seal *Seal `json:"seal,omitempty"`
	// Hubble is nil for a run that did not ask it.
	Hubble *Hubble `json:"hubble,omitempty"`
}

// Versions says what was tested with what.
type Versions struct {
	Gapproof   string `json:"gapproof"`
	Kubernetes string `json:"kubernetes"`
	CNI        string `json:"cni"`
	Kernel     string `json:"kernel"`
	// Images are references by digest, sorted.
	Images []string `json:"images"`
	// Nodes are node names, sorted.
	Nodes []string `json:"nodes"`
}

// Scenario is one scenario's part.
type Scenario struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	File  string `json:"file"`
	Steps []Step `json:"steps"`
	// Fault is set when the scenario could not be carried out to its end; its remaining attempts are then inconclusive.
	Fault string `json:"fault,omitempty"`
	// Skipped says what the cluster lacks for the scenario to be carried out at all; it then has no steps, and does not count against the run.
	Skipped string        `json:"skipped,omitempty"`
	Took    time.Duration `json:"took"`
	// Omissions are what the scenario's manifests say and its world has not: what the run cannot have shown.
	Omissions []Omission `json:"omissions,omitempty"`
	// Ignored counts, by kind, the objects of its manifests that are neither workload nor policy.
	Ignored map[string]int `json:"ignored,omitempty"`
}

// Omission is something that manifests say and a world cannot.
type Omission struct {
	// File and Line are where the object is written; Line is 0 when it is not known.
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	// Object is the object, such as "Service shop/web".
	Object string `json:"object"`
	// Reason says what is left out, and why or what stands for it.
	Reason string `json:"reason"`
}

// String is "file:line: object: reason".
func (o Omission) String() string {
	if o.Line == 0 {
		return fmt.Sprintf("%s: %s: %s", o.File, o.Object, o.Reason)
	}
	return fmt.Sprintf("%s:%d: %s: %s", o.File, o.Line, o.Object, o.Reason)
}

// leftOut are the lines that say what the scenario's manifests hold and the run did not try.
func (s *Scenario) leftOut() []string {
	var out []string
	for _, o := range s.Omissions {
		out = append(out, o.String())
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Ignored)) {
		out = append(out, fmt.Sprintf("%d of kind %s passed over", s.Ignored[kind], kind))
	}
	return out
}

// Step is one step's part.
type Step struct {
	Name string `json:"name"`
	// Enforced is how long the slowest node's beacon took to flip after the step's changes were accepted.
	Enforced time.Duration `json:"enforced"`
	// Confirm is how long after the acceptance of the changes a promised deny may still open and close again; what does so later is a hole.
	Confirm time.Duration `json:"confirm"`
	// Rounds is how many rounds of attempts were needed until two successive ones agreed.
	Rounds int `json:"rounds"`
	// Decided is the median time from sending to verdict of the attempts whose packets a witness saw die, over all rounds; zero when
	// there was none. Nothing else ends an attempt before its deadline but an answer.
	Decided time.Duration `json:"decided,omitempty"`
	Took    time.Duration `json:"took"`
	// Gaps are verdicts that changed after the beacons had flipped.
	Gaps []Gap `json:"gaps,omitempty"`
	// Judgements are in the order of the plan's attempts; renderers put the worst first themselves.
	Judgements []compare.Judgement `json:"judgements"`
	// Hubble has an entry per judgement, in their order; none where no flow could be read.
	Hubble []hubble.Corroboration `json:"hubble,omitempty"`
}

// Gap is one attempt whose observed verdict changed after the step counted as converged.
type Gap = compare.Gap
