package suite

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
)

const (
	// stagger separates the starts of two successive rounds. Rounds overlap, so agreement costs this and not a second deadline;
	// it is longer than the enforcement medians published for CNIs (51–116 ms), so that a late endpoint falls between them.
	stagger = 250 * time.Millisecond
	// grace is what a batch may take beyond its attempts' deadline: queueing in the agent and the way through the API server.
	grace = 5 * time.Second
	// askLimit bounds one health or arrivals request. An agent that is slower than this is not proven alive.
	askLimit = 3 * time.Second
)

// round makes every attempt once, but for those that the cluster lacks an address for, and gathers its facts. It fails only when ctx ends: whatever an agent does not tell is
// recorded as missing in the observation's control. Base and b, which may still be on their way then, are nil for a baseline. The durations are
// how long each attempt took that was decided by a sighting.
func (s *Suite) round(ctx context.Context, world World, b *beacons, attempts []plan.Planned, base []probes.Observation) ([]probes.Observation, []time.Duration, error) {
	obs := make([]probes.Observation, len(attempts))
	authority := world.Facts().APIServer.Authority
	bySource := map[string][]int{}
	involved := map[string]bool{}
	for i, a := range attempts {
		obs[i].Attempt = probes.Attempt{
			ID: a.ID, Protocol: a.Protocol, Destination: a.Address, Name: a.Name,
			Token: probes.NewToken(), Deadline: s.o.Deadline,
		}
		switch a.Kind {
		case plan.Lookup:
			obs[i].Attempt.Family = a.Records()
		case plan.APIServerIP:
			obs[i].Attempt.Authority = authority
		}
		if a.Lacking != "" {
			continue // there is no address to send it to
		}
		bySource[a.Source] = append(bySource[a.Source], i)
		involved[a.Source] = true
		for _, r := range a.Responders {
			involved[r] = true
		}
	}
	servers := func() map[plan.Kind]string {
		return map[plan.Kind]string{
			plan.Lookup:      b.resolver(ctx, attempts, s.o.Deadline),
			plan.APIServerIP: b.apiServer(ctx, attempts, authority, s.o.Deadline),
		}
	}
	before, serversBefore := s.healths(ctx, world, involved), servers()
	vigil := s.keepVigil(ctx, world, attempts, obs)

	faults := map[string]string{}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	for source, indexes := range bySource {
		watched, others := vigil.part(indexes)
		for _, batch := range []struct {
			indexes []int
			atOnce  int
		}{{watched, max(leastAtOnce, watchedAtOnce/len(bySource))}, {others, 0}} {
			if len(batch.indexes) == 0 {
				continue
			}
			g.Go(func() error {
				err := s.runBatch(gctx, world.Agent(source), obs, batch.indexes, batch.atOnce, vigil.resolved)
				if err != nil {
					mu.Lock()
					faults[source] = err.Error()
					mu.Unlock()
				}
				return ctx.Err() // one agent's fault does not end the others' attempts
			})
		}
	}
	err := g.Wait()
	decided := vigil.end(ctx, obs) // also after an error: who started it waits for it
	if err != nil {
		return nil, nil, fmt.Errorf("making attempts: %w", context.Cause(ctx))
	}
	s.arrivals(ctx, world, attempts, obs)
	after, serversAfter := s.healths(ctx, world, involved), servers()
	if err := ctx.Err(); err != nil {
		return nil, nil, fmt.Errorf("making attempts: %w", context.Cause(ctx))
	}
	for i, a := range attempts {
		c := &obs[i].Control
		c.SourceFault = firstOf(faults[a.Source], alive(before[a.Source], after[a.Source]))
		for _, r := range a.Responders {
			if before[r] == nil { // an API server, which is not ours
				continue
			}
			c.DestinationFault = firstOf(c.DestinationFault, alive(before[r], after[r]))
		}
		if a.Kind == plan.Lookup || a.Kind == plan.APIServerIP {
			c.DestinationFault = firstOf(serversBefore[a.Kind], serversAfter[a.Kind])
		}
		if base != nil {
			c.Baseline, c.BaselineFault = base[i].Outcome.Kind, base[i].Control.BaselineFault
		}
		if obs[i].Level < s.o.Least && !outOfSight(world.Facts(), a) {
			c.WitnessFault = s.unwatched(world.Facts(), a)
		}
	}
	return obs, decided, nil
}

// runBatch sends one source its attempts, puts the outcomes into their slots and tells resolved of each.
func (s *Suite) runBatch(ctx context.Context, agent Agent, obs []probes.Observation, indexes []int, atOnce int, resolved func(int)) error {
	if agent == nil {
		return fmt.Errorf("no agent in this pod")
	}
	slot := map[string]int{}
	batch := make([]probes.Attempt, 0, len(indexes))
	for _, i := range indexes {
		slot[obs[i].Attempt.ID] = i
		batch = append(batch, obs[i].Attempt)
	}
	// Attempts beyond the agent's concurrency wait for a slot, so a batch may take several deadlines.
	slots := minConcurrency
	if atOnce > 0 {
		slots = min(slots, atOnce)
	}
	limit := s.o.Deadline*time.Duration(1+len(batch)/slots) + grace
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := agent.Run(ctx, batch, atOnce, func(o probes.Outcome) {
		if i, ok := slot[o.AttemptID]; ok {
			obs[i].Outcome = o
			resolved(i)
		}
	})
	if err != nil {
		return fmt.Errorf("agent did not finish its batch: %w", err)
	}
	return nil
}

const (
	// watchedAtOnce is how many watched attempts are under way at once, over all agents: each ends when its packet dies, so more of them end
	// no sooner and only wait for one another's processor time. On two cores all 324 of a catalogue's world at once took 92 ms (median) from
	// sending to verdict, with this bound 39, and the run no longer.
	watchedAtOnce = 36
	// leastAtOnce is what one agent makes of them at once at least.
	leastAtOnce = 2
)

// minConcurrency is how many attempts an agent makes at once at least; its default is higher or equal.
const minConcurrency = 32

// health is one answer or what came instead.
type health struct {
	probes.Health
	err error
}

// healths asks every named agent at once. A name without an agent has no entry.
func (s *Suite) healths(ctx context.Context, world World, names map[string]bool) map[string]*health {
	answers := map[string]*health{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name := range names {
		agent := world.Agent(name)
		if agent == nil {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askLimit)
			defer cancel()
			h, err := agent.Health(ctx)
			mu.Lock()
			defer mu.Unlock()
			answers[name] = &health{h, err}
		})
	}
	wg.Wait()
	return answers
}

// arrivals asks destinations for the tokens whose senders got no reply: what was answered has arrived.
func (s *Suite) arrivals(ctx context.Context, world World, attempts []plan.Planned, obs []probes.Observation) {
	ask := map[string][]probes.Token{}
	index := map[probes.Token]int{}
	for i, a := range attempts {
		if obs[i].Outcome.Kind == probes.Replied {
			continue
		}
		index[obs[i].Attempt.Token] = i
		for _, r := range a.Responders {
			ask[r] = append(ask[r], obs[i].Attempt.Token)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, tokens := range ask {
		agent := world.Agent(name)
		if agent == nil {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askLimit)
			defer cancel()
			got, err := agent.Arrivals(ctx, tokens)
			mu.Lock()
			defer mu.Unlock()
			for _, a := range got {
				if i, ok := index[a.Token]; ok {
					obs[i].Arrivals = append(obs[i].Arrivals, a)
				}
			}
			if err != nil {
				for _, t := range tokens {
					obs[index[t]].Control.DestinationFault = "arrivals not told: " + err.Error()
				}
			}
		})
	}
	wg.Wait()
}

// alive is empty when both answers came from one healthy process; else what was missing.
func alive(before, after *health) string {
	switch {
	case before == nil || after == nil:
		return "no agent"
	case before.err != nil:
		return "not alive before the attempt: " + before.err.Error()
	case after.err != nil:
		return "not alive after the attempt: " + after.err.Error()
	case before.BootID != after.BootID:
		return "restarted during the attempt"
	}
	for _, l := range append(before.Listeners, after.Listeners...) {
		if l.Fault != "" {
			return fmt.Sprintf("listener %s/%d failed its self-check: %s", l.Protocol, l.Port, l.Fault)
		}
	}
	return ""
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// baseline repeats rounds until every attempt is delivered, or its limit has passed; what is not delivered by then has its
// BaselineFault set, which later rounds carry on.
func (s *Suite) baseline(ctx context.Context, world World, attempts []plan.Planned) ([]probes.Observation, error) {
	started := time.Now()
	for {
		obs, _, err := s.round(ctx, world, nil, attempts, nil)
		if err != nil {
			return nil, err
		}
		missing := 0
		for i, a := range attempts {
			obs[i].Control.BaselineFault = compare.BaselineFault(obs[i], a)
			if a.Lacking != "" {
				continue // nobody can make it
			}
			if a.Protocol != probes.DNS && len(a.Responders) == 0 {
				continue // nobody stands behind the Service: there is nothing to wait for
			}
			if fault := obs[i].Control.BaselineFault; fault != "" {
				if missing == 0 {
					s.o.Log.Debug("baseline", "attempt", a.ID, "err", fault)
				}
				missing++
			}
		}
		took := time.Since(started)
		if missing == 0 {
			s.progress(fmt.Sprintf("baseline: %d of %d attempts delivered", len(attempts), len(attempts)), took)
			return obs, nil
		}
		if took > s.o.Baseline {
			s.progress(fmt.Sprintf("baseline: %d of %d attempts NOT delivered, they will be inconclusive", missing, len(attempts)), took)
			return obs, nil
		}
	}
}
