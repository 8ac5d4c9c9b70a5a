package suite

import (
	"context"
	"errors"
	"net/netip"
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

// recorder keeps what it was asked.
type recorder struct {
	oneAgent
	asked *[]probes.Attempt
}

func (r recorder) Run(ctx context.Context, attempts []probes.Attempt, atOnce int, each func(probes.Outcome)) error {
	*r.asked = attempts
	return r.oneAgent.Run(ctx, attempts, atOnce, each)
}

type recorded struct {
	World
	recorder
}

func (w recorded) Agent(string) Agent { return w.recorder }

func TestAnAttemptAtTheAPIServerNeedsOneThatProvesItself(t *testing.T) {
	at := plan.Planned{ID: "x/a>api-server:TCP/443", Kind: plan.APIServerIP, Protocol: probes.TCP, Address: netip.MustParseAddrPort("10.96.0.1:443"), Name: plan.APIServerName}
	nowhere := at
	nowhere.Lacking = "the cluster gave api-server no IPv6 address"
	for name, tc := range map[string]struct {
		attempts []plan.Planned
		agent    oneAgent
		asked    int
		want     string
	}{
		"it does each time":   {[]plan.Planned{nowhere, at}, oneAgent{answers: serverAsks}, serverAsks, ""},
		"it does not once":    {[]plan.Planned{at}, oneAgent{answers: serverAsks - 1}, serverAsks, "the API server answered 7 of 8 attempts"},
		"the agent is gone":   {[]plan.Planned{at}, oneAgent{err: errors.New("gone")}, serverAsks, "the API server could not be asked: gone"},
		"none has an address": {[]plan.Planned{nowhere}, oneAgent{}, 0, ""},
		"nobody attempts it":  {[]plan.Planned{{ID: "x/a>x/b:TCP/80", Kind: plan.PodIP}}, oneAgent{}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var asked []probes.Attempt
			b := &beacons{namespace: "beacon", world: recorded{recorder: recorder{tc.agent, &asked}}}
			got := b.apiServer(t.Context(), tc.attempts, "PEM", time.Second)
			if !strings.HasPrefix(got, tc.want) || (tc.want == "") != (got == "") {
				t.Errorf("want %q, got %q", tc.want, got)
			}
			if len(asked) != tc.asked {
				t.Fatalf("asked %d times, want %d", len(asked), tc.asked)
			}
			for _, a := range asked {
				if a.Destination != at.Address || a.Name != plan.APIServerName || a.Authority != "PEM" || a.Validate() != nil {
					t.Errorf("asked %+v (%v), want a handshake with the server that is proven", a, a.Validate())
				}
			}
		})
	}
}

func TestALookupNeedsAResolverThatAnswersEveryQuery(t *testing.T) {
	lookups := []plan.Planned{{ID: "x/a>dns:web.x", Kind: plan.Lookup, Name: "web.x.svc.cluster.local."}}
	for name, tc := range map[string]struct {
		attempts []plan.Planned
		agent    oneAgent
		want     string
	}{
		"every query is answered":          {lookups, oneAgent{answers: serverAsks}, ""},
		"one query is not":                 {lookups, oneAgent{answers: serverAsks - 1}, "the resolver answered 7 of 8 attempts"},
		"none is":                          {lookups, oneAgent{}, "the resolver answered 0 of 8 attempts"},
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
