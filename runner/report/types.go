package report

import (
	"time"

	"github.com/gapproof/gapproof/runner/compare"
)

// Report is everything one run has to tell. Renderers read it; nothing in it depends on a renderer.
type Report struct {
	// Run is the run's identifier, the value of the label on every object it made.
	Run      string        `json:"run"`
	Started  time.Time     `json:"started"`
	Took     time.Duration `json:"took"`
	Versions Versions      `json:"versions"`
	// Level is the level of evidence: "full", "no drop program", "taps only" or "unwitnessed".
	Level     string     `json:"level"`
	Scenarios []Scenario `json:"scenarios"`
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
	Fault string        `json:"fault,omitempty"`
	Took  time.Duration `json:"took"`
}

// Step is one step's part.
type Step struct {
	Name string `json:"name"`
	// Enforced is how long the slowest node's beacon took to flip after the step's changes were accepted.
	Enforced time.Duration `json:"enforced"`
	// Rounds is how many rounds of attempts were needed until two successive ones agreed.
	Rounds int           `json:"rounds"`
	Took   time.Duration `json:"took"`
	// Gaps are verdicts that changed after the beacons had flipped.
	Gaps []Gap `json:"gaps,omitempty"`
	// Judgements are in the order of the plan's attempts; renderers put the worst first themselves.
	Judgements []compare.Judgement `json:"judgements"`
}

// Gap is one attempt whose observed verdict changed after the step counted as converged.
type Gap = compare.Gap
