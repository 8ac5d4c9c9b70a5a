package evidence

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal"
	"github.com/gapproof/gapproof/scenarios"
)

// The apiVersion of every document here, and the kinds of those that stand alone.
const (
	APIVersion   = "gapproof.dev/v1alpha1"
	ManifestKind = "EvidenceManifest"
	RunKind      = "EvidenceRun"
	SealKind     = "EvidenceSeal"
	HubbleKind   = "EvidenceHubble"
)

// The names of files; those of a scenario are in its own folder.
const (
	manifestFile     = "manifest.json"
	runFile          = "run.json"
	notesFile        = "notes.json"
	reportFile       = "report.json"
	sealFile         = "seal.json"
	hubbleFile       = "hubble.json"
	flowsFile        = "hubble.jsonl"
	scenarioFile     = "scenario.json"
	factsFile        = "facts.json"
	baselineFile     = "baseline.jsonl"
	policiesFile     = "policies.jsonl"
	stepsFile        = "steps.jsonl"
	observationsFile = "observations.jsonl"
	planFile         = "plan.json"
	attemptsFile     = "attempts.log"
	// clusterPoliciesFile is apart from policiesFile: its lines are of another API, which a cluster need not serve.
	clusterPoliciesFile = "clusterpolicies.jsonl"
)

// factsSince and planSince are the names of what a step changed that made pods again; steps are counted from 0.
func factsSince(step int) string { return fmt.Sprintf("facts-%03d.json", step+1) }
func planSince(step int) string  { return fmt.Sprintf("plan-%03d.json", step+1) }

// The API's kinds of stored policies.
const (
	policyKind        = "NetworkPolicy"
	clusterPolicyKind = "ClusterNetworkPolicy"
)

// folder is the n-th scenario's, counted from 0. The number keeps the order and tells scenarios of one name apart.
func folder(n int, name string) string {
	return path.Join("scenarios", fmt.Sprintf("%03d-%s", n+1, name))
}

// Manifest lists every other file of a directory.
type Manifest struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Files are in the order of their names.
	Files []File `json:"files"`
}

// File is one file of a directory.
type File struct {
	// Name is relative to the directory, with slashes.
	Name string `json:"name"`
	Size int64  `json:"size"`
	// SHA256 is in lower-case hexadecimal.
	SHA256 string `json:"sha256"`
}

// Run is what is known about a run besides its scenarios.
type Run struct {
	APIVersion string        `json:"apiVersion"`
	Kind       string        `json:"kind"`
	Run        string        `json:"run"`
	Started    time.Time     `json:"started"`
	Took       time.Duration `json:"took"`
	Level      string        `json:"level"`
	// LevelReason says why the level is no better; empty at the best.
	LevelReason string          `json:"levelReason,omitempty"`
	Versions    report.Versions `json:"versions"`
	Options     Options         `json:"options"`
	// Baseline is what failures were held against, if anything.
	Baseline *report.Baseline `json:"baseline,omitempty"`
	// Scenarios are in the order of the run, one per folder.
	Scenarios []Ended `json:"scenarios"`
	// Skipped are the scenarios that the cluster lacks something for; they come before the others in the report and have no folder.
	Skipped []report.Scenario `json:"skipped,omitempty"`
}

// Seal is what was found when the seal of the run's cluster was put to the proof after the run.
type Seal struct {
	APIVersion string     `json:"apiVersion"`
	Kind       string     `json:"kind"`
	Spec       seal.Spec  `json:"spec"`
	Facts      seal.Facts `json:"facts"`
}

// Hubble is how Hubble's flows were read beside the run.
type Hubble struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Reading    hubble.Reading `json:"reading"`
}

// sawFlow is one flow of one judged attempt.
type sawFlow struct {
	// Scenario is the number of the scenario's folder.
	Scenario int         `json:"scenario"`
	Step     string      `json:"step"`
	Attempt  string      `json:"attempt"`
	Flow     hubble.Flow `json:"flow"`
}

// Options are those of a run that its conclusions depend on.
type Options struct {
	// Attempt is the only one that was made; empty for all.
	Attempt string `json:"attempt,omitempty"`
	// Replay are the flags that lead a replay to the same cluster.
	Replay []string `json:"replay,omitempty"`
}

// Ended is how one scenario went.
type Ended struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"`
	// Fault is why it was not carried out to its end.
	Fault string `json:"fault,omitempty"`
	// Steps is what each observed step took.
	Steps []time.Duration `json:"steps"`
}

// loaded is a scenario with the origins of its policies, which its own JSON leaves out.
type loaded struct {
	File     string              `json:"file"`
	Scenario *scenarios.Scenario `json:"scenario"`
	Policies []written           `json:"policies,omitempty"`
	// Replacing and ReplacingCluster have one entry per step.
	Replacing        [][]written                 `json:"replacing,omitempty"`
	Cluster          []scenarios.ClusterPolicy   `json:"cluster,omitempty"`
	ReplacingCluster [][]scenarios.ClusterPolicy `json:"replacingCluster,omitempty"`
	// Omissions and Ignored are what its manifests hold and the run did not try.
	Omissions []scenarios.Omission `json:"omissions,omitempty"`
	Ignored   map[string]int       `json:"ignored,omitempty"`
}

// written is a policy as a person wrote it.
type written struct {
	scenarios.Policy
	// Empty are the lists that are written and hold nothing, such as "ingress[0].from": the API's JSON leaves them out, and a trace tells them
	// from lists that are missing.
	Empty []string `json:",omitempty"`
}

// lists calls each with every list of a spec's rules and with the lists of rules, by their paths.
func lists(s *networkingv1.NetworkPolicySpec, each func(path string, empty bool, set func())) {
	each("ingress", s.Ingress != nil && len(s.Ingress) == 0, func() { s.Ingress = []networkingv1.NetworkPolicyIngressRule{} })
	each("egress", s.Egress != nil && len(s.Egress) == 0, func() { s.Egress = []networkingv1.NetworkPolicyEgressRule{} })
	rule := func(path, list string, peers *[]networkingv1.NetworkPolicyPeer, ports *[]networkingv1.NetworkPolicyPort) {
		each(path+"."+list, *peers != nil && len(*peers) == 0, func() { *peers = []networkingv1.NetworkPolicyPeer{} })
		each(path+".ports", *ports != nil && len(*ports) == 0, func() { *ports = []networkingv1.NetworkPolicyPort{} })
	}
	for i := range s.Ingress {
		rule(fmt.Sprintf("ingress[%d]", i), "from", &s.Ingress[i].From, &s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		rule(fmt.Sprintf("egress[%d]", i), "to", &s.Egress[i].To, &s.Egress[i].Ports)
	}
}

func write(list []scenarios.Policy) []written {
	var out []written
	for _, p := range list {
		w := written{Policy: p}
		lists(&p.Spec.Spec, func(path string, empty bool, _ func()) {
			if empty {
				w.Empty = append(w.Empty, path)
			}
		})
		out = append(out, w)
	}
	return out
}

func unwrite(list []written) []scenarios.Policy {
	var out []scenarios.Policy
	for _, w := range list {
		p := w.Policy
		p.Spec = *p.Spec.DeepCopy()
		lists(&p.Spec.Spec, func(path string, _ bool, set func()) {
			if slices.Contains(w.Empty, path) {
				set()
			}
		})
		out = append(out, p)
	}
	return out
}

// stored is one policy as the API server returned it after a step.
type stored struct {
	Step   string                     `json:"step"`
	Policy networkingv1.NetworkPolicy `json:"policy"`
}

// storedCluster is the same of one ClusterNetworkPolicy: the whole of what was returned, for its API is younger than the types that this
// package knows it by.
type storedCluster struct {
	Step   string         `json:"step"`
	Policy map[string]any `json:"policy"`
}

// step is what was measured of one step.
type step struct {
	Step     string        `json:"step"`
	Enforced time.Duration `json:"enforced"`
	// Decided is the median time to the sighting that decided an attempt; zero when none did.
	Decided time.Duration `json:"decided,omitzero"`
	// Confirm is how long after the acceptance of the changes a promised deny may still open and close again.
	Confirm time.Duration `json:"confirm"`
	// Rounds are when each began, from the acceptance of the step's changes.
	Rounds []time.Duration `json:"rounds"`
}

// observed is one attempt in one round of one step; rounds are counted from 1.
type observed struct {
	Step        string             `json:"step"`
	Round       int                `json:"round"`
	Observation probes.Observation `json:"observation"`
}

// load is what keeping a scenario loses nothing of that planning needs.
func load(s *scenarios.Scenario) loaded {
	l := loaded{
		File: s.File, Scenario: s, Policies: write(s.Policies.Loaded), Cluster: s.Policies.LoadedCluster,
		Omissions: s.Omissions, Ignored: s.Ignored,
	}
	for _, st := range s.Steps {
		l.Replacing = append(l.Replacing, write(st.Replacing))
		l.ReplacingCluster = append(l.ReplacingCluster, st.ReplacingCluster)
	}
	return l
}

// unload gives a scenario that was read its origins back.
func (l loaded) unload() (*scenarios.Scenario, error) {
	if l.Scenario == nil {
		return nil, fmt.Errorf("scenario: is missing")
	}
	if n := len(l.Scenario.Steps); len(l.Replacing) != n || len(l.ReplacingCluster) != n {
		return nil, fmt.Errorf("replacing, replacingCluster: %d and %d entries for %d steps", len(l.Replacing), len(l.ReplacingCluster), n)
	}
	s := *l.Scenario
	s.File, s.Policies.Loaded, s.Policies.LoadedCluster = l.File, unwrite(l.Policies), l.Cluster
	s.Omissions, s.Ignored = l.Omissions, l.Ignored
	for i := range s.Steps {
		s.Steps[i].Replacing, s.Steps[i].ReplacingCluster = unwrite(l.Replacing[i]), l.ReplacingCluster[i]
	}
	return &s, nil
}

// writeDocument writes v as one indented JSON object.
func writeDocument(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // attempt IDs hold ">", and nobody serves this as HTML
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// writeLine writes v as one line of JSON.
func writeLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
