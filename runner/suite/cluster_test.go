package suite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// memory is a cluster in memory whose CNI follows the engine exactly, after a lag, and whose parts can be broken by name. It is the
// suite's second implementation of every seam.
type memory struct {
	// lag is how long after its acceptance a change is enforced; slow pods lag by slowLag instead.
	lag, slowLag time.Duration
	slow         map[string]bool
	// labelLag is how long after its acceptance a new label of a pod of a scenario counts anywhere; a beacon's counts at once.
	labelLag time.Duration
	// dead agents answer nothing; dead is called with a lock held.
	dead func(name string) bool

	// leaks tells whether a packet passes whatever is enforced, by the time since the last change; nil for never.
	leaks func(from, to string, since time.Duration) bool

	// ail changes what an agent says of itself once the step's policy is there.
	ail func(name string, h *probes.Health)

	mu       sync.Mutex
	bounds   []int // of each batch that an agent of a scenario was sent, how many at once; zero where it was left to the agent
	cuts     map[probes.Token]chan struct{}
	cut      int
	packets  []packet
	policies map[string]networkingv1.NetworkPolicy
	cluster  map[string]npav1alpha2.ClusterNetworkPolicy
	// toothless serves ClusterNetworkPolicies and enforces none.
	toothless bool
	worlds    []*memoryWorld
	states    []state // by time of acceptance, oldest first
	nextIP    int
	// dual gives every pod an address of IPv6 besides.
	dual bool
	ups  int
}

// state is what the API server held from accepted on.
type state struct {
	accepted time.Time
	engine   *reach.Engine
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	m := &memory{
		policies: map[string]networkingv1.NetworkPolicy{}, cluster: map[string]npav1alpha2.ClusterNetworkPolicy{}, slow: map[string]bool{},
		cuts: map[probes.Token]chan struct{}{}, dead: func(string) bool { return false },
	}
	m.accept()
	return m
}

// accept compiles the present objects as a new state. The caller holds mu, but for the first.
func (m *memory) accept() {
	var w reach.World
	for _, world := range m.worlds {
		w.Namespaces = append(w.Namespaces, world.now.Namespaces...)
		w.Pods = append(w.Pods, world.now.Pods...)
	}
	var policies []reach.Policy
	for _, name := range slices.Sorted(maps.Keys(m.policies)) {
		policies = append(policies, reach.Policy{Spec: m.policies[name]})
	}
	var cluster []reach.ClusterPolicy
	for _, name := range slices.Sorted(maps.Keys(m.cluster)) {
		if !m.toothless {
			cluster = append(cluster, reach.ClusterPolicy{Spec: m.cluster[name]})
		}
	}
	engine, err := reach.Compile(w, policies, cluster...)
	if err != nil {
		panic(fmt.Sprintf("the test's own cluster state does not compile: %v", err))
	}
	m.states = append(m.states, state{time.Now(), engine})
}

// enforced is the engine that rules pod now.
func (m *memory) enforced(pod string) *reach.Engine {
	lag := m.lag
	if m.slow[pod] {
		lag = m.slowLag
	}
	since := time.Now().Add(-lag)
	engine := m.states[0].engine
	for _, s := range m.states {
		if !s.accepted.After(since) {
			engine = s.engine
		}
	}
	return engine
}

func (m *memory) Apply(_ context.Context, p networkingv1.NetworkPolicy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.policies[p.Namespace+"/"+p.Name] = p
	m.accept()
	return nil
}

func (m *memory) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.policies, name)
	m.accept()
	return nil
}

func (m *memory) Clear(_ context.Context, namespaces []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.policies, func(name string, _ networkingv1.NetworkPolicy) bool {
		namespace, _, _ := strings.Cut(name, "/")
		return slices.Contains(namespaces, namespace)
	})
	m.accept()
	return nil
}

// memoryCluster is the memory as a changer of ClusterNetworkPolicies, which a missing API can be told of.
type memoryCluster struct {
	*memory
	missing string
	asked   int
}

func (m *memoryCluster) Missing(context.Context) (string, error) {
	m.asked++
	return m.missing, nil
}

func (m *memoryCluster) Apply(_ context.Context, p npav1alpha2.ClusterNetworkPolicy) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cluster[p.Name] = p
	m.accept()
	return nil
}

func (m *memoryCluster) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.cluster, name)
	m.accept()
	return nil
}

func (m *memoryCluster) Clear(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.cluster)
	m.accept()
	return nil
}

func (m *memory) Nodes(context.Context) ([]string, error) { return []string{"node-1", "node-2"}, nil }

func (m *memory) Up(_ context.Context, w scenarios.World, _ Role) (World, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ups++
	world := &memoryWorld{m: m, agents: map[string]*memoryAgent{}, written: w,
		facts: plan.Facts{Pods: map[string]plan.PodFacts{}, Services: map[string][]netip.Addr{}, ClusterDomain: "cluster.local"}}
	for _, ns := range w.Namespaces {
		world.now.Namespaces = append(world.now.Namespaces, reach.Namespace{Name: ns.Name, Labels: maps.Clone(ns.Labels)})
		for _, p := range ns.Pods {
			world.add(ns.Name+"/"+p.Name, maps.Clone(p.Labels))
		}
	}
	for _, host := range w.Reach.Outside {
		name := scenarios.Outside(host.Name)
		m.nextIP++
		world.facts.Outside = map[string][]netip.Addr{name: {netip.AddrFrom4([4]byte{203, 0, 113, byte(m.nextIP)})}}
		world.agents[name] = &memoryAgent{m: m, name: name}
	}
	if w.Reach.APIServer {
		world.facts.APIServer = apiServer
	}
	m.worlds = append(m.worlds, world)
	m.accept()
	return world, nil
}

// apiServer is the one that every memory has.
var apiServer = plan.APIServer{
	Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1")}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("172.30.0.3:6443")}, Authority: "PEM",
}

type memoryWorld struct {
	m       *memory
	written scenarios.World
	now     reach.World
	facts   plan.Facts
	agents  map[string]*memoryAgent
	closed  bool
}

func (w *memoryWorld) Facts() plan.Facts { return w.facts }

func (w *memoryWorld) Agent(name string) Agent {
	if a, ok := w.agents[name]; ok {
		return a
	}
	return nil
}

func (w *memoryWorld) Relabel(_ context.Context, r plan.Relabel) error {
	w.late(r.Namespace, func() { w.relabel(r) })
	return nil
}

// late makes a change of labels after the memory's labelLag, but for one of the beacons'.
func (w *memoryWorld) late(namespace string, change func()) {
	if w.m.labelLag == 0 || strings.Contains(namespace, "beacon") {
		change()
		return
	}
	time.AfterFunc(w.m.labelLag, change)
}

func (w *memoryWorld) relabel(r plan.Relabel) {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	set := func(labels map[string]string) map[string]string {
		labels = maps.Clone(labels)
		for k, v := range r.Labels {
			if v == nil {
				delete(labels, k)
			} else {
				labels[k] = *v
			}
		}
		return labels
	}
	w.now.Namespaces, w.now.Pods = slices.Clone(w.now.Namespaces), slices.Clone(w.now.Pods)
	for i, ns := range w.now.Namespaces {
		if ns.Name == r.Namespace && r.Pod == "" {
			w.now.Namespaces[i].Labels = set(ns.Labels)
		}
	}
	for i, p := range w.now.Pods {
		if p.Namespace == r.Namespace && p.Name == r.Pod {
			w.now.Pods[i].Labels = set(p.Labels)
		}
	}
	w.m.accept()
}

func (w *memoryWorld) Restore(context.Context) error {
	w.late("", w.restore)
	return nil
}

func (w *memoryWorld) restore() {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	for i, ns := range w.written.Namespaces {
		w.now.Namespaces[i].Labels = maps.Clone(ns.Labels)
	}
	w.now.Pods = slices.Clone(w.now.Pods)
	for _, ns := range w.written.Namespaces {
		for _, p := range ns.Pods {
			i := slices.IndexFunc(w.now.Pods, func(o reach.Pod) bool { return o.Namespace == ns.Name && o.Name == p.Name })
			if i < 0 {
				w.add(ns.Name+"/"+p.Name, maps.Clone(p.Labels))
				continue
			}
			w.now.Pods[i].Labels = maps.Clone(p.Labels)
		}
	}
	w.m.accept()
}

func (w *memoryWorld) Remake(_ context.Context, changes []plan.Remake) error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.now.Pods = slices.Clone(w.now.Pods)
	for _, r := range changes {
		name := r.Namespace + "/" + r.Pod
		w.now.Pods = slices.DeleteFunc(w.now.Pods, func(p reach.Pod) bool { return p.Namespace+"/"+p.Name == name })
		delete(w.agents, name)
		if r.Gone {
			continue
		}
		w.add(name, maps.Clone(r.Labels))
	}
	w.m.accept()
	return nil
}

// add makes a pod of the written world, with a new address. The caller holds the lock.
func (w *memoryWorld) add(name string, labels map[string]string) {
	p, _ := w.written.Pod(name)
	namespace, _, _ := strings.Cut(name, "/")
	w.m.nextIP++
	ip := netip.AddrFrom4([4]byte{10, 0, byte(w.m.nextIP >> 8), byte(w.m.nextIP)})
	pod := reach.Pod{Namespace: namespace, Name: p.Name, Labels: labels, IPs: []netip.Addr{ip}, Node: "node-1"}
	for _, port := range p.Ports {
		pod.Ports = append(pod.Ports, reach.Port{Name: port.Name, Protocol: port.Protocol, Port: port.Port})
	}
	w.now.Pods = append(w.now.Pods, pod)
	w.facts.Pods = maps.Clone(w.facts.Pods)
	w.facts.Pods[name] = plan.PodFacts{IP: ip, Node: "node-1"}
	if w.m.dual {
		six := netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(w.m.nextIP >> 8), 15: byte(w.m.nextIP)})
		w.now.Pods[len(w.now.Pods)-1].IPs = []netip.Addr{ip, six}
		w.facts.Pods[name] = plan.PodFacts{IP: ip, Others: []netip.Addr{six}, Node: "node-1"}
	}
	w.agents[name] = &memoryAgent{m: w.m, name: name}
}

func (w *memoryWorld) Close(context.Context) error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.closed = true
	w.m.worlds = slices.DeleteFunc(w.m.worlds, func(o *memoryWorld) bool { return o == w })
	w.m.accept()
	return nil
}

type memoryAgent struct {
	m    *memory
	name string
}

var errDead = errors.New("connection refused")

func (a *memoryAgent) Run(ctx context.Context, attempts []probes.Attempt, atOnce int, each func(probes.Outcome)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	var telling sync.Mutex
	if !strings.Contains(a.name, "beacon") {
		a.m.mu.Lock()
		a.m.bounds = append(a.m.bounds, atOnce)
		a.m.mu.Unlock()
	}
	for _, at := range attempts {
		a.m.mu.Lock()
		if a.m.dead(a.name) {
			a.m.mu.Unlock()
			return errDead
		}
		to, allowed := a.m.decide(a.name, at)
		short := make(chan struct{})
		a.m.cuts[at.Token] = short
		a.m.packets = append(a.m.packets, packet{a.name, at.Protocol, at.SourcePort, at.Destination, allowed, time.Now()})
		a.m.mu.Unlock()
		if allowed {
			telling.Lock()
			each(probes.Outcome{AttemptID: at.ID, Kind: probes.Replied, Responder: to, Started: time.Now()})
			telling.Unlock()
			continue
		}
		wg.Go(func() {
			timer := time.NewTimer(at.Deadline)
			defer timer.Stop()
			outcome := probes.Outcome{AttemptID: at.ID, Kind: probes.TimedOut, Took: at.Deadline}
			select {
			case <-timer.C:
			case <-short:
				outcome = probes.Outcome{AttemptID: at.ID, Detail: "cut short on request"}
			case <-ctx.Done():
				return
			}
			telling.Lock()
			defer telling.Unlock()
			each(outcome)
		})
	}
	wg.Wait()
	return ctx.Err()
}

func (a *memoryAgent) Cut(_ context.Context, tokens []probes.Token) error {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	for _, t := range tokens {
		if short := a.m.cuts[t]; short != nil {
			close(short)
			delete(a.m.cuts, t)
			a.m.cut++
		}
	}
	return nil
}

// decide is who would answer and whether the packet passes: each end is ruled by what is enforced there.
func (m *memory) decide(source string, at probes.Attempt) (string, bool) {
	if at.Destination == netip.AddrPortFrom(apiServer.Addresses[0], 443) {
		server := apiServer.Endpoints[0]
		d, err := m.enforced(source).Decide(reach.Query{
			Source: m.endpoint(source, server.Addr()), Destination: reach.Endpoint{Addr: server.Addr()}, Protocol: "TCP", Port: server.Port(),
		})
		known := at.Authority == apiServer.Authority && at.Name == plan.APIServerName
		return plan.APIServerName, known && !m.dead(scenarios.APIServer) && (err != nil || d.Verdict == reach.Allow)
	}
	for _, w := range m.worlds {
		for _, p := range w.now.Pods {
			if !slices.Contains(p.IPs, at.Destination.Addr()) {
				continue
			}
			to := p.Namespace + "/" + p.Name
			if m.dead(to) {
				return to, false
			}
			if m.leaks != nil && m.leaks(source, to, time.Since(m.states[len(m.states)-1].accepted)) {
				return to, true
			}
			q := reach.Query{
				Source:      m.endpoint(source, at.Destination.Addr()),
				Destination: reach.Endpoint{Namespace: p.Namespace, Pod: p.Name, Addr: at.Destination.Addr()},
				Protocol:    "TCP", Port: at.Destination.Port(),
			}
			if at.Protocol == probes.UDP {
				q.Protocol = "UDP"
			}
			out, err1 := m.enforced(source).Decide(q)
			in, err2 := m.enforced(to).Decide(q)
			if errors.Join(err1, err2) != nil { // not yet known there: open, as fresh endpoints of many CNIs are
				return to, true
			}
			return to, out.Egress.Verdict == reach.Allow && in.Ingress.Verdict == reach.Allow
		}
		for to, addresses := range w.facts.Outside {
			if !slices.Contains(addresses, at.Destination.Addr()) {
				continue
			}
			d, err := m.enforced(source).Decide(reach.Query{
				Source: m.endpoint(source, at.Destination.Addr()), Destination: reach.Endpoint{Addr: at.Destination.Addr()}, Protocol: "TCP", Port: at.Destination.Port(),
			})
			return to, err != nil || d.Verdict == reach.Allow
		}
	}
	return "", false
}

// endpoint is the source of an attempt at the address to. The caller holds mu.
func (m *memory) endpoint(source string, to netip.Addr) reach.Endpoint {
	var e reach.Endpoint
	if !scenarios.IsOutside(source) {
		e.Namespace, e.Pod, _ = strings.Cut(source, "/")
	}
	for _, a := range m.ips(source) {
		if a.Is4() == to.Is4() {
			e.Addr = a
		}
	}
	return e
}

func (a *memoryAgent) Arrivals(context.Context, []probes.Token) ([]probes.Arrival, error) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.m.dead(a.name) {
		return nil, errDead
	}
	return nil, nil
}

func (a *memoryAgent) Health(context.Context) (probes.Health, error) {
	a.m.mu.Lock()
	defer a.m.mu.Unlock()
	if a.m.dead(a.name) {
		return probes.Health{}, errDead
	}
	h := probes.Health{Identity: a.name, BootID: "1", At: time.Now(), NetNS: 1}
	if a.m.ail != nil && len(a.m.policies) == 3 { // from the first step on: the baseline was sound
		a.m.ail(a.name, &h)
	}
	return h, nil
}

// packet is a request that a pod of the memory has sent.
type packet struct {
	pod      string
	protocol probes.Protocol
	port     uint16
	to       netip.AddrPort
	passed   bool
	at       time.Time
}

// memoryWitness is the kernel of every node of a memory: the suite's second implementation of that seam.
type memoryWitness struct {
	m *memory
	// ups are the nodes that have a witness.
	ups []string
	// late is how long after a packet died the kernel tells of it; blind kernels never tell of drops.
	late  time.Duration
	blind bool
	// dead witnesses answer nothing.
	dead func() bool

	mu     sync.Mutex
	closed bool
	flows  map[string]probes.Flow
	told   int
}

func newMemoryWitness(m *memory) *memoryWitness {
	return &memoryWitness{m: m, ups: []string{"node-1", "node-2"}, dead: func() bool { return false }, flows: map[string]probes.Flow{}}
}

func (w *memoryWitness) Up(context.Context) (map[string]Witness, string, error) {
	up := map[string]Witness{}
	for _, node := range w.ups {
		up[node] = w
	}
	return up, "", nil
}

func (w *memoryWitness) Close(context.Context) error {
	w.closed = true
	return nil
}

func (w *memoryWitness) Adopt(context.Context, map[string]uint64) (probes.Level, error) {
	if w.dead() {
		return probes.Unwitnessed, errDead
	}
	return probes.Full, nil
}

func (w *memoryWitness) Watch(_ context.Context, flows []probes.Flow) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead() {
		return errDead
	}
	for _, f := range flows {
		for id, other := range w.flows {
			if id != f.AttemptID && other.Source == f.Source && other.Protocol == f.Protocol {
				return fmt.Errorf("source %s is watched for another attempt", f.Source)
			}
		}
		w.flows[f.AttemptID] = f
	}
	return nil
}

func (w *memoryWitness) Sightings(_ context.Context, ids []string) ([]probes.Sighting, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead() {
		return nil, errDead
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	var seen []probes.Sighting
	for _, id := range ids {
		flow, ok := w.flows[id]
		if !ok {
			return nil, fmt.Errorf("attempt %q is not watched", id)
		}
		for _, p := range w.m.packets {
			if p.port != flow.Source.Port() || p.protocol != flow.Protocol || !slices.Contains(w.m.ips(p.pod), flow.Source.Addr()) {
				continue
			}
			s := probes.Sighting{AttemptID: id, Packet: probes.Request, Point: probes.Left, Count: 1, Node: "node-1", Pod: p.pod}
			if !scenarios.IsOutside(p.pod) { // no witness sees a packet leave what is no pod
				seen = append(seen, s)
			}
			switch {
			case p.passed:
				s.Point, s.Pod = probes.Reached, "somebody"
				seen = append(seen, s)
			case !w.blind && time.Since(p.at) >= w.late:
				s.Point, s.Pod, s.Reason = probes.Dropped, "", "NETFILTER_DROP"
				seen = append(seen, s)
			}
			w.told++
		}
	}
	return seen, nil
}

func (w *memoryWitness) Forget(_ context.Context, ids []string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead() {
		return errDead
	}
	for _, id := range ids {
		delete(w.flows, id)
	}
	return nil
}

// Follow asks the memory again and again, as the kernel would not have to: a dead witness must end it too.
func (w *memoryWitness) Follow(ctx context.Context, each func(id string)) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	told := map[string]bool{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		ids, err := w.dropped()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !told[id] {
				told[id] = true
				each(id)
			}
		}
	}
}

// dropped are the watched attempts of which the kernel tells a dropped request by now.
func (w *memoryWitness) dropped() ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead() {
		return nil, errDead
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	var ids []string
	for id, flow := range w.flows {
		if slices.ContainsFunc(w.m.packets, func(p packet) bool {
			return !w.blind && !p.passed && time.Since(p.at) >= w.late &&
				p.port == flow.Source.Port() && p.protocol == flow.Protocol && slices.Contains(w.m.ips(p.pod), flow.Source.Addr())
		}) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// ips are the addresses of a pod or a host outside. The caller holds mu.
func (m *memory) ips(name string) []netip.Addr {
	for _, w := range m.worlds {
		if facts, ok := w.facts.Pods[name]; ok {
			return facts.Addresses()
		}
		if addresses, ok := w.facts.Outside[name]; ok {
			return addresses
		}
	}
	return nil
}
