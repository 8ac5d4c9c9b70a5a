package hubble

import (
	"fmt"
	"strings"
)

// Reading says how a run's flows were read.
type Reading struct {
	// Absent says why no flow could be read at all; empty when some source was.
	Absent string `json:"absent,omitempty"`
	// Sources are what flows were read from, by name.
	Sources []Source `json:"sources,omitempty"`
	// Forgotten is how many flows of attempts had to be left out, because they were more unlike each other than is kept.
	Forgotten uint64 `json:"forgotten,omitempty"`
}

// Source is one Hubble server: that of a node's agent, or the relay, which speaks for all of them.
type Source struct {
	// Name is the pod's, "kube-system/cilium-x7k2p", and Node the node it runs on.
	Name string `json:"name"`
	Node string `json:"node"`
	// Read tells whether it has answered.
	Read bool `json:"read"`
	// Version is what the server says of itself.
	Version string `json:"version,omitempty"`
	// Flows is how many it told, and Lost how many events it says that it lost itself.
	Flows uint64 `json:"flows"`
	Lost  uint64 `json:"lost,omitempty"`
	// Fault says why it was not read, or not to the run's end.
	Fault string `json:"fault,omitempty"`
}

// Lost is how many events all sources lost.
func (r Reading) Lost() uint64 {
	var n uint64
	for _, s := range r.Sources {
		n += s.Lost
	}
	return n
}

// Fault is in words what was wrong with the sources: the first one's, and how many more; empty when nothing was. In a large cluster all have
// the same.
func (r Reading) Fault() string {
	words, more := "", 0
	for _, s := range r.Sources {
		switch {
		case s.Fault == "":
		case words == "":
			words = fmt.Sprintf("%s on %s: %s", s.Name, s.Node, s.Fault)
		default:
			more++
		}
	}
	if more > 0 {
		words += fmt.Sprintf("; and %d more such", more)
	}
	return words
}

// excuse is what may have kept a flow from being seen, as the end of a sentence.
func (r Reading) excuse() string {
	if r.Absent != "" {
		return ": " + r.Absent
	}
	var words []string
	if fault := r.Fault(); fault != "" {
		words = append(words, fault)
	}
	if n := r.Lost(); n > 0 {
		words = append(words, fmt.Sprintf("Hubble lost %d events", n))
	}
	if len(words) == 0 {
		return ""
	}
	return "; " + strings.Join(words, "; ")
}
