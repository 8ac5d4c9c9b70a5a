package observer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

// mostAgents bounds how many agents are read where there is no relay: each takes a connection through the API server, and a cluster that has
// more nodes than this has a relay, too.
const mostAgents = 100

// asksAtOnce bounds how many servers are connected to at once.
const asksAtOnce = 16

// reopenInterval is the pause before a server whose stream ended is connected to again: agents restart within seconds.
const reopenInterval = 2 * time.Second

// Watch reads the flows of one run. Stop ends it.
type Watch struct {
	log        *hubble.Log
	namespaces []string
	since      time.Time
	connect    connect
	// answer bounds the way to a server and its first answer; reopen is the pause before one whose stream ended is connected to again.
	answer, reopen time.Duration

	stop    context.CancelFunc
	readers sync.WaitGroup

	mu      sync.Mutex
	reading hubble.Reading
}

// NoServer is what a reading's Absent says of a cluster that has no Hubble, as every cluster of another CNI.
var NoServer = fmt.Sprintf("no running pod is labelled %s or %s", relay.label, agent.label)

// connect opens the way to a server. Closing the way ends its connections.
type connect func(ctx context.Context, s server) (way, error)

// way opens connections to one server.
type way interface {
	Dial(ctx context.Context) (net.Conn, error)
	Close() error
}

// Start begins to read, beside whatever the caller does next, the flows from since on of which one end is a pod of the namespaces, and
// adds them to the log. It never fails: what cannot be read is in the reading that Stop returns.
func Start(ctx context.Context, c *kube.Cluster, log *hubble.Log, namespaces []string, since time.Time) *Watch {
	w := newWatch(log, namespaces, since, func(ctx context.Context, s server) (way, error) {
		return kube.OpenTunnel(ctx, c.Config, c.Client.CoreV1().RESTClient(), s.namespace, s.name, s.port)
	})
	w.start(ctx, func(ctx context.Context, k kind) ([]server, error) { return find(ctx, c.Client, k) })
	return w
}

func newWatch(log *hubble.Log, namespaces []string, since time.Time, c connect) *Watch {
	return &Watch{log: log, namespaces: namespaces, since: since, connect: c, answer: answerLimit, reopen: reopenInterval}
}

func (w *Watch) start(ctx context.Context, find func(context.Context, kind) ([]server, error)) {
	ctx, w.stop = context.WithCancel(ctx)
	w.readers.Go(func() { w.begin(ctx, find) })
}

// Stop ends the reading and says how it went. Nothing of it runs any more when it returns.
func (w *Watch) Stop() hubble.Reading {
	w.stop()
	w.readers.Wait()
	r := w.reading
	r.Forgotten = w.log.Forgotten()
	slices.SortFunc(r.Sources, func(a, b hubble.Source) int { return strings.Compare(a.Name, b.Name) })
	if r.Absent == "" && !slices.ContainsFunc(r.Sources, func(s hubble.Source) bool { return s.Read }) {
		r.Absent = "no Hubble server answered"
		if fault := r.Fault(); fault != "" {
			r.Absent += ": " + fault
		}
	}
	return r
}

// begin reads from the first relay that answers, and where none does from every agent.
func (w *Watch) begin(ctx context.Context, find func(context.Context, kind) ([]server, error)) {
	listing, cancel := context.WithTimeoutCause(ctx, w.answer, fmt.Errorf("no answer within %s", w.answer))
	defer cancel()
	var pods [2][]server
	for i, k := range []kind{relay, agent} {
		var err error
		if pods[i], err = find(listing, k); err != nil {
			w.absent(err.Error())
			return
		}
	}
	relays, agents := pods[0], pods[1]
	if len(relays)+len(agents) == 0 {
		w.absent(NoServer)
		return
	}
	for _, s := range relays {
		if w.read(ctx, s) {
			return
		}
	}
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	for i, s := range agents {
		if i >= mostAgents {
			w.add(s, fmt.Sprintf("no more than %d agents are read, a hubble-relay speaks for all", mostAgents))
			continue
		}
		g.Go(func() error {
			w.read(ctx, s)
			return nil
		})
	}
	_ = g.Wait() // faults are in the reading
}

// read connects to a server and, when it has answered, follows its flows in a goroutine of its own.
func (w *Watch) read(ctx context.Context, s server) bool {
	n := w.add(s, "")
	c, err := w.open(ctx, s)
	if err != nil {
		w.fault(ctx, n, err)
		return false
	}
	w.readers.Go(func() { w.follow(ctx, n, s, c) })
	return true
}

// follow reads until ctx ends. What ends before is taken up again where it was left.
func (w *Watch) follow(ctx context.Context, n int, s server, c *client) {
	since := w.since
	for {
		w.connected(n, c)
		last, err := c.flows(ctx, w.namespaces, since, func(f hubble.Flow) { w.flow(n, f) }, func(lost uint64) { w.lost(n, lost) },
			func(fault string) { w.fault(ctx, n, errors.New(fault)) })
		c.close()
		w.fault(ctx, n, err)
		if last.After(since) {
			since = last
		}
		for c = nil; c == nil; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(w.reopen):
			}
			if c, err = w.open(ctx, s); err != nil {
				w.fault(ctx, n, err)
			}
		}
	}
}

func (w *Watch) absent(why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading.Absent = why
}

// add begins an entry of the reading.
func (w *Watch) add(s server, fault string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading.Sources = append(w.reading.Sources, hubble.Source{Name: s.String(), Node: s.node, Fault: fault})
	return len(w.reading.Sources) - 1
}

// fault notes what went wrong first, unless it is that the reading is being stopped.
func (w *Watch) fault(ctx context.Context, n int, err error) {
	if ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := &w.reading.Sources[n]; s.Fault == "" {
		s.Fault = err.Error()
	}
}

func (w *Watch) connected(n int, c *client) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading.Sources[n].Version, w.reading.Sources[n].Read = c.version, true
}

func (w *Watch) flow(n int, f hubble.Flow) {
	w.log.Add(f)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading.Sources[n].Flows++
}

func (w *Watch) lost(n int, events uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading.Sources[n].Lost += events
}
