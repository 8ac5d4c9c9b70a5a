package suite

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
)

// asker is a world with one agent that answers the first of its queries and ends with err.
type asker struct {
	World
	oneAgent
}

func (a asker) Agent(string) Agent { return a.oneAgent }

// oneAgent is that agent.
type oneAgent struct {
	Agent
	answers int
	err     error
}

func (a oneAgent) Run(_ context.Context, attempts []probes.Attempt, _ int, each func(probes.Outcome)) error {
	for i, at := range attempts {
		o := probes.Outcome{AttemptID: at.ID, Kind: probes.TimedOut}
		if i < a.answers {
			o.Kind = probes.Replied
		}
		each(o)
	}
	return a.err
}

func TestALookupNeedsAResolverThatAnswersEveryQuery(t *testing.T) {
	lookups := []plan.Planned{{ID: "x/a>dns:web.x", Kind: plan.Lookup, Name: "web.x.svc.cluster.local."}}
	for name, tc := range map[string]struct {
		attempts []plan.Planned
		agent    oneAgent
		want     string
	}{
		"every query is answered":          {lookups, oneAgent{answers: resolverAsks}, ""},
		"one query is not":                 {lookups, oneAgent{answers: resolverAsks - 1}, "the resolver answered 7 of 8 queries"},
		"none is":                          {lookups, oneAgent{}, "the resolver answered 0 of 8 queries"},
		"the agent that asks is gone":      {lookups, oneAgent{err: errors.New("gone")}, "the resolver could not be asked: gone"},
		"there is no lookup to answer for": {[]plan.Planned{{ID: "x/a>x/b:TCP/80", Kind: plan.PodIP}}, oneAgent{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := &beacons{namespace: "beacon", world: asker{oneAgent: tc.agent}}
			if got := b.resolver(t.Context(), tc.attempts, time.Second); !strings.HasPrefix(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("want %q, got %q", tc.want, got)
			}
		})
	}
}
