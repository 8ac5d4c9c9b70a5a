package selftest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// paper passes a run's worlds and policies through to the cluster, all but its beacons: they exist on paper only and do at once what the
// engine reads out of their policies. Everything that is judged stays real.
type paper struct {
	suite.Worlds
	suite.Policies

	mu       sync.Mutex
	beacons  *paperWorld
	policies map[string]networkingv1.NetworkPolicy // the beacons' own, by "namespace/name"
}

func newPaper(w suite.Worlds, p suite.Policies) *paper {
	return &paper{Worlds: w, Policies: p, policies: map[string]networkingv1.NetworkPolicy{}}
}

// Up makes the beacons on paper and every other world in the cluster.
func (p *paper) Up(ctx context.Context, w scenarios.World, role suite.Role) (suite.World, error) {
	if role != suite.Beacon {
		return p.Worlds.Up(ctx, w, role)
	}
	facts, err := plan.Offline(&scenarios.Scenario{World: w})
	if err != nil {
		return nil, fmt.Errorf("drawing the beacons: %w", err)
	}
	made := &paperWorld{paper: p, facts: facts}
	for _, ns := range w.Namespaces {
		made.world.Namespaces = append(made.world.Namespaces, reach.Namespace{Name: ns.Name, Labels: maps.Clone(ns.Labels)})
		for _, pod := range ns.Pods {
			made.world.Pods = append(made.world.Pods, reach.Pod{Namespace: ns.Name, Name: pod.Name, Labels: maps.Clone(pod.Labels),
				IPs: []netip.Addr{facts.Pods[ns.Name+"/"+pod.Name].IP}})
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beacons = made
	return made, nil
}

// owns tells whether a namespace is the beacons'. The caller holds mu.
func (p *paper) owns(namespace string) bool {
	return p.beacons != nil && slices.ContainsFunc(p.beacons.world.Namespaces, func(n reach.Namespace) bool { return n.Name == namespace })
}

// Apply keeps the beacons' policies and passes on all others.
func (p *paper) Apply(ctx context.Context, policy networkingv1.NetworkPolicy) error {
	p.mu.Lock()
	if p.owns(policy.Namespace) {
		defer p.mu.Unlock()
		p.policies[policy.Namespace+"/"+policy.Name] = policy
		return nil
	}
	p.mu.Unlock()
	return p.Policies.Apply(ctx, policy)
}

// paperWorld is a world that the engine rules.
type paperWorld struct {
	paper *paper
	facts plan.Facts
	world reach.World // under the paper's mu
}

// Facts are invented ones.
func (w *paperWorld) Facts() plan.Facts { return w.facts }

// Agent is the agent of a pod; nil for a pod the world lacks.
func (w *paperWorld) Agent(name string) suite.Agent {
	if _, ok := w.facts.Pods[name]; !ok {
		return nil
	}
	return paperAgent{w, name}
}

// Relabel sets labels; the beacons never remove one.
func (w *paperWorld) Relabel(_ context.Context, r plan.Relabel) error {
	w.paper.mu.Lock()
	defer w.paper.mu.Unlock()
	set := func(labels map[string]string) map[string]string {
		labels = maps.Clone(labels)
		for k, v := range r.Labels {
			if v == nil {
				delete(labels, k)
				continue
			}
			labels[k] = *v
		}
		return labels
	}
	for i, n := range w.world.Namespaces {
		if r.Pod == "" && n.Name == r.Namespace {
			w.world.Namespaces[i].Labels = set(n.Labels)
		}
	}
	for i, p := range w.world.Pods {
		if p.Namespace == r.Namespace && p.Name == r.Pod {
			w.world.Pods[i].Labels = set(p.Labels)
		}
	}
	return nil
}

// Restore has nothing to put back: a beacon's labels are never restored.
func (w *paperWorld) Restore(context.Context) error { return nil }

// Remake is an error: a beacon is never made again.
func (w *paperWorld) Remake(context.Context, []plan.Remake) error { return errOnPaper }

// Close has nothing to remove.
func (w *paperWorld) Close(context.Context) error { return nil }

// engine compiles the present state.
func (w *paperWorld) engine() (*reach.Engine, error) {
	w.paper.mu.Lock()
	defer w.paper.mu.Unlock()
	var policies []reach.Policy
	for _, name := range slices.Sorted(maps.Keys(w.paper.policies)) {
		policies = append(policies, reach.Policy{Spec: w.paper.policies[name]})
	}
	return reach.Compile(w.world, policies)
}

// paperAgent answers as the engine decides.
type paperAgent struct {
	world *paperWorld
	name  string
}

var errOnPaper = errors.New("a beacon on paper has nothing to ask")

// Cut has nothing to end: every attempt is decided at once.
func (a paperAgent) Cut(context.Context, []probes.Token) error { return nil }

// Run decides each attempt. What is no connection between beacons, such as a lookup, is an error outcome: nothing is known of it.
func (a paperAgent) Run(_ context.Context, attempts []probes.Attempt, _ int, each func(probes.Outcome)) error {
	engine, err := a.world.engine()
	if err != nil {
		return err
	}
	namespace, pod, _ := strings.Cut(a.name, "/")
	for _, at := range attempts {
		o := probes.Outcome{AttemptID: at.ID, Kind: probes.Error, Detail: errOnPaper.Error()}
		for to, facts := range a.world.facts.Pods {
			if facts.IP != at.Destination.Addr() {
				continue
			}
			toNamespace, toPod, _ := strings.Cut(to, "/")
			d, err := engine.Decide(reach.Query{
				Source: reach.Endpoint{Namespace: namespace, Pod: pod}, Destination: reach.Endpoint{Namespace: toNamespace, Pod: toPod},
				Protocol: "TCP", Port: at.Destination.Port(),
			})
			if err != nil {
				return err
			}
			o = probes.Outcome{AttemptID: at.ID, Kind: probes.TimedOut}
			if d.Verdict == reach.Allow {
				o.Kind, o.Responder = probes.Replied, to
			}
		}
		each(o)
	}
	return nil
}

// Arrivals are not recorded.
func (a paperAgent) Arrivals(context.Context, []probes.Token) ([]probes.Arrival, error) {
	return nil, errOnPaper
}

// Health is not told.
func (a paperAgent) Health(context.Context) (probes.Health, error) {
	return probes.Health{}, errOnPaper
}
