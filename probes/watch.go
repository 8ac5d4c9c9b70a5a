package probes

// WitnessHealth is one answer of a node's witness about itself.
type WitnessHealth struct {
	// Node is the name of the witness's node.
	Node string `json:"node"`
	// BootID is random per process start: what one process was told to watch another does not.
	BootID string `json:"bootID"`
	// Kernel is the release of the node's running kernel, such as "6.1.0-40-amd64".
	Kernel string `json:"kernel"`
	// Level is how much it can watch there.
	Level Level `json:"level"`
	// Fault says why Level is less than [Full], where that is known.
	Fault string `json:"fault,omitempty"`
	// Version is the witness's build version.
	Version string `json:"version"`
}
