package witness

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/gapproof/gapproof/probes"
)

// callSize is what one call takes of its ring: a key, and the header that the kernel puts before it, in eights.
const callSize = 32

// follower is one call of Follow.
type follower struct {
	called map[string]struct{} // not told yet; under the witness's mu
	wake   chan struct{}       // holds one
}

// Follow tells of each watched attempt as soon as the kernel drops a request of it, by its ID, until ctx ends or told fails; the error is
// then told's or the context's. It begins with those dropped before the call. Told is called from this goroutine; what is dropped while it
// runs is gathered for its next call. An attempt whose requests go on being dropped is told again.
//
// What was seen is for [Witness.Sightings] to say. A drop that Follow does not tell of, since calls were more than there is room for, is there all
// the same. A witness that does not see drops has none to tell of.
func (w *Witness) Follow(ctx context.Context, told func(ids []string) error) error {
	f := &follower{called: make(map[string]struct{}), wake: make(chan struct{}, 1)}
	if err := w.enlist(f); err != nil {
		return fmt.Errorf("following drops: %w", err)
	}
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.followers, f)
	}()
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		w.mu.Lock()
		ids, closed := slices.Collect(maps.Keys(f.called)), w.followers == nil
		clear(f.called)
		w.mu.Unlock()
		if len(ids) > 0 {
			if err := told(ids); err != nil {
				return err
			}
		}
		if closed {
			return fmt.Errorf("following drops: %w", ErrClosed)
		}
	}
}

// enlist has the follower called from now on, and for the drops that are in the table already.
func (w *Witness) enlist(f *follower) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.followers == nil {
		return ErrClosed
	}
	w.followers[f] = struct{}{}
	var state tapFlowState
	for id, key := range w.watched {
		if err := w.flows.Lookup(key, &state); err != nil {
			return fmt.Errorf("reading attempt %q: %w", id, err)
		}
		if state.requestDropped() {
			f.call(id)
		}
	}
	return nil
}

// call notes the attempt and wakes the follower. The caller holds the witness's mu.
func (f *follower) call(id string) {
	f.called[id] = struct{}{}
	f.wakeUp()
}

func (f *follower) wakeUp() {
	select {
	case f.wake <- struct{}{}:
	default: // it has been woken for another
	}
}

// requestDropped says whether a drop of a request is among the slots.
func (s *tapFlowState) requestDropped() bool {
	return slices.ContainsFunc(s.Slots[:], func(slot tapSighting) bool {
		return slot.present() && probes.Packet(slot.Packet) == probes.Request && probes.Point(slot.Point) == probes.Dropped
	})
}

// hear calls the followers of each drop until the reader is closed.
func (w *Witness) hear(reader *ringbuf.Reader) {
	w.reader, w.heard = reader, make(chan struct{})
	go func() {
		defer close(w.heard)
		var record ringbuf.Record
		for {
			if err := reader.ReadInto(&record); err != nil {
				if !errors.Is(err, ringbuf.ErrClosed) {
					w.opts.Log.Warn("drops are told late", "node", w.opts.Node, "err", err)
				}
				return
			}
			key, err := readCall(record.RawSample)
			if err != nil {
				w.opts.Log.Warn("drop is told late", "node", w.opts.Node, "err", err)
				continue
			}
			w.mu.Lock()
			if id, watched := w.ids[key]; watched {
				for f := range w.followers {
					f.call(id)
				}
			}
			w.mu.Unlock()
		}
	}()
}

// readCall is the key in one call of the programs. The kernel may give more bytes than were put in, to the next eight.
func readCall(sample []byte) (key tapFlowKey, err error) {
	if err := binary.Read(bytes.NewReader(sample), binary.NativeEndian, &key); err != nil {
		return key, fmt.Errorf("reading a call of %d bytes: %w", len(sample), err)
	}
	return key, nil
}

// hush ends what hear began, and the followers.
func (w *Witness) hush() error {
	w.mu.Lock()
	for f := range w.followers {
		f.wakeUp()
	}
	w.followers = nil
	reader := w.reader
	w.reader = nil
	w.mu.Unlock()
	if reader == nil {
		return nil
	}
	err := reader.Close()
	<-w.heard
	return err
}
