package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/reach"
)

// Difference is one attempt about which the two disagree.
type Difference struct {
	// Step is the step's place among all steps, from 1.
	Step         int
	ID           string
	Ours, Theirs Answer
	// Known is the difference that explains it; nil when none does.
	Known *Known
}

// Known is a difference that has a name and a reason.
type Known struct {
	Name string
	// Why says who does what, so that a reader can decide who is right.
	Why string
	// explains tells whether a difference is of this kind.
	explains func(d Difference, from situation) bool
}

// situation is what explanations look at beside the answers.
type situation struct {
	step        CaseStep
	destination Destination // cyclonus'
	source, to  string      // "namespace/pod"
}

// throughService tells whether cyclonus' attempts go to Services.
func (s situation) throughService() bool { return s.destination != ToPodIP }

// knownDifferences are tried in order; the first that fits names the difference.
func knownDifferences() []Known {
	theyAloneDeny := func(d Difference) bool { return d.Ours.Verdict == reach.Allow && d.Theirs.Verdict == reach.Deny }
	return []Known{
		{
			Name: "service-without-endpoints",
			Why: "the step relabels the pod, the selector of cyclonus' Service does not follow, so that the Service has no endpoints: cyclonus is refused before " +
				"any policy is asked, and reads that as a deny. gapproof attempts the pod's own address",
			explains: func(d Difference, s situation) bool {
				return theyAloneDeny(d) && s.throughService() && slices.Contains(s.step.Unserved, s.to)
			},
		},
		{
			Name: "self-through-service",
			Why: "a pod's traffic to itself: cyclonus resolves the name of the pod's own Service and goes through its ClusterIP, so that the packets leave the pod and " +
				"policies apply to them. gapproof attempts the pod's own address, which no policy can cut (NetworkPolicy API: a pod cannot block access to itself)",
			explains: func(d Difference, s situation) bool {
				return theyAloneDeny(d) && s.throughService() && s.source == s.to
			},
		},
		{
			Name: "fault-read-as-deny",
			Why: "cyclonus' own engine promises allow as gapproof's does, and gapproof's listener answered: cyclonus' attempt (exec, name lookup and connection) " +
				"did not succeed in its time, and cyclonus counts every error of it as denied",
			explains: func(d Difference, _ situation) bool {
				return theyAloneDeny(d) && d.Ours.Promised == reach.Allow && d.Theirs.Promised == reach.Allow
			},
		},
	}
}

// Comparison is what comparing found.
type Comparison struct {
	// Compared is the number of attempts that both made.
	Compared    int
	Differences []Difference
	// PerStep counts the differences of each step.
	PerStep []int
}

// unexplained are the differences without a known reason.
func (c *Comparison) unexplained() []Difference {
	var out []Difference
	for _, d := range c.Differences {
		if d.Known == nil {
			out = append(out, d)
		}
	}
	return out
}

// compareResults holds every answer of cyclonus against ours. Both must have every step of every case, and cyclonus exactly the attempts
// that the step's probe stands for: a missing answer is an error, never an agreement.
func compareResults(all []Case, ours, theirs *Result) (*Comparison, error) {
	c := &Comparison{}
	known := knownDifferences()
	for _, tc := range all {
		for n, step := range tc.Steps {
			at := len(c.PerStep)
			if at >= len(ours.Steps) || at >= len(theirs.Steps) {
				return nil, fmt.Errorf("comparing step %d: ours has %d steps, cyclonus %d", at+1, len(ours.Steps), len(theirs.Steps))
			}
			our, their := ours.Steps[at], theirs.Steps[at]
			for _, s := range []Step{our, their} {
				if s.Case != tc.Title || s.Number != n+1 {
					return nil, fmt.Errorf("comparing step %d: it is step %d of %q, want step %d of %q", at+1, s.Number, s.Case, n+1, tc.Title)
				}
			}
			if want := attemptsOf(step); len(their.Answers) != want {
				return nil, fmt.Errorf("comparing step %d: cyclonus has %d answers, want %d", at+1, len(their.Answers), want)
			}
			found := 0
			for _, id := range slices.Sorted(maps.Keys(their.Answers)) {
				d := Difference{Step: at + 1, ID: id, Theirs: their.Answers[id]}
				var have bool
				if d.Ours, have = our.Answers[id]; !have {
					return nil, fmt.Errorf("comparing step %d: we have no answer for %s", at+1, id)
				}
				c.Compared++
				if d.Ours.Verdict == d.Theirs.Verdict && d.Ours.Verdict != reach.Unknown {
					continue
				}
				found++
				d.Known = explain(d, known, situation{step: step, destination: theirs.DestinationType})
				c.Differences = append(c.Differences, d)
			}
			c.PerStep = append(c.PerStep, found)
		}
	}
	if len(ours.Steps) != len(c.PerStep) || len(theirs.Steps) != len(c.PerStep) {
		return nil, fmt.Errorf("comparing: %d steps, ours has %d, cyclonus %d", len(c.PerStep), len(ours.Steps), len(theirs.Steps))
	}
	return c, nil
}

func explain(d Difference, known []Known, s situation) *Known {
	s.source, s.to, _ = ends(d.ID)
	for i := range known {
		if known[i].explains(d, s) {
			return &known[i]
		}
	}
	return nil
}

// ends are the parts of an attempt's name, such as "x/a", "x/b" and "TCP/80".
func ends(id string) (source, destination, port string) {
	source, rest, _ := strings.Cut(id, ">")
	destination, port, _ = strings.Cut(rest, ":")
	return source, destination, port
}

// attemptsOf is how many attempts cyclonus makes in a step.
func attemptsOf(s CaseStep) int {
	pods := len(worldNamespaces()) * len(worldPods())
	return pods * pods * len(s.Ports)
}

// line is differences of one step that agree in all but the port.
type line struct {
	Difference
	ports []string
}

// lines gathers differences for printing: by known difference (those without one first), step and pair of pods.
func lines(differences []Difference) []line {
	var out []line
	for _, d := range differences {
		source, destination, port := ends(d.ID)
		pair := source + ">" + destination
		i := slices.IndexFunc(out, func(l line) bool {
			return l.ID == pair && l.Step == d.Step && l.Known == d.Known && l.Ours.Verdict == d.Ours.Verdict && l.Theirs.Verdict == d.Theirs.Verdict
		})
		if i < 0 {
			d.ID = pair
			out, i = append(out, line{Difference: d}), len(out)
		}
		out[i].ports = append(out[i].ports, port)
	}
	rank := func(l line) int {
		return slices.IndexFunc(knownDifferences(), func(k Known) bool { return l.Known != nil && k.Name == l.Known.Name })
	}
	slices.SortStableFunc(out, func(a, b line) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Step, b.Step)) })
	return out
}
