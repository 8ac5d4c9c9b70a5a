package selftest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// memory is a cluster in which the engine rules every packet at once, and whose agents can be broken by name. It writes down what is done
// to it.
type memory struct {
	papers map[suite.Role]*paper

	mu sync.Mutex
	// dead agents answer nothing. Lying ones get no reply to anything that they send, and call themselves healthy.
	dead, lying map[string]bool
	log         []string
}

func newMemory() *memory {
	return &memory{
		papers: map[suite.Role]*paper{suite.Fixture: newPaper(nil, nil), suite.Beacon: newPaper(nil, nil)},
		dead:   map[string]bool{}, lying: map[string]bool{},
	}
}

func (m *memory) note(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, what)
}

// noted is what has been done so far, each once in a row.
func (m *memory) noted() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Compact(slices.Clone(m.log))
}

// set breaks agents, or makes them whole again.
func (m *memory) set(of map[string]bool, broken bool, pods ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range pods {
		of[p] = broken
	}
}

func (m *memory) is(of map[string]bool, pod string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return of[pod]
}

func (m *memory) Nodes(context.Context) ([]string, error) { return []string{"a", "b"}, nil }

func (m *memory) Up(ctx context.Context, w scenarios.World, role suite.Role) (suite.World, error) {
	world, err := m.papers[role].Up(ctx, w, suite.Beacon)
	if err != nil || role == suite.Beacon {
		return memoryWorld{world, m, role}, err
	}
	m.note("up")
	return memoryWorld{world, m, role}, nil
}

func (m *memory) Apply(ctx context.Context, p networkingv1.NetworkPolicy) error {
	for role, paper := range m.papers {
		paper.mu.Lock()
		ours := paper.owns(p.Namespace)
		paper.mu.Unlock()
		if ours {
			if role == suite.Fixture {
				m.note("apply")
			}
			return paper.Apply(ctx, p)
		}
	}
	return errors.New("a policy of no world")
}

func (m *memory) Delete(context.Context, string) error { return errors.New("nothing is deleted here") }

func (m *memory) Clear(context.Context, []string) error {
	m.note("clear")
	return nil
}

type memoryWorld struct {
	suite.World
	m    *memory
	role suite.Role
}

func (w memoryWorld) Agent(name string) suite.Agent {
	if a := w.World.Agent(name); a != nil {
		return memoryAgent{a, w, name}
	}
	return nil
}

func (w memoryWorld) Close(context.Context) error {
	if w.role == suite.Fixture {
		w.m.note("close")
	}
	return nil
}

type memoryAgent struct {
	suite.Agent
	world memoryWorld
	name  string
}

var errDead = errors.New("connection refused")

func (a memoryAgent) Run(ctx context.Context, attempts []probes.Attempt, atOnce int, each func(probes.Outcome)) error {
	m := a.world.m
	if m.is(m.dead, a.name) {
		return errDead
	}
	return a.Agent.Run(ctx, attempts, atOnce, func(o probes.Outcome) {
		if m.is(m.dead, o.Responder) || m.is(m.lying, a.name) {
			o.Kind, o.Responder = probes.TimedOut, ""
		}
		each(o)
	})
}

func (a memoryAgent) Arrivals(context.Context, []probes.Token) ([]probes.Arrival, error) {
	if a.world.m.is(a.world.m.dead, a.name) {
		return nil, errDead
	}
	return nil, nil
}

func (a memoryAgent) Health(context.Context) (probes.Health, error) {
	if a.world.m.is(a.world.m.dead, a.name) {
		return probes.Health{}, errDead
	}
	return probes.Health{Identity: a.name, BootID: "boot", At: time.Now()}, nil
}

// world is that of faults.yaml without what the memory has not: Services, the resolver, UDP.
const world = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: memory, title: some are denied and some are not}
world:
  namespaces:
  - name: near
    pods:
    - {name: source, ports: [{port: 80}]}
    - {name: calm-shut, labels: {ingress: none}, ports: [{port: 80}]}
  - name: far
    pods:
    - {name: open, ports: [{port: 80}]}
    - {name: shut, labels: {ingress: none}, ports: [{port: 80}]}
policies:
  inline:
  - metadata: {name: shut, namespace: near}
    spec: {podSelector: {matchLabels: {ingress: none}}, policyTypes: [Ingress]}
  - metadata: {name: shut, namespace: far}
    spec: {podSelector: {matchLabels: {ingress: none}}, policyTypes: [Ingress]}
`

func load(t *testing.T, yaml string) []*scenarios.Scenario {
	t.Helper()
	path := filepath.Join(t.TempDir(), "memory.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	all, err := scenarios.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// staged is a stage over the memory.
func staged(m *memory, f Fault) *stage {
	return &stage{Worlds: m, Policies: m, fault: f, scene: &scene{facts: plan.Facts{}}}
}

// run carries out the scenario with the fault and holds what came of it against the fault.
func run(ctx context.Context, t *testing.T, m *memory, f Fault) (Outcome, *stage, error) {
	t.Helper()
	s := staged(m, f)
	rep, err := suite.New(s, s, suite.Options{
		Run: "test", Deadline: 40 * time.Millisecond, Settle: 2 * time.Second, Baseline: 100 * time.Millisecond, Enforce: 5 * time.Second,
		Replay: func(string, string) string { return "replay" },
	}).Run(ctx, load(t, world))
	s.end(ctx)
	out := Outcome{Fault: f}
	out.hold(rep, err)
	return out, s, err
}
