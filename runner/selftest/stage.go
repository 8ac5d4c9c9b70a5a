package selftest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// Moment is when a fault begins. The zero value is unknown.
type Moment uint8

// The moments.
const (
	MomentUnknown Moment = iota
	// WithTheWorld: the world is made with it, so the baseline meets it already.
	WithTheWorld
	// BeforeTheStep: every path is proven, no policy has been applied.
	BeforeTheStep
	// BeforeTheRound: the policies are enforced on every node, no attempt has been made under them.
	BeforeTheRound
)

// String is the moment in words.
func (m Moment) String() string {
	switch m {
	case WithTheWorld:
		return "with the world"
	case BeforeTheStep:
		return "before the step"
	case BeforeTheRound:
		return "before the round"
	default:
		return fmt.Sprintf("invalid(%d)", uint8(m))
	}
}

// injectLimit and releaseLimit bound the beginning and the end of a fault: a handful of commands in a node, or a pod's deletion. The run's
// context may no longer allow for the end.
const (
	injectLimit  = 30 * time.Second
	releaseLimit = 30 * time.Second
)

// stage decorates a run's seams so that a fault begins at its moment and ends before anything is cleaned up.
type stage struct {
	suite.Worlds
	suite.Policies
	fault Fault
	scene *scene

	once sync.Once // the injection, or the end of the run before it

	mu         sync.Mutex
	namespaces []string // the world's in the cluster, once it is up
	changed    bool     // a policy of the world has been applied
	begun      bool
	effective  bool // the injection is over, for good or ill
	release    func(context.Context) error
	fail       error // why the fault could not be injected or ended
}

// Up makes the world, with the fault where that is its moment.
func (s *stage) Up(ctx context.Context, w scenarios.World, role suite.Role) (suite.World, error) {
	if role != suite.Fixture {
		return s.Worlds.Up(ctx, w, role)
	}
	if s.fault.world != nil {
		w = s.fault.world(w)
	}
	world, err := s.Worlds.Up(ctx, w, role)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scene.facts = world.Facts()
	for _, ns := range w.Namespaces {
		s.namespaces = append(s.namespaces, s.scene.facts.Prefix+ns.Name)
	}
	return stagedWorld{world, s}, nil
}

// Apply begins a fault whose moment is before the step.
func (s *stage) Apply(ctx context.Context, p networkingv1.NetworkPolicy) error {
	s.mu.Lock()
	ours := slices.Contains(s.namespaces, p.Namespace)
	s.changed = s.changed || ours
	s.mu.Unlock()
	if ours && s.fault.Moment == BeforeTheStep {
		if err := s.begin(ctx); err != nil {
			return err
		}
	}
	return s.Policies.Apply(ctx, p)
}

// Clear ends the fault first: it is the beginning of every clean-up.
func (s *stage) Clear(ctx context.Context, namespaces []string) error {
	s.end(ctx)
	return s.Policies.Clear(ctx, namespaces)
}

// begin injects the fault once; whoever comes meanwhile waits until it has taken effect.
func (s *stage) begin(ctx context.Context) error {
	s.once.Do(func() {
		var release func(context.Context) error
		var err error
		if s.fault.inject != nil {
			release, err = s.fault.inject(ctx, s.scene)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.begun, s.effective, s.release = true, true, release
		if err != nil {
			s.fail = fmt.Errorf("injecting the fault %s: %w", s.fault.Name, err)
		}
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fail
}

// end ends the fault once, also when ctx has ended. It waits for an injection under way, and none begins after it.
func (s *stage) end(ctx context.Context) {
	s.once.Do(func() {})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.release == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	if err := s.release(ctx); err != nil {
		s.fail = errors.Join(s.fail, fmt.Errorf("ending the fault %s: %w", s.fault.Name, err))
	}
	s.release = nil
}

// failed is why the fault was not what the table says; nil when it was.
func (s *stage) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil && !s.begun && s.fault.inject != nil { // also when the run ended before it
		return fmt.Errorf("injecting the fault %s: its moment never came", s.fault.Name)
	}
	return s.fail
}

// stagedWorld is a world whose agents begin a fault whose moment is before the round.
type stagedWorld struct {
	suite.World
	stage *stage
}

// Agent is the world's, nil for a pod it lacks.
func (w stagedWorld) Agent(name string) suite.Agent {
	agent := w.World.Agent(name)
	if agent == nil {
		return nil
	}
	return stagedAgent{agent, name, w.stage}
}

// Close ends the fault before the world is removed.
func (w stagedWorld) Close(ctx context.Context) error {
	w.stage.end(ctx)
	return w.World.Close(ctx)
}

type stagedAgent struct {
	suite.Agent
	name  string
	stage *stage
}

// due begins a fault whose moment has come, or waits for one that another call has begun, and returns the context for the call: what the
// injection took is held against no agent.
func (a stagedAgent) due(ctx context.Context) (context.Context, context.CancelFunc, error) {
	s := a.stage
	s.mu.Lock()
	now := s.changed && !s.effective && s.fault.Moment == BeforeTheRound
	s.mu.Unlock()
	if !now {
		return ctx, func() {}, nil
	}
	left := releaseLimit
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	whole, cancel := unhurried(ctx, injectLimit)
	err := s.begin(whole)
	cancel()
	fresh, cancel := unhurried(ctx, left)
	return fresh, cancel, err
}

// unhurried is ctx with another limit in place of its deadline. It is cancelled with ctx.
func unhurried(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	return fresh, func() { stop(); cancel() }
}

// step is by how much this agent's clock is off.
func (a stagedAgent) step() time.Duration {
	a.stage.mu.Lock()
	defer a.stage.mu.Unlock()
	if a.stage.scene.stepped == nil || a.stage.release == nil {
		return 0
	}
	return a.stage.scene.stepped[a.name]
}

// Run makes the attempts.
func (a stagedAgent) Run(ctx context.Context, attempts []probes.Attempt, atOnce int, each func(probes.Outcome)) error {
	ctx, cancel, err := a.due(ctx)
	defer cancel()
	if err != nil {
		return err
	}
	return a.Agent.Run(ctx, attempts, atOnce, func(o probes.Outcome) {
		o.Started = o.Started.Add(a.step())
		each(o)
	})
}

// Arrivals are the agent's.
func (a stagedAgent) Arrivals(ctx context.Context, tokens []probes.Token) ([]probes.Arrival, error) {
	ctx, cancel, err := a.due(ctx)
	defer cancel()
	if err != nil {
		return nil, err
	}
	all, err := a.Agent.Arrivals(ctx, tokens)
	for i := range all {
		all[i].At = all[i].At.Add(a.step())
	}
	return all, err
}

// Health is the agent's.
func (a stagedAgent) Health(ctx context.Context) (probes.Health, error) {
	ctx, cancel, err := a.due(ctx)
	defer cancel()
	if err != nil {
		return probes.Health{}, err
	}
	h, err := a.Agent.Health(ctx)
	h.At = h.At.Add(a.step())
	if !h.ArrivalsLostUntil.IsZero() {
		h.ArrivalsLostUntil = h.ArrivalsLostUntil.Add(a.step())
	}
	return h, err
}
