package suite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/scenarios"
)

// A beacon is a probe pod on each node, and a policy of the run's own that opens one of two ports on it. Toggling it after a
// step's changes and waiting until the other port answers proves, by something delivered, that the node has processed what was
// accepted before. Label changes travel on other watches than policies, so they have port pairs of their own.
const (
	policyPort    = 4001 // and 4002: opened by the toggled policy
	podPort       = 4003 // and 4004: opened to a source pod with phase even or odd
	namespacePort = 4005 // and 4006: opened to a source namespace with phase even or odd
)

const (
	beaconSource = "source"
	phaseLabel   = "phase"
	// flipDeadline is short because a beacon is asked again at once; on a loaded two-core host an open port answers in under 20 ms.
	flipDeadline = 60 * time.Millisecond
)

// toggles are the kinds of change that a step made beside policies.
type toggles struct{ pod, namespace bool }

// or are the kinds of either.
func (t toggles) or(more toggles) toggles {
	return toggles{t.pod || more.pod, t.namespace || more.namespace}
}

// labels tells whether any label changed.
func (t toggles) labels() bool { return t.pod || t.namespace }

// relabelling is what a step changes beside policies.
func relabelling(step plan.Step) (how toggles) {
	for _, c := range step.Changes {
		if c.Relabel != nil {
			how = how.or(toggles{pod: c.Relabel.Pod != "", namespace: c.Relabel.Pod == ""})
		}
	}
	return how
}

// relabels is what the plan's steps change beside policies, and its clean-up puts back.
func relabels(p *plan.Plan) (how toggles) {
	for _, step := range p.Steps {
		how = how.or(relabelling(step))
	}
	return how
}

// beacons are the run's beacon pods and the phase of each port pair: 0 (even) or 1 (odd).
type beacons struct {
	namespace string // in the scenario's naming
	inCluster string
	limit     time.Duration // for one flip
	relabel   time.Duration // what a flip may take longer where labels changed
	world     World
	names     []string // one per node
	phase     map[uint16]int
	// everyFamily: asked at each of their addresses, not only at the first.
	everyFamily bool
}

var phases = [2]string{"even", "odd"}

// lightBeacons brings up the beacon world and waits until the first phase shows on every node.
func (s *Suite) lightBeacons(ctx context.Context, everyFamily bool) (*beacons, error) {
	started := time.Now()
	nodes, err := s.worlds.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	b := &beacons{namespace: "gapproof-beacon-" + s.o.Run, limit: s.o.Enforce, relabel: s.o.Relabelled, everyFamily: everyFamily,
		phase: map[uint16]int{policyPort: 1, podPort: 0, namespacePort: 0}}
	ns := scenarios.Namespace{Name: b.namespace, Labels: map[string]string{phaseLabel: phases[0]}}
	ns.Pods = append(ns.Pods, scenarios.Pod{
		Name: beaconSource, Labels: map[string]string{phaseLabel: phases[0]},
		Ports: []scenarios.Port{{Port: policyPort, Protocol: corev1.ProtocolTCP}},
	})
	for i, node := range nodes {
		p := scenarios.Pod{Name: fmt.Sprintf("node-%d", i), Labels: map[string]string{"beacon": "true"}, Node: node}
		for port := uint16(policyPort); port <= namespacePort+1; port++ {
			p.Ports = append(p.Ports, scenarios.Port{Port: port, Protocol: corev1.ProtocolTCP})
		}
		ns.Pods = append(ns.Pods, p)
		b.names = append(b.names, b.namespace+"/"+p.Name)
	}
	if b.world, err = s.worlds.Up(ctx, scenarios.World{Namespaces: []scenarios.Namespace{ns}}, Beacon); err != nil {
		return nil, fmt.Errorf("bringing up the beacons: %w", err)
	}
	b.inCluster = b.world.Facts().Prefix + b.namespace
	err = s.policies.Apply(ctx, b.labelPolicy())
	if err == nil {
		_, err = b.flip(ctx, s.policies, toggles{})
	}
	if err != nil {
		return nil, fmt.Errorf("lighting the beacons: %w", errors.Join(err, s.close(ctx, "beacons", b.world)))
	}
	s.progress(fmt.Sprintf("beacons lit on %d nodes", len(nodes)), time.Since(started))
	return b, nil
}

// pair is one port pair of one beacon: lit must answer, dark must not.
type pair struct{ lit, dark netip.AddrPort }

// flip toggles the policy, and the labels where the step changed labels, and returns how long the slowest node took to show it.
func (b *beacons) flip(ctx context.Context, policies Policies, how toggles) (time.Duration, error) {
	var toggled []uint16
	toggle := func(port uint16) int {
		b.phase[port] = 1 - b.phase[port]
		toggled = append(toggled, port)
		return b.phase[port]
	}
	if how.pod {
		value := phases[toggle(podPort)]
		if err := b.world.Relabel(ctx, plan.Relabel{Namespace: b.inCluster, Pod: beaconSource, Labels: map[string]*string{phaseLabel: &value}}); err != nil {
			return 0, err
		}
	}
	if how.namespace {
		value := phases[toggle(namespacePort)]
		if err := b.world.Relabel(ctx, plan.Relabel{Namespace: b.inCluster, Labels: map[string]*string{phaseLabel: &value}}); err != nil {
			return 0, err
		}
	}
	if err := policies.Apply(ctx, b.togglePolicy(policyPort+toggle(policyPort))); err != nil {
		return 0, err
	}
	facts := b.world.Facts()
	open := map[string]pair{}
	for _, name := range b.names {
		for _, port := range toggled {
			lit := port + uint16(b.phase[port])
			dark := port + uint16(1-b.phase[port])
			ips := facts.Pods[name].Addresses()
			if !b.everyFamily {
				ips = ips[:1]
			}
			for _, ip := range ips {
				open[fmt.Sprintf("%s:%d", name, port)+ofFamily(ip)] = pair{netip.AddrPortFrom(ip, lit), netip.AddrPortFrom(ip, dark)}
			}
		}
	}
	limit := b.limit
	if how.labels() {
		limit += b.relabel
	}
	return b.await(ctx, open, limit)
}

// ofFamily tells a beacon's pair over IPv6 from the one over IPv4.
func ofFamily(a netip.Addr) string {
	if a.Is4() {
		return ""
	}
	return " over IPv6"
}

// await asks every pair again and again until, in one batch, its lit port answered and its dark port did not: a fresh endpoint that
// nothing is enforced on yet answers on both. It returns when the last lit port first answered, counted from the call.
func (b *beacons) await(ctx context.Context, open map[string]pair, limit time.Duration) (time.Duration, error) {
	started := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not enforced on every node within %s", limit))
	defer cancel()
	source := b.world.Agent(b.namespace + "/" + beaconSource)
	answered := map[string]bool{}
	var enforced time.Duration
	for {
		var batch []probes.Attempt
		for id, p := range open {
			for suffix, to := range map[string]netip.AddrPort{"/lit": p.lit, "/dark": p.dark} {
				batch = append(batch, probes.Attempt{ID: id + suffix, Protocol: probes.TCP, Destination: to, Token: probes.NewToken(), Deadline: flipDeadline})
			}
		}
		kinds := map[string]probes.OutcomeKind{}
		err := source.Run(ctx, batch, 0, func(o probes.Outcome) { kinds[o.AttemptID] = o.Kind })
		for id := range open {
			lit, dark := kinds[id+"/lit"], kinds[id+"/dark"]
			if lit == probes.Replied && !answered[id] {
				answered[id] = true
				enforced = max(enforced, time.Since(started))
			}
			if lit == probes.Replied && (dark == probes.TimedOut || dark == probes.Refused || dark == probes.Unreachable) {
				delete(open, id)
			}
		}
		if len(open) == 0 {
			return enforced, nil
		}
		if err != nil { // an agent that cannot be asked answers at once: do not spin
			select {
			case <-time.After(flipDeadline):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("waiting for beacons %v: %w", slices.Sorted(maps.Keys(open)), errors.Join(context.Cause(ctx), err))
		}
	}
}

// serverAsks is how often the resolver, or the API server, is asked before and after a round. Which of its pods answers is left to chance: with
// half of them dead, all of these and as many after succeed once in 65 536 rounds.
const serverAsks = 8

// resolver says what keeps the cluster's resolver from being proven alive for the lookups among attempts: the beacons' source, which no
// policy of a scenario selects, asks for the name of the first. It is empty when every query was answered, with an address or without,
// and when there is no lookup. A nil b proves nothing and finds no fault: the baseline is its own control.
func (b *beacons) resolver(ctx context.Context, attempts []plan.Planned, deadline time.Duration) string {
	first := slices.IndexFunc(attempts, func(a plan.Planned) bool { return a.Kind == plan.Lookup })
	if b == nil || first < 0 {
		return ""
	}
	return b.ask(ctx, "the resolver", probes.Attempt{Protocol: probes.DNS, Name: attempts[first].Name, Deadline: deadline})
}

// apiServer is the same for the API server, known by this authority, and the attempts at it.
func (b *beacons) apiServer(ctx context.Context, attempts []plan.Planned, authority string, deadline time.Duration) string {
	first := slices.IndexFunc(attempts, func(a plan.Planned) bool { return a.Kind == plan.APIServerIP && a.Lacking == "" })
	if b == nil || first < 0 {
		return ""
	}
	a := attempts[first]
	return b.ask(ctx, "the API server", probes.Attempt{Protocol: a.Protocol, Destination: a.Address, Name: a.Name, Authority: authority, Deadline: deadline})
}

// ask makes the attempt several times from the beacons' source and says what kept it from being answered each time.
func (b *beacons) ask(ctx context.Context, whom string, a probes.Attempt) string {
	batch := make([]probes.Attempt, serverAsks)
	for i := range batch {
		batch[i] = a
		batch[i].ID, batch[i].Token = fmt.Sprintf("server/%d", i), probes.NewToken()
	}
	answered := 0
	ctx, cancel := context.WithTimeout(ctx, a.Deadline+askLimit)
	defer cancel()
	err := b.world.Agent(b.namespace+"/"+beaconSource).Run(ctx, batch, 0, func(o probes.Outcome) {
		if o.Kind == probes.Replied {
			answered++
		}
	})
	switch {
	case err != nil:
		return whom + " could not be asked: " + err.Error()
	case answered < serverAsks:
		return fmt.Sprintf("%s answered %d of %d attempts of a pod that no policy selects", whom, answered, serverAsks)
	}
	return ""
}

var beaconPods = metav1.LabelSelector{MatchLabels: map[string]string{"beacon": "true"}}

func tcpPort(port int) []networkingv1.NetworkPolicyPort {
	protocol, number := corev1.ProtocolTCP, intstr.FromInt32(int32(port))
	return []networkingv1.NetworkPolicyPort{{Protocol: &protocol, Port: &number}}
}

// togglePolicy opens one port of the first pair to everybody.
func (b *beacons) togglePolicy(port int) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "toggle", Namespace: b.inCluster},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: beaconPods,
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: tcpPort(port)}},
		},
	}
}

// labelPolicy opens the other pairs by the labels of the source's pod and namespace.
func (b *beacons) labelPolicy() networkingv1.NetworkPolicy {
	var rules []networkingv1.NetworkPolicyIngressRule
	for i, phase := range phases {
		selector := &metav1.LabelSelector{MatchLabels: map[string]string{phaseLabel: phase}}
		rules = append(rules,
			networkingv1.NetworkPolicyIngressRule{Ports: tcpPort(podPort + i), From: []networkingv1.NetworkPolicyPeer{{PodSelector: selector}}},
			networkingv1.NetworkPolicyIngressRule{Ports: tcpPort(namespacePort + i), From: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: selector}}})
	}
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "labels", Namespace: b.inCluster},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: beaconPods,
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     rules,
		},
	}
}
