package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/stream"
)

// Witness talks to the witness of one node, one process of it: [Witness.Adopt] finds out which, and every later call means that one.
// Errors are as those of [Client]; a witness that was started anew answers with an [*AgentError] of status 409 until Adopt is
// called again. The other methods may be called by many goroutines at once, Adopt by none beside them.
type Witness struct{ client *Client }

// errNotAdopted is a call before the first Adopt.
var errNotAdopted = errors.New("the witness has adopted nobody yet")

// errEnded is an answer that has no end, and ended.
var errEnded = errors.New("the witness ended what has no end")

// WitnessMaxConns is a witness's default in place of [DefaultMaxConns]: what two rounds follow, and two questions of each.
const WitnessMaxConns = 6

// NewWitness is a client that opens streams with dial, as [New] does.
func NewWitness(dial func(context.Context) (net.Conn, error), token string, opts Options) *Witness {
	if opts.MaxConns == 0 {
		opts.MaxConns = WitnessMaxConns
	}
	return &Witness{client: New(dial, token, opts)}
}

// Close closes the idle streams, as [Client.Close] does.
func (w *Witness) Close() { w.client.Close() }

// Health is the witness's answer about itself.
func (w *Witness) Health(ctx context.Context) (probes.WitnessHealth, error) {
	var health probes.WitnessHealth
	if err := w.client.health(ctx, &health); err != nil {
		return probes.WitnessHealth{}, fmt.Errorf("asking for the witness's health: %w", err)
	}
	return health, nil
}

// Adopt names the pods that the witness speaks for from now on, by identity with the inode numbers of their network namespaces, and
// returns how much it can watch.
func (w *Witness) Adopt(ctx context.Context, pods map[string]uint64) (probes.Level, error) {
	health, err := w.Health(ctx)
	if err != nil {
		return probes.Unwitnessed, err
	}
	w.client.boot = health.BootID
	lines := make([]stream.Pod, 0, len(pods))
	for identity, netns := range pods {
		lines = append(lines, stream.Pod{Identity: identity, NetNS: netns})
	}
	body, err := encodeLines(lines)
	if err == nil {
		_, err = w.client.lines(ctx, stream.PathAdopt, body, func(stream.Line) {})
	}
	if err != nil {
		return probes.Unwitnessed, fmt.Errorf("telling the witness of its pods: %w", err)
	}
	return health.Level, nil
}

// Watch has the flows watched. Those of a request that failed may be watched in part.
func (w *Witness) Watch(ctx context.Context, flows []probes.Flow) error {
	return send(ctx, w, "telling the witness what to watch", stream.PathWatch, flows, func(stream.Line) {})
}

// Sightings are what was seen of the attempts so far; an attempt that was not seen has none.
func (w *Witness) Sightings(ctx context.Context, ids []string) ([]probes.Sighting, error) {
	var seen []probes.Sighting
	err := send(ctx, w, "asking the witness", stream.PathSightings, ids, func(line stream.Line) {
		if line.Sighting != nil {
			seen = append(seen, *line.Sighting)
		}
	})
	if err != nil {
		return nil, err
	}
	return seen, nil
}

// Forget has the attempts watched no more.
func (w *Witness) Forget(ctx context.Context, ids []string) error {
	return send(ctx, w, "telling the witness what to forget", stream.PathForget, ids, func(stream.Line) {})
}

// Follow calls each with the ID of every watched attempt of which a request was dropped, as the kernel drops it, beginning with those dropped
// before; an attempt whose requests go on being dropped comes again. It takes a stream of its own until ctx ends, whose error it then
// returns; any other error means that drops may have been missed.
func (w *Witness) Follow(ctx context.Context, each func(id string)) error {
	err := errNotAdopted
	if w.client.boot != "" {
		_, err = w.client.lines(ctx, stream.PathFollow, nil, func(line stream.Line) {
			if line.Dropped != "" {
				each(line.Dropped)
			}
		})
	}
	if err == nil {
		err = errEnded
	}
	return fmt.Errorf("following drops: %w", err)
}

// send sends the values as one request, or several one after the other where one would be too large.
func send[T any](ctx context.Context, w *Witness, what, path string, values []T, each func(stream.Line)) error {
	if w.client.boot == "" {
		return fmt.Errorf("%s: %w", what, errNotAdopted)
	}
	for batch := range slices.Chunk(values, stream.MaxBatch) {
		body, err := encodeLines(batch)
		if err == nil {
			_, err = w.client.lines(ctx, path, body, each)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}
