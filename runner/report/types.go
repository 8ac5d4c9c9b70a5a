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
	// Level is the level of evidence, as probes.Level writes it: the weakest that any node had at any time of the run.
	Level string `json:"level"`
	// LevelReason says why the level is no better, where that is known.
	LevelReason string     `json:"levelReason,omitempty"`
	Scenarios   []Scenario `json:"scenarios"`
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
	Rounds int `json:"rounds"`
	// Decided is the median time from sending to verdict of the attempts whose packets a witness saw die, over all rounds; zero when
	// there was none. Nothing else ends an attempt before its deadline but an answer.
	Decided time.Duration `json:"decided,omitempty"`
	Took    time.Duration `json:"took"`
	// Gaps are verdicts that changed after the beacons had flipped.
	Gaps []Gap `json:"gaps,omitempty"`
	// Judgements are in the order of the plan's attempts; renderers put the worst first themselves.
	Judgements []compare.Judgement `json:"judgements"`
}

// Gap is one attempt whose observed verdict changed after the step counted as converged.
type Gap struct {
	AttemptID string `json:"attemptID"`
	Detail    string `json:"detail"`
	// After is from acceptance of the change to the first observation that agrees with the last.
	After time.Duration `json:"after"`
}
