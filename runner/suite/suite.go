package suite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/scenarios"
)

// Agent is the agent of one pod or outside host. An error of any method means that this answer is missing, never that traffic was denied.
type Agent interface {
	// Run makes the attempts, no more than atOnce of them at once (zero: as many as the agent allows), and calls each, from one goroutine at a
	// time, for every outcome that came back before an error.
	Run(ctx context.Context, attempts []probes.Attempt, atOnce int, each func(probes.Outcome)) error
	// Cut ends the attempts of these tokens that Run is making. Each gets an outcome of kind OutcomeUnknown, unless it has one.
	Cut(ctx context.Context, tokens []probes.Token) error
	// Arrivals returns what the pod's listeners recorded for these tokens; a token without an arrival has no entry.
	Arrivals(ctx context.Context, tokens []probes.Token) ([]probes.Arrival, error)
	// Health checks every listener of the pod.
	Health(ctx context.Context) (probes.Health, error)
}

// World is a world made real.
type World interface {
	Facts() plan.Facts
	// Agent returns the agent of "namespace/pod" or of "outside:NAME" as in the scenario; nil when the world has no such pod or host.
	Agent(name string) Agent
	// Relabel changes labels; Restore puts labels and pods back to what the scenario's world says.
	Relabel(ctx context.Context, r plan.Relabel) error
	Restore(ctx context.Context) error
	// Remake deletes pods and makes them again; Facts has their addresses, and Agent their agents, when it returns.
	Remake(ctx context.Context, changes []plan.Remake) error
	// Close removes the world and returns when it is gone.
	Close(ctx context.Context) error
}

// Worlds makes worlds. Up removes what it made when it fails. Nodes are the names of nodes that take probe pods, sorted.
type Worlds interface {
	Up(ctx context.Context, w scenarios.World, role Role) (World, error)
	Nodes(ctx context.Context) ([]string, error)
}

// Policies changes NetworkPolicies. A nil error means accepted by the API server, not enforced.
type Policies interface {
	Apply(ctx context.Context, p networkingv1.NetworkPolicy) error
	Delete(ctx context.Context, name string) error
	Clear(ctx context.Context, namespaces []string) error
}

// ClusterPolicies changes ClusterNetworkPolicies, which are the whole cluster's; nil errors mean what those of [Policies] do. Clear deletes all
// that the run made.
type ClusterPolicies interface {
	// Missing says in words what the cluster lacks for the other methods to work; empty when nothing. It is asked once in a run.
	Missing(ctx context.Context) (string, error)
	Apply(ctx context.Context, p npav1alpha2.ClusterNetworkPolicy) error
	Delete(ctx context.Context, name string) error
	Clear(ctx context.Context) error
}

// Recorder keeps the evidence of a run as it comes: Planned once per scenario, then for each of its steps Accepted and, when it has
// settled, Observed. An error ends the run: a run whose evidence is not kept has proven nothing to anybody later.
type Recorder interface {
	// Planned is told the plan, the facts it was made with, and the observations of the baseline, one per attempt.
	Planned(p *plan.Plan, f plan.Facts, baseline []probes.Observation) error
	// Accepted is called when the API server has taken the changes of the step of this index, and before anything waits for them to be
	// enforced, with the plan and the facts as they are since: a step may make pods again.
	Accepted(ctx context.Context, p *plan.Plan, step int, f plan.Facts) error
	// Observed is told what a step ended with and every round of it. What the step took is not known yet.
	Observed(step report.Step, rounds []compare.Round) error
}

// noRecord keeps nothing.
type noRecord struct{}

func (noRecord) Planned(*plan.Plan, plan.Facts, []probes.Observation) error  { return nil }
func (noRecord) Accepted(context.Context, *plan.Plan, int, plan.Facts) error { return nil }
func (noRecord) Observed(report.Step, []compare.Round) error                 { return nil }

// Witnesses are the run's witnesses in the kernels of its nodes.
type Witnesses interface {
	// Up brings them up and returns them by node. A node that is missing is unwitnessed, and the words say why, for the report. An error
	// ends the run.
	Up(ctx context.Context) (byNode map[string]Witness, missing string, err error)
	// Close removes them and returns when they are gone; also after an Up that failed or was not called.
	Close(ctx context.Context) error
}

// Witness is the witness of one node. An error of any method means that its word is missing, never that nothing was there to be seen.
type Witness interface {
	// Adopt names the pods of its node, by identity with the inode number of their network namespace, in place of those before. It returns
	// how much the witness can watch.
	Adopt(ctx context.Context, pods map[string]uint64) (probes.Level, error)
	// Watch has the flows watched until they are forgotten.
	Watch(ctx context.Context, flows []probes.Flow) error
	// Sightings are what was seen of watched attempts so far.
	Sightings(ctx context.Context, ids []string) ([]probes.Sighting, error)
	Forget(ctx context.Context, ids []string) error
	// Follow calls each, one at a time, with the ID of every watched attempt of which a request was dropped, as it is dropped, beginning with
	// those dropped before; some of them more than once. It returns when ctx ends, or with the reason why it cannot go on.
	Follow(ctx context.Context, each func(id string)) error
}

// Role tells what a world is for.
type Role string

// The roles.
const (
	Fixture Role = "fixture"
	Beacon  Role = "beacon"
)

// Defaults and limits of a run.
const (
	// DefaultDeadline of one attempt. A SYN is sent once more after one second (RFC 6298), so up to here an attempt is one packet.
	DefaultDeadline = time.Second
	// DefaultEnforce bounds the wait for the beacons: two orders above the slowest published median. A node that has not enforced
	// by then is a fault of the cluster.
	DefaultEnforce = 30 * time.Second
	// DefaultSettle bounds how long a step's rounds may go on disagreeing.
	DefaultSettle = 30 * time.Second
	// DefaultRelabelled is that of a CNI whose endpoints learn of labels as fast as of policies.
	DefaultRelabelled = 3 * time.Second
	// DefaultBaseline bounds the wait for every path of a fresh world; CNIs program new endpoints within seconds.
	DefaultBaseline = 30 * time.Second
	// cleanLimit bounds clean-up after the run's context ended.
	cleanLimit = 4 * time.Minute
)

// Options of a run. Zero means the default.
type Options struct {
	// Run is the run's identifier, a DNS label of at most 20 characters. Required.
	Run string
	// Deadline of one attempt; Enforce, Settle and Baseline limits as above, the first two counted from when Relabelled has passed where labels
	// changed.
	Deadline time.Duration
	Enforce  time.Duration
	Settle   time.Duration
	Baseline time.Duration
	// Relabelled is how long the CNI may take until changed labels count at every endpoint, each of which may be late by itself.
	Relabelled time.Duration
	// Attempt repeats just this attempt ID of every scenario; empty for all.
	Attempt string
	// Replay returns the command that repeats one attempt of a scenario file. Required.
	Replay func(file, attempt string) string
	// Cluster changes ClusterNetworkPolicies. Default: none, so that scenarios which have any are skipped.
	Cluster ClusterPolicies
	// NoOutside says why worlds cannot have hosts outside the cluster; scenarios with any are skipped with it. Empty: they can.
	NoOutside string
	// Record keeps the evidence. Default: nobody does.
	Record Recorder
	// Witnesses of the run's nodes. Default: none, the run is unwitnessed.
	Witnesses Witnesses
	// Unwitnessed says why there are no Witnesses, for the report.
	Unwitnessed string
	// Least is the level of evidence that a deny must have wherever a witness can see the attempt; with less it is inconclusive, however
	// the level came to be lower. Default: unwitnessed, any will do.
	Least probes.Level
	// Log defaults to discarding.
	Log *slog.Logger
	// Progress is told of every finished part of the run, from one goroutine at a time. Default: nobody.
	Progress func(what string, took time.Duration)
}

// Suite conducts one run.
type Suite struct {
	worlds   Worlds
	policies Policies
	o        Options
	watch    *watch
	ports    *ports
	// owed are labels that were put back since the beacons last flipped.
	owed    toggles
	telling sync.Mutex
}

// progress tells the caller; parts of a run end in several goroutines.
func (s *Suite) progress(what string, took time.Duration) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.o.Progress(what, took)
}

// New returns a suite that works through these seams.
func New(w Worlds, p Policies, o Options) *Suite {
	if o.Deadline == 0 {
		o.Deadline = DefaultDeadline
	}
	if o.Enforce == 0 {
		o.Enforce = DefaultEnforce
	}
	if o.Settle == 0 {
		o.Settle = DefaultSettle
	}
	if o.Baseline == 0 {
		o.Baseline = DefaultBaseline
	}
	if o.Relabelled == 0 {
		o.Relabelled = DefaultRelabelled
	}
	if o.Record == nil {
		o.Record = noRecord{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(string, time.Duration) {}
	}
	return &Suite{worlds: w, policies: p, o: o, watch: &watch{missing: o.Unwitnessed}, ports: newPorts()}
}

// Run carries out the scenarios in order and returns what it found. The report is complete as far as the run came, also when
// the error is not nil; then the error is of the infrastructure. When it returns, every world that was made has been removed.
func (s *Suite) Run(ctx context.Context, all []*scenarios.Scenario) (_ *report.Report, err error) {
	rep := &report.Report{Run: s.o.Run, Started: time.Now()}
	defer func() {
		rep.Level, rep.LevelReason = s.watch.level()
		rep.Took = time.Since(rep.Started)
	}()

	all, rep.Scenarios, err = s.sift(ctx, all)
	if err != nil || len(all) == 0 {
		return rep, err
	}
	var removals removals
	defer func() { err = errors.Join(err, removals.wait(nil)) }()

	// The witnesses, the beacons and the first world start side by side: all wait for pods most of the time.
	witnessed := s.startWitnesses(ctx)
	defer func() {
		_ = witnessed() // its error has ended the run already, or the run ended before it mattered
		if s.o.Witnesses != nil {
			removals.start(nil, func() error { return s.closeWitnesses(ctx) })
		}
	}()
	beacons := s.startBeacons(ctx, slices.ContainsFunc(all, func(sc *scenarios.Scenario) bool { return len(sc.World.Reach.Families) > 0 }))
	defer func() {
		if b, _ := beacons(); b != nil {
			removals.start(nil, func() error { return s.close(ctx, "beacons", b.world) })
		}
	}()
	for _, group := range plan.GroupByWorld(all) {
		if err := s.runGroup(ctx, rep, witnessed, beacons, &removals, group); err != nil {
			return rep, err
		}
	}
	return rep, nil
}

// startBeacons lights the beacons beside whatever the caller does next; the function it returns waits for them. They show enforcement over
// every family that the cluster has where some scenario attempts more than the first.
func (s *Suite) startBeacons(ctx context.Context, everyFamily bool) func() (*beacons, error) {
	done := make(chan struct{})
	var b *beacons
	var err error
	go func() {
		defer close(done)
		b, err = s.lightBeacons(ctx, everyFamily)
	}()
	return func() (*beacons, error) {
		<-done
		return b, err
	}
}

// runGroup carries out scenarios that share one world.
func (s *Suite) runGroup(ctx context.Context, rep *report.Report, witnessed func() error, beacons func() (*beacons, error), gone *removals, group []*scenarios.Scenario) error {
	var names []string
	for _, ns := range group[0].World.Namespaces {
		names = append(names, ns.Name)
	}
	if err := gone.wait(names); err != nil {
		return err
	}
	started := time.Now()
	world, err := s.worlds.Up(ctx, group[0].World, Fixture)
	if err != nil {
		return fmt.Errorf("bringing up the world of %s: %w", group[0].Metadata.Name, err)
	}
	s.owed = toggles{} // what was put back is gone with its world
	defer gone.start(names, func() error { return s.close(ctx, "world of "+group[0].Metadata.Name, world) })
	s.progress(fmt.Sprintf("world of %s up: %d pods", group[0].Metadata.Name, len(world.Facts().Pods)), time.Since(started))

	plans := make([]*plan.Plan, len(group))
	for i, sc := range group {
		if plans[i], err = plan.Build(sc, world.Facts()); err != nil {
			return fmt.Errorf("planning %s: %w", sc.Metadata.Name, err)
		}
		if s.o.Attempt != "" {
			if plans[i], err = plans[i].Only(s.o.Attempt); err != nil {
				return err
			}
		}
	}
	if err := witnessed(); err != nil {
		return err
	}
	s.adopt(ctx, world)
	// Attempts follow from the world alone, so one baseline serves every scenario of the group until one makes pods again.
	base, err := s.baseline(ctx, world, plans[0].Attempts)
	if err != nil {
		return err
	}
	b, err := beacons()
	if err != nil {
		return err
	}
	for i, p := range plans {
		if base == nil {
			if base, err = s.baseline(ctx, world, p.Attempts); err != nil {
				return err
			}
		}
		sc, err := s.runScenario(ctx, world, b, p, base)
		sc.Name, sc.Title, sc.File = group[i].Metadata.Name, group[i].Metadata.Title, group[i].File
		sc.Omissions, sc.Ignored = omissions(group[i]), group[i].Ignored
		rep.Scenarios = append(rep.Scenarios, sc)
		if err != nil {
			return fmt.Errorf("running %s: %w", sc.Name, err)
		}
		s.progress(sc.Name, sc.Took)
		if remakes(p) {
			base = nil // of addresses that are gone
			for k := i + 1; k < len(plans); k++ {
				if plans[k], err = replan(plans[k], world.Facts()); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// omissions are what the scenario's manifests say and its world has not.
func omissions(s *scenarios.Scenario) []report.Omission {
	var out []report.Omission
	for _, o := range s.Omissions {
		out = append(out, report.Omission(o))
	}
	return out
}

// runScenario carries out the steps of one plan and takes its policies and labels back.
func (s *Suite) runScenario(ctx context.Context, world World, b *beacons, p *plan.Plan, base []probes.Observation) (sc report.Scenario, err error) {
	started := time.Now()
	defer func() { sc.Took = time.Since(started) }()
	defer func() {
		// The next scenario's beacons prove that this was enforced: it is accepted before their toggle, and owed by it.
		s.owed = s.owed.or(relabels(p))
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		if e := errors.Join(s.policies.Clear(clean, namespaces(p, world.Facts().Prefix)), s.clearCluster(clean, p), world.Restore(clean)); e != nil {
			err = errors.Join(err, fmt.Errorf("taking back the policies and labels: %w", e))
		}
	}()
	if err := s.o.Record.Planned(p, world.Facts(), base); err != nil {
		sc.Fault = "recording evidence: " + err.Error()
		return sc, fmt.Errorf("recording evidence: %w", err)
	}
	g := compare.NewGround(base)
	for i := range p.Steps {
		var step report.Step
		step, p, err = s.runStep(ctx, world, b, p, i, g)
		if err != nil {
			sc.Fault = fmt.Sprintf("step %q: %v", p.Steps[i].Name, err)
			return sc, fmt.Errorf("step %q: %w", p.Steps[i].Name, err)
		}
		sc.Steps = append(sc.Steps, step)
	}
	return sc, nil
}

// runStep applies one step, waits until it is enforced everywhere, observes and judges. It returns the plan as it is since, renewed where
// the step made pods again.
func (s *Suite) runStep(ctx context.Context, world World, b *beacons, p *plan.Plan, index int, g *compare.Ground) (report.Step, *plan.Plan, error) {
	started := time.Now()
	step := p.Steps[index]
	out := report.Step{Name: step.Name}
	if err := s.change(ctx, world, step.Changes); err != nil {
		return out, p, err
	}
	how := s.owed.or(relabelling(step))
	var err error
	if made := remade(step); len(made) > 0 {
		if p, err = s.remake(ctx, world, p, index, made, g); err != nil {
			return out, p, err
		}
		step = p.Steps[index]
	}
	accepted := time.Now()
	if err := s.o.Record.Accepted(ctx, p, index, world.Facts()); err != nil {
		return out, p, fmt.Errorf("recording evidence: %w", err)
	}
	if out.Enforced, err = b.flip(ctx, s.policies, how); err != nil {
		return out, p, err
	}
	s.owed = toggles{}
	attempts := compare.Backends(p.Attempts, step.Promises)
	wait := s.patience(how)
	out.Confirm = wait.confirm
	settled, err := s.settle(ctx, world, b, attempts, step.Promises, g.Base, accepted, wait)
	if err != nil {
		return out, p, err
	}
	g.Hold(attempts, step.Promises, settled.rounds)
	out.Rounds, out.Decided = len(settled.rounds), settled.decided
	out.Judgements, out.Gaps = compare.JudgeRounds(p.Attempts, step.Promises, settled.rounds, out.Confirm)
	for i := range out.Judgements {
		if j := &out.Judgements[i]; j.Result != compare.Pass {
			j.Replay = s.o.Replay(p.Scenario.File, j.Attempt.ID)
		}
	}
	if err := s.o.Record.Observed(out, settled.rounds); err != nil {
		return out, p, fmt.Errorf("recording evidence: %w", err)
	}
	out.Took = time.Since(started)
	s.o.Log.Info("step observed", "scenario", p.Name, "step", step.Name, "enforced", out.Enforced.Round(time.Millisecond),
		"rounds", out.Rounds, "gaps", len(out.Gaps), "took", out.Took.Round(time.Millisecond))
	return out, p, nil
}

// change makes a step's changes in order, but for those of pods.
func (s *Suite) change(ctx context.Context, world World, changes []plan.Change) error {
	for _, c := range changes {
		var err error
		switch {
		case c.Apply != nil:
			err = s.policies.Apply(ctx, c.Apply.Spec)
		case c.Delete != "":
			err = s.policies.Delete(ctx, c.Delete)
		case c.ApplyCluster != nil:
			err = s.o.Cluster.Apply(ctx, c.ApplyCluster.Spec)
		case c.DeleteCluster != "":
			err = s.o.Cluster.Delete(ctx, c.DeleteCluster)
		case c.Relabel != nil:
			err = world.Relabel(ctx, *c.Relabel)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// close removes a world even when ctx has ended: nothing is left behind by Ctrl-C.
func (s *Suite) close(ctx context.Context, what string, w World) error {
	started := time.Now()
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	if err := w.Close(clean); err != nil {
		return fmt.Errorf("removing the %s: %w", what, err)
	}
	s.progress(what+" removed", time.Since(started))
	return nil
}

// namespaces are the names of the plan's namespaces in the cluster.
func namespaces(p *plan.Plan, prefix string) []string {
	var names []string
	for _, ns := range p.Scenario.World.Namespaces {
		names = append(names, prefix+ns.Name)
	}
	return names
}
