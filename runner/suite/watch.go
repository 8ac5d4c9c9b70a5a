package suite

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
)

// tellLimit bounds one request to a witness. One that is slower than an agent may be is of no use to a round.
const tellLimit = askLimit

// adoptLimit bounds the request that names a world's pods. No round waits beside it, and a witness that is lost here is lost for the whole
// world, so it may take what a crowded node takes.
const adoptLimit = 5 * askLimit

// watch is what the run knows of its witnesses.
type watch struct {
	mu     sync.Mutex
	up     map[string]Witness      // by node
	levels map[string]probes.Level // by node, of those that have adopted the present world
	faults map[string]string       // by node, why it has no witness in the present world
	lowest probes.Level            // so far, over all worlds
	asked  bool                    // lowest holds something
	// missing says what is missing and why, first reason first.
	missing string
}

// level is the run's level and why it is no better.
func (w *watch) level() (level, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lowest.String(), w.missing
}

// lower notes that some node of the run was watched no better than this.
func (w *watch) lower(level probes.Level, reason string) {
	if !w.asked || level < w.lowest {
		w.lowest, w.asked = level, true
	}
	if w.missing == "" {
		w.missing = reason
	}
}

// of is the witness of a node that has adopted the present world, and its level.
func (w *watch) of(node string) (Witness, probes.Level) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.levels[node] == probes.Unwitnessed {
		return nil, probes.Unwitnessed
	}
	return w.up[node], w.levels[node]
}

// lose gives a witness up until it has adopted a world again: what it was told before it failed may be forgotten.
func (s *Suite) lose(node string, err error) {
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if s.watch.levels[node] == probes.Unwitnessed {
		return // known already
	}
	delete(s.watch.levels, node)
	reason := fmt.Sprintf("the witness of %s was lost: %v", node, err)
	s.watch.faults[node] = reason
	s.watch.lower(probes.Unwitnessed, reason)
	s.o.Log.Warn("witness lost", "node", node, "err", err)
}

// startWitnesses brings the witnesses up beside whatever the caller does next; the function it returns waits for them.
func (s *Suite) startWitnesses(ctx context.Context) func() error {
	if s.o.Witnesses == nil {
		return func() error { return nil }
	}
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		started := time.Now()
		up, missing, e := s.o.Witnesses.Up(ctx)
		if e != nil {
			err = fmt.Errorf("bringing up the witnesses: %w", e)
			return
		}
		s.watch.mu.Lock()
		defer s.watch.mu.Unlock()
		s.watch.up = up
		if missing != "" {
			s.watch.missing = missing
		}
		s.progress(fmt.Sprintf("witnesses up on %d nodes", len(up)), time.Since(started))
	}()
	return func() error {
		<-done
		return err
	}
}

func (s *Suite) closeWitnesses(ctx context.Context) error {
	started := time.Now()
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	if err := s.o.Witnesses.Close(clean); err != nil {
		return fmt.Errorf("removing the witnesses: %w", err)
	}
	s.progress("witnesses removed", time.Since(started))
	return nil
}

// adopt tells the witnesses of the world's pods. A node whose witness cannot be told, or whose pods do not tell their network namespace,
// is unwitnessed for this world.
func (s *Suite) adopt(ctx context.Context, world World) {
	facts := world.Facts()
	names := map[string]bool{}
	for name := range facts.Pods {
		names[name] = true
	}
	pods := map[string]map[string]uint64{} // by node
	silent := map[string]error{}
	for name, h := range s.healths(ctx, world, names) {
		node := facts.Pods[name].Node
		if pods[node] == nil {
			pods[node] = map[string]uint64{}
		}
		switch {
		case h.err != nil:
			silent[node] = h.err
		case h.NetNS == 0:
			silent[node] = fmt.Errorf("%s does not tell its network namespace", name)
		default:
			pods[node][name] = h.NetNS
		}
	}
	var mu sync.Mutex
	levels := map[string]probes.Level{}
	reasons := map[string]string{}
	var wg sync.WaitGroup
	for node, of := range pods {
		wg.Go(func() {
			level, err := probes.Unwitnessed, silent[node]
			if w := s.watch.up[node]; w == nil {
				err = errors.New("there is none")
			} else if err == nil {
				ctx, cancel := context.WithTimeout(ctx, adoptLimit)
				defer cancel()
				level, err = w.Adopt(ctx, of)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				level, reasons[node] = probes.Unwitnessed, fmt.Sprintf("no witness on %s: %v", node, err)
			}
			levels[node] = level
		})
	}
	wg.Wait()
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	s.watch.levels, s.watch.faults = levels, reasons
	for node, level := range levels {
		reason := reasons[node]
		if s.o.Witnesses == nil {
			reason = "" // nobody was to watch, for a reason that is known already
		}
		s.watch.lower(level, reason)
	}
}

// vigil watches the attempts of one round: the witnesses tell it of each attempt of which a request was dropped, it looks at what all of them
// have seen of that one, and cuts it short when all its requests are seen to have died.
type vigil struct {
	suite   *Suite
	started time.Time      // when the agents were sent their attempts
	ids     map[string]int // by the ID a witness knows the attempt by, its index
	nodes   map[int][]string
	cutters map[int]Agent

	mu     sync.Mutex
	open   map[int]bool    // neither resolved nor cut
	called map[int]bool    // a request was dropped since the last look
	lost   map[string]bool // nodes whose witness failed in this round
	cuts   map[int]cut
	wake   chan struct{} // holds one: called is not empty

	stop    context.CancelFunc // every attempt has ended
	helpers sync.WaitGroup     // what stop ends
}

// cut is an attempt that was cut short: when, and what had been seen of it by then.
type cut struct {
	at   time.Time
	seen []probes.Sighting
}

// witnessID is the ID by which witnesses know an attempt: rounds overlap, so the attempt's own is not unique among its flows, its token is.
func witnessID(a probes.Attempt) string { return a.Token.String() }

// keepVigil gives the attempts their source ports, tells the witnesses on the way of each, and begins to watch. An attempt whose port cannot be
// told any witness is unwitnessed. The caller calls resolved for every outcome, then end.
func (s *Suite) keepVigil(ctx context.Context, world World, attempts []plan.Planned, obs []probes.Observation) *vigil {
	v := &vigil{suite: s, ids: map[string]int{}, nodes: map[int][]string{}, cutters: map[int]Agent{},
		open: map[int]bool{}, called: map[int]bool{}, lost: map[string]bool{}, cuts: map[int]cut{}, wake: make(chan struct{}, 1)}
	facts := world.Facts()
	avoid := listening(attempts)
	flows := map[string][]probes.Flow{}
	for i, a := range attempts {
		level, nodes := s.witnessesOf(facts, a)
		if s.o.Witnesses == nil || a.Lacking != "" {
			continue
		}
		protocol, source := a.Protocol, sourceOf(facts, a)
		if protocol == probes.DNS {
			protocol = probes.UDP // what a lookup is sent by
		}
		port := s.ports.take(source, protocol, obs[i].Attempt.Deadline, avoid[a.Source])
		if port == 0 {
			continue
		}
		// One that nobody watches gets its port from here too: an agent's own choice steps over all that was claimed from it and so lands on
		// the very port that comes next here.
		obs[i].Attempt.SourcePort, obs[i].Level = port, level
		if level == probes.Unwitnessed {
			continue
		}
		id := witnessID(obs[i].Attempt)
		v.ids[id], v.nodes[i], v.open[i], v.cutters[i] = i, nodes, true, world.Agent(a.Source)
		for _, node := range nodes {
			flows[node] = append(flows[node], probes.Flow{AttemptID: id, Protocol: protocol, Source: netip.AddrPortFrom(source, port)})
		}
	}
	v.each(ctx, flows, func(ctx context.Context, w Witness, flows []probes.Flow) error { return w.Watch(ctx, flows) })
	v.started = time.Now()
	ctx, v.stop = context.WithCancel(ctx)
	for node := range flows {
		v.helpers.Go(func() { v.follow(ctx, node) })
	}
	v.helpers.Go(func() { v.watch(ctx, obs) })
	return v
}

// witnessesOf are the nodes whose witnesses see the attempt's way, and the weakest of their levels: the source's, and those of all who may
// answer. The resolver's pods are not ours, so for a lookup it is the source's alone. There are none for an attempt whose packets a witness
// loses sight of: its evidence is then that of a run without.
func (s *Suite) witnessesOf(facts plan.Facts, a plan.Planned) (probes.Level, []string) {
	if outOfSight(facts, a) {
		return probes.Unwitnessed, nil
	}
	var nodes []string
	if pod, ok := facts.Pods[a.Source]; ok { // what a host outside sends is first seen at its destination's node
		nodes = append(nodes, pod.Node)
	}
	for _, r := range a.Responders {
		if pod, ok := facts.Pods[r]; ok && !slices.Contains(nodes, pod.Node) {
			nodes = append(nodes, pod.Node)
		}
	}
	weakest := probes.Full
	for _, node := range nodes {
		_, level := s.watch.of(node)
		weakest = min(weakest, level)
	}
	return weakest, nodes
}

// unwatched says why an attempt that a witness can see was watched too little.
func (s *Suite) unwatched(facts plan.Facts, a plan.Planned) string {
	level, nodes := s.witnessesOf(facts, a)
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	for _, node := range nodes {
		if fault := s.watch.faults[node]; fault != "" {
			return fault
		}
	}
	if level >= s.o.Least {
		return "it found no source port that had rested"
	}
	return fmt.Sprintf("its way is watched at level %q only", level)
}

// sourceOf is the address that the attempt's packets leave their source with: of the family of the destination's, and a lookup's of the
// cluster's first.
func sourceOf(facts plan.Facts, a plan.Planned) netip.Addr {
	addresses := facts.Outside[a.Source]
	if pod, ok := facts.Pods[a.Source]; ok {
		addresses = pod.Addresses()
	}
	n := slices.IndexFunc(addresses, func(own netip.Addr) bool {
		return !a.Address.IsValid() || own.Is4() == a.Address.Addr().Is4()
	})
	if n < 0 {
		return netip.Addr{}
	}
	return addresses[n]
}

// outOfSight tells whether packets of the attempt carry an address that is not the source pod's, as masqueraded calls to node ports do, or begin or
// end in a node's own network namespace, which has no tap.
func outOfSight(facts plan.Facts, a plan.Planned) bool {
	if a.Kind == plan.NodePort || a.Lacking != "" {
		return true
	}
	return slices.ContainsFunc(append([]string{a.Source}, a.Responders...), func(name string) bool {
		pod, ok := facts.Pods[name]
		return ok && slices.Contains(facts.Nodes[pod.Node].Addresses, pod.IP)
	})
}

// listening are the ports that attempts go to at each pod: its listeners', which no attempt of the pod can be sent from.
func listening(attempts []plan.Planned) map[string][]uint16 {
	ports := map[string][]uint16{}
	for _, a := range attempts {
		for _, r := range a.Responders {
			if a.Address.IsValid() && !slices.Contains(ports[r], a.Address.Port()) {
				ports[r] = append(ports[r], a.Address.Port())
			}
		}
	}
	return ports
}

// each asks the witness of every node at once.
func (v *vigil) each(ctx context.Context, flows map[string][]probes.Flow, ask func(context.Context, Witness, []probes.Flow) error) {
	var wg sync.WaitGroup
	for node, of := range flows {
		wg.Go(func() {
			v.of(ctx, node, func(w Witness) error {
				ctx, cancel := context.WithTimeout(ctx, tellLimit)
				defer cancel()
				return ask(ctx, w, of)
			})
		})
	}
	wg.Wait()
}

// of asks the witness of one node. One that fails is lost to this round and to those after it.
func (v *vigil) of(ctx context.Context, node string, ask func(Witness) error) {
	w, _ := v.suite.watch.of(node)
	err := errors.New("it was lost in another round")
	if w != nil {
		err = ask(w)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	v.suite.lose(node, err)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lost[node] = true
}

// follow has the node's witness tell of dropped requests until ctx ends.
func (v *vigil) follow(ctx context.Context, node string) {
	v.of(ctx, node, func(w Witness) error {
		return w.Follow(ctx, func(id string) {
			i, ours := v.ids[id]
			if !ours {
				return // another round's
			}
			v.mu.Lock()
			v.called[i] = true
			v.mu.Unlock()
			select {
			case v.wake <- struct{}{}:
			default: // it is awake
			}
		})
	})
}

// part tells the attempts that are watched, and end when their packets die, from those that may last to their deadlines.
func (v *vigil) part(attempts []int) (watched, others []int) {
	for _, i := range attempts {
		if _, ok := v.nodes[i]; ok {
			watched = append(watched, i)
		} else {
			others = append(others, i)
		}
	}
	return watched, others
}

// resolved notes that the attempt has an outcome.
func (v *vigil) resolved(i int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.open, i)
}

// watch looks at the attempts that it is called for, until ctx ends. What is called for while it looks waits for one look together.
func (v *vigil) watch(ctx context.Context, obs []probes.Observation) {
	for {
		select {
		case <-v.wake:
		case <-ctx.Done():
			return
		}
		v.mu.Lock()
		var open []int
		for i := range v.called {
			if v.open[i] && !v.blind(i) {
				open = append(open, i)
			}
		}
		clear(v.called)
		v.mu.Unlock()
		if len(open) == 0 {
			continue
		}
		seen := v.look(ctx, obs, open)
		tokens := map[Agent][]probes.Token{}
		v.mu.Lock()
		for _, i := range open {
			// A sighting decides only when no witness of this attempt is lost, and every request is accounted for by a drop.
			if a := probes.Account(seen[i]); !v.open[i] || v.blind(i) || a.Dropped == 0 || a.Arrived > 0 || a.Unaccounted > 0 {
				continue
			}
			v.cuts[i] = cut{time.Now(), seen[i]}
			delete(v.open, i)
			tokens[v.cutters[i]] = append(tokens[v.cutters[i]], obs[i].Attempt.Token)
		}
		v.mu.Unlock()
		for agent, tokens := range tokens {
			v.helpers.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, askLimit)
				defer cancel()
				if err := agent.Cut(ctx, tokens); err != nil && ctx.Err() == nil {
					v.suite.o.Log.Debug("cutting attempts short", "err", err) // they end at their deadlines then
				}
			})
		}
	}
}

// blind tells whether a witness of the attempt is lost. The caller holds mu.
func (v *vigil) blind(i int) bool {
	return slices.ContainsFunc(v.nodes[i], func(node string) bool { return v.lost[node] })
}

// look is what the witnesses have seen of the attempts so far.
func (v *vigil) look(ctx context.Context, obs []probes.Observation, attempts []int) map[int][]probes.Sighting {
	ask := map[string][]probes.Flow{}
	for _, i := range attempts {
		for _, node := range v.nodes[i] {
			ask[node] = append(ask[node], probes.Flow{AttemptID: witnessID(obs[i].Attempt)})
		}
	}
	seen := map[int][]probes.Sighting{}
	var mu sync.Mutex
	v.each(ctx, ask, func(ctx context.Context, w Witness, flows []probes.Flow) error {
		got, err := w.Sightings(ctx, ids(flows))
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, sighting := range got {
			if i, ok := v.ids[sighting.AttemptID]; ok {
				sighting.AttemptID = obs[i].Attempt.ID
				seen[i] = append(seen[i], sighting)
			}
		}
		return nil
	})
	return seen
}

// end stops watching, puts all that was seen into the observations and has it forgotten. An attempt with a witness that failed keeps
// neither a level nor sightings, for half of the way proves nothing, unless they had decided it while every witness was there. The durations are how
// long each attempt that was cut took from its first system call to the decision, in their order.
func (v *vigil) end(ctx context.Context, obs []probes.Observation) []time.Duration {
	v.stop()
	v.helpers.Wait()
	if len(v.ids) == 0 {
		return nil
	}
	all := make([]int, 0, len(v.nodes))
	for i := range v.nodes {
		all = append(all, i)
	}
	slices.Sort(all)
	forget := map[string][]probes.Flow{}
	seen := v.look(ctx, obs, all)
	began := v.began(obs)
	var decided []time.Duration
	for _, i := range all {
		short, wasCut := v.cuts[i]
		if wasCut {
			decided = append(decided, v.lasted(obs[i].Outcome, short, began[v.cutters[i]]))
		}
		switch {
		case !v.blind(i):
			obs[i].Sightings = seen[i]
		case wasCut:
			obs[i].Sightings = short.seen
			continue
		default:
			obs[i].Level = probes.Unwitnessed
			continue
		}
		for _, node := range v.nodes[i] {
			forget[node] = append(forget[node], probes.Flow{AttemptID: witnessID(obs[i].Attempt)})
		}
	}
	v.each(ctx, forget, func(ctx context.Context, w Witness, flows []probes.Flow) error { return w.Forget(ctx, ids(flows)) })
	return decided
}

// lasted bounds from above how long an attempt took from its first system call to the sighting that decided it, without comparing two hosts'
// clocks: began is when its agent made its first attempt. One bound holds the way of the attempts to the agent as well, by this host's clock; the
// other, by the agent's, the way of the cut.
func (v *vigil) lasted(o probes.Outcome, c cut, began time.Time) time.Duration {
	sent := v.started
	if waited := o.Started.Sub(began); waited > 0 {
		sent = sent.Add(waited)
	}
	took := max(0, c.at.Sub(sent))
	if o.Kind == probes.OutcomeUnknown && o.Took > 0 { // it lasted until the cut reached it
		took = min(took, o.Took)
	}
	return took
}

// began is when each agent made the first of its attempts, by its own clock. It was sent that attempt no sooner than the vigil began, so what an
// attempt waited in the agent, for its turn among those sent with it, is told from its way without comparing two clocks.
func (v *vigil) began(obs []probes.Observation) map[Agent]time.Time {
	first := map[Agent]time.Time{}
	for i, agent := range v.cutters {
		started := obs[i].Outcome.Started
		if known, ok := first[agent]; !started.IsZero() && (!ok || started.Before(known)) {
			first[agent] = started
		}
	}
	return first
}

func ids(flows []probes.Flow) []string {
	out := make([]string, len(flows))
	for i, f := range flows {
		out[i] = f.AttemptID
	}
	return out
}

// median is the middle value, zero of none.
func median(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
