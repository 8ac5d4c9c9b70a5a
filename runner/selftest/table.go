package selftest

import (
	"context"
	"slices"
	"time"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Effect is what a fault must do to the result of one attempt. The zero value is unknown.
type Effect uint8

// The effects.
const (
	EffectUnknown Effect = iota
	// Unharmed: the fault does not touch the attempt, which must pass.
	Unharmed
	// Untold: nothing can be told any more; anything but inconclusive, with one of the fault's reasons, is false.
	Untold
	// Doubtful: by chance it can or cannot be told; a pass is right and so is inconclusive with one of the fault's reasons.
	Doubtful
)

// Reaches is how far a fault goes. The zero value is the run's own world.
type Reaches uint8

// The reaches.
const (
	// OwnWorld: other runs on the cluster do not notice.
	OwnWorld Reaches = iota
	// WholeCluster: it is injected while no other run is under way.
	WholeCluster
)

// Witness is what the run of a fault does about the kernel's witness. The zero value is a run without.
type Witness uint8

// The ways.
const (
	WitnessOff Witness = iota
	// WitnessAuto: denies are believed without one that was lost.
	WitnessAuto
	// WitnessRequire: they are not.
	WitnessRequire
)

// Fault is one row of the table.
type Fault struct {
	// Name is short and unique; Title says what is done, in a phrase.
	Name, Title string
	Moment      Moment
	Reaches     Reaches
	Witness     Witness
	// Needs is the CNI that the row speaks of; empty for any.
	Needs string
	// Short rows are in the short form.
	Short bool
	// Effect is what it must do to an attempt with this promise.
	Effect func(a plan.Planned, promised reach.Verdict) Effect
	// Reasons are words of which an inconclusive result must have one.
	Reasons []string
	// Lost: the run must report that it lost a witness; otherwise one that has witnesses must have kept them.
	Lost bool
	// Ends are words of the error with which the whole run must end, without any result; empty when it must go on.
	Ends string

	// inject begins the fault, returns when it has taken effect, and gives the function that ends it. Nil with WithTheWorld.
	inject func(context.Context, *scene) (func(context.Context) error, error)
	// world changes the world that is made, not the one that is planned.
	world func(scenarios.World) scenarios.World
	// watchable faults are in the table a second time, in a run with witnesses.
	watchable bool
}

// The pods of faults.yaml on which faults act.
const (
	sourcePod = "near/source"
	openPod   = "far/open"
	shutPod   = "far/shut"
)

const (
	// held is a delay that no health check of a run outlasts, and its attempts do.
	held = 4 * time.Second
	// late is a delay that a run must bear without a word.
	late = 200 * time.Millisecond
	// steppedBy is far more than any time that a run measures.
	steppedBy = -time.Hour
)

// agentGone are the words for an agent that does not answer, or not to the end. On a TCP connection that the kernel of a stopped one
// accepted, data crosses.
func agentGone() []string {
	return []string{
		"not alive before", "not alive after", "restarted during", "agent did not finish", "no outcome came back", "arrivals not told",
	}
}

// Table is every fault that is injected, with what must come of it.
func Table() []Fault {
	all := unwitnessed()
	for _, f := range unwitnessed() {
		if f.watchable {
			all = append(all, underWitness(f))
		}
	}
	return append(all, ofWitness()...)
}

// underWitness is the same fault in a run with witnesses. What reached a pod is seen by them, whatever its agent says.
func underWitness(f Fault) Fault {
	f.Name += "-watched"
	f.Title += "; with witnesses"
	f.Witness, f.Short, f.watchable = WitnessAuto, false, false
	f.Reasons = append(slices.Clone(f.Reasons), "the fixture is at fault", "data crossed")
	return f
}

// ofWitness are the faults of a witness.
func ofWitness() []Fault {
	var all []Fault
	for _, one := range []struct {
		name, title string
		short       bool
		inject      injection
	}{
		{"witness-killed", "the witness of the node of two destinations is killed", true, signallingWitness(openPod, "KILL", "")},
		{"witness-stopped", "the witness of the node of two destinations is stopped (SIGSTOP)", false, signallingWitness(openPod, "STOP", "CONT")},
		{"witness-deleted", "the witness of the node of two destinations is deleted", false, deletingWitness(openPod)},
	} {
		all = append(all, Fault{
			Name: one.name, Title: one.title, Moment: BeforeTheRound, Short: one.short, Witness: WitnessAuto, Lost: true,
			Effect: everything(Unharmed), inject: one.inject,
		}, Fault{
			Name: one.name + "-required", Title: one.title + ", in a run that requires it", Moment: BeforeTheRound, Short: one.short,
			Witness: WitnessRequire, Lost: true, Reasons: []string{"requires a witness"}, inject: one.inject,
			Effect: func(a plan.Planned, promised reach.Verdict) Effect {
				if promised == reach.Deny && touches(a, openPod, shutPod) {
					return Untold
				}
				return Unharmed
			},
		})
	}
	return all
}

// unwitnessed are the faults of a run without witnesses.
func unwitnessed() []Fault {
	farPods := []string{openPod, shutPod}
	return []Fault{
		{
			Name: "agent-killed", Title: "the agents of two destinations are killed whenever they come up", Moment: BeforeTheRound, Short: true,
			Effect: func(a plan.Planned, promised reach.Verdict) Effect {
				switch {
				case !touches(a, farPods...):
					return Unharmed
				case promised == reach.Allow: // one that came up may answer before it is killed
					return Doubtful
				}
				return Untold
			},
			Reasons: append(agentGone(), "still changed"), watchable: true,
			inject: keepKilling(farPods...),
		},
		{
			Name: "agent-stopped", Title: "the agents of two destinations are stopped (SIGSTOP)", Moment: BeforeTheRound, Short: true,
			Effect: touching(farPods...), Reasons: agentGone(), watchable: true,
			inject: stopping(farPods...),
		},
		{
			Name: "source-stopped", Title: "the agent of a source is stopped (SIGSTOP)", Moment: BeforeTheRound,
			Effect: touching(sourcePod), Reasons: agentGone(), watchable: true,
			inject: stopping(sourcePod),
		},
		{
			Name: "pod-deleted", Title: "two destinations are deleted in the middle of the run", Moment: BeforeTheRound, Short: true,
			Effect: touching(farPods...), Reasons: agentGone(), watchable: true,
			inject: deleting(farPods...),
		},
		{
			Name: "listener-dead", Title: "the TCP listeners of two destinations die, their agents live", Moment: BeforeTheRound, Short: true,
			Effect: func(a plan.Planned, promised reach.Verdict) Effect {
				switch {
				case a.Port == 80 && toAny(a, farPods...):
					return Untold
				case promised == reach.Deny && touches(a, farPods...): // no silence counts at an end that fails its own check
					return Untold
				}
				return Unharmed
			},
			Reasons: []string{"failed its self-check"}, watchable: true,
			inject: deaf(farPods...),
		},
		{
			Name: "wrong-port", Title: "two destinations listen on another port than the plan says", Moment: WithTheWorld,
			Effect: func(a plan.Planned, _ reach.Verdict) Effect {
				if a.Port == 80 && toAny(a, farPods...) {
					return Untold
				}
				return Unharmed
			},
			Reasons: []string{"the baseline did not prove the path"}, watchable: true,
			world: elsewhere(farPods...),
		},
		{
			Name: "clock-stepped", Title: "the wall clocks of a source and two destinations jump back an hour", Moment: BeforeTheRound,
			Effect: everything(Unharmed), inject: clockStepped(sourcePod, openPod, shutPod),
		},
		{
			Name: "api-5xx", Title: "the API server answers 503 before the policies are applied", Moment: BeforeTheStep, Short: true,
			Effect: everything(Untold), Ends: "unable to handle the request", inject: refusing,
		},
		{
			Name: "api-5xx-in-the-round", Title: "the API server cuts every port-forward and answers 503", Moment: BeforeTheRound, Short: true,
			Effect: everything(Untold), Reasons: agentGone(), inject: cutting,
		},
		{
			Name: "api-late", Title: "the API server is " + late.String() + " late with everything", Moment: BeforeTheRound,
			Effect: everything(Unharmed), inject: delayedBy(late),
		},
		{
			Name: "api-slow", Title: "the API server is " + held.String() + " late with everything", Moment: BeforeTheRound,
			Effect: func(_ plan.Planned, promised reach.Verdict) Effect {
				if promised == reach.Allow { // what was delivered was delivered, however late that is told
					return Doubtful
				}
				return Untold
			},
			Reasons: append(agentGone(), "still changed"), inject: delayedBy(held),
		},
		{
			Name: "dns-down", Title: "every process of the cluster's resolver is stopped", Moment: BeforeTheRound, Reaches: WholeCluster, Short: true,
			Effect: func(a plan.Planned, _ reach.Verdict) Effect {
				if a.Kind == plan.Lookup {
					return Untold
				}
				return Unharmed
			},
			Reasons: []string{"the resolver answered 0 of"},
			inject:  stoppingEverywhere("coredns"),
		},
		{
			Name: "node-paused", Title: "the node of two destinations is paused", Moment: BeforeTheRound, Reaches: WholeCluster, Short: true,
			Effect: func(a plan.Planned, _ reach.Verdict) Effect {
				switch {
				case touches(a, farPods...):
					return Untold
				case a.Kind == plan.Lookup: // some, all or none of the resolver's pods are on that node
					return Doubtful
				}
				return Unharmed
			},
			Reasons: append(agentGone(), "the resolver"),
			inject:  pausing(openPod),
		},
		{
			Name: "cni-stopped", Title: "the CNI's agent on one node is stopped before the policies are applied", Moment: BeforeTheStep, Reaches: WholeCluster, Needs: "calico",
			Effect: everything(Untold), Ends: "not enforced on every node", inject: signalling(openPod, "calico-node", "STOP", "CONT"),
		},
		{
			Name: "cni-crashed", Title: "the CNI's agent on one node is killed when the policies are enforced", Moment: BeforeTheRound, Reaches: WholeCluster, Needs: "calico",
			Effect: everything(Unharmed), inject: signalling(openPod, "calico-node", "KILL", ""),
		},
	}
}

// everything is one effect on every attempt.
func everything(e Effect) func(plan.Planned, reach.Verdict) Effect {
	return func(plan.Planned, reach.Verdict) Effect { return e }
}

// touching leaves nothing to tell about attempts from or to the pods.
func touching(pods ...string) func(plan.Planned, reach.Verdict) Effect {
	return func(a plan.Planned, _ reach.Verdict) Effect {
		if touches(a, pods...) {
			return Untold
		}
		return Unharmed
	}
}

// touches tells whether a pod is an end of the attempt.
func touches(a plan.Planned, pods ...string) bool {
	return slices.Contains(pods, a.Source) || toAny(a, pods...)
}

// toAny tells whether a pod may answer the attempt.
func toAny(a plan.Planned, pods ...string) bool {
	return slices.ContainsFunc(a.Responders, func(r string) bool { return slices.Contains(pods, r) })
}
