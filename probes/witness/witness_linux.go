package witness

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/probes"
)

// Witness watches the packets of attempts on one node. Its methods may be called by many goroutines at once.
type Witness struct {
	opts    Options
	level   probes.Level
	reasons map[uint32]string
	node    uint64 // inode number of the node's own network namespace

	flows  *ebpf.Map
	owners *ebpf.Map // nil where drops are not seen
	drop   link.Link // likewise
	calls  *ebpf.Map // likewise
	tap    *ebpf.CollectionSpec

	reader *ringbuf.Reader // of calls
	heard  chan struct{}   // closed when nobody reads any more

	mu      sync.Mutex
	taps    map[Pod]*tap
	watched map[string]tapFlowKey
	ids     map[tapFlowKey]string
	// places are who stands behind the numbers that the programs note. One is never given to another, so that a sighting keeps
	// its pod after the pod is gone.
	places []Pod
	names  map[iface]string
	// followers are told of every drop.
	followers map[*follower]struct{}
}

// iface is an interface of a namespace by the numbers that the programs note.
type iface struct{ owner, index uint32 }

// Open loads what the kernel takes. Where it refuses the drop programs the level says so; where it refuses even the taps, or the process
// lacks the rights, the error is [ErrUnsupported]. Who calls closes the witness, which then leaves nothing behind; neither does a
// process that dies.
func Open(opts Options) (*Witness, error) { return open(opts.filled(), probes.Full) }

// open is Open, with no more than the level given.
func open(opts Options, most probes.Level) (_ *Witness, err error) {
	w := &Witness{
		opts: opts, level: probes.TapsOnly,
		taps: make(map[Pod]*tap), watched: make(map[string]tapFlowKey), ids: make(map[tapFlowKey]string),
		names: make(map[iface]string), followers: make(map[*follower]struct{}),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.node, err = inode(nodeNamespace(opts.Proc)); err != nil {
		return nil, fmt.Errorf("finding the node's own network namespace: %w\nhint: the witness must see the node's processes (hostPID)", err)
	}
	if w.tap, err = loadTap(); err != nil {
		return nil, fmt.Errorf("reading the tap: %w", err)
	}
	w.tap.Maps[tapMapFlows].MaxEntries = MaxFlows
	if w.flows, err = ebpf.NewMap(w.tap.Maps[tapMapFlows]); err != nil {
		return nil, unsupported("making the table of flows", err)
	}
	// A tap that is attached to nothing shows whether this kernel takes one.
	trial, err := w.loadTap(0, Pod{})
	if err != nil {
		return nil, unsupported("loading a tap", err)
	}
	if err := trial.Close(); err != nil {
		return nil, fmt.Errorf("closing the first tap: %w", err)
	}
	if most > probes.TapsOnly {
		w.watchDrops(most)
	}
	if _, err := w.place(Pod{NetNS: w.node}); err != nil {
		return nil, err
	}
	return w, nil
}

// unsupported is err with what was being done, and is [ErrUnsupported] where the kernel or the rights are what is missing.
func unsupported(doing string, err error) error {
	for _, missing := range []error{unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOSYS, unix.ENOENT, ebpf.ErrNotSupported} {
		if errors.Is(err, missing) {
			return fmt.Errorf("%s: %w: %w", doing, ErrUnsupported, err)
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// Level is what the kernel took.
func (w *Witness) Level() probes.Level { return w.level }

// Watch has packets of the flows attributed from now on. Every fault of every flow is in the error: a protocol without ports, no source,
// an attempt or a source that is watched for another already. With a fault, or without room for all ([ErrFull]), none of them is
// watched. A flow that is watched already stays as it is.
func (w *Witness) Watch(flows []probes.Flow) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := make(map[string]tapFlowKey)
	sources := make(map[tapFlowKey]string)
	var faults []error
	for _, flow := range flows {
		key, err := keyOf(flow)
		if err == nil {
			err = errors.Join(w.conflict(flow, key), conflict(flow, key, fresh, sources))
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("watching attempt %q: %w", flow.AttemptID, err))
			continue
		}
		if _, again := w.watched[flow.AttemptID]; !again {
			fresh[flow.AttemptID], sources[key] = key, flow.AttemptID
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if len(w.watched)+len(fresh) > MaxFlows {
		return fmt.Errorf("watching %d attempts beside %d: %w: it has room for %d; forget some first", len(fresh), len(w.watched), ErrFull, MaxFlows)
	}
	var empty tapFlowState
	for id, key := range fresh {
		if err := w.flows.Update(key, &empty, ebpf.UpdateNoExist); err != nil {
			w.forget(slices.Collect(maps.Keys(fresh)))
			return fmt.Errorf("watching attempt %q: %w", id, err)
		}
		w.watched[id], w.ids[key] = key, id
	}
	return nil
}

func (w *Witness) conflict(flow probes.Flow, key tapFlowKey) error {
	return conflict(flow, key, w.watched, w.ids)
}

// conflict says whether the flow's attempt has another source, or its source another attempt.
func conflict(flow probes.Flow, key tapFlowKey, watched map[string]tapFlowKey, ids map[tapFlowKey]string) error {
	if other, ok := watched[flow.AttemptID]; ok && other != key {
		return errors.New("it is watched with another source or protocol")
	}
	if other, ok := ids[key]; ok && other != flow.AttemptID {
		return fmt.Errorf("source: %s %s belongs to attempt %q", flow.Protocol, flow.Source, other)
	}
	return nil
}

// Sightings is what was seen of the attempts so far, in the order of ids and within an attempt in the order of time. An attempt that is not
// watched, or of which more different things were seen than its entry has room for, is named in the error; what is known of
// the others, and of that one, is given beside it.
func (w *Witness) Sightings(ids []string) ([]probes.Sighting, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var found []probes.Sighting
	var faults []error
	var state tapFlowState
	for _, id := range ids {
		key, ok := w.watched[id]
		if !ok {
			faults = append(faults, fmt.Errorf("reading sightings of attempt %q: it is not watched", id))
			continue
		}
		if err := w.flows.Lookup(key, &state); err != nil {
			faults = append(faults, fmt.Errorf("reading sightings of attempt %q: %w", id, err))
			continue
		}
		if lost := int64(state.Taken) - int64(len(state.Slots)); lost > 0 {
			faults = append(faults, fmt.Errorf("reading sightings of attempt %q: %w: %d packets are not among them, beyond %d kinds of sighting",
				id, ErrFull, lost, len(state.Slots)))
		}
		found = append(found, w.decode(id, &state)...)
	}
	return found, errors.Join(faults...)
}

// kind is what makes two sightings of an attempt the same.
type kind struct {
	packet probes.Packet
	point  probes.Point
	place  iface
	reason uint32
	code   uint8
	local  bool
}

// decode is the sightings of one attempt, oldest first.
func (w *Witness) decode(id string, state *tapFlowState) []probes.Sighting {
	var began uint64
	for i := range state.Slots {
		if s := &state.Slots[i]; s.present() && (began == 0 || s.First < began) {
			began = s.First
		}
	}
	var found []probes.Sighting
	at := make(map[kind]int)
	for i := range state.Slots {
		s := &state.Slots[i]
		if !s.present() {
			continue
		}
		k := kind{probes.Packet(s.Packet), probes.Point(s.Point), iface{s.Owner, s.Ifindex}, s.Reason, s.Code, s.Local != 0}
		after := time.Duration(s.First - began)
		if n, again := at[k]; again {
			found[n].Count += s.Count
			found[n].After = min(found[n].After, after)
			continue
		}
		at[k] = len(found)
		sighting := probes.Sighting{
			AttemptID: id, Packet: k.packet, Point: k.point, Count: s.Count, After: after, Node: w.opts.Node,
			Interface: w.interfaceName(k.place, s.Interface[:]), Local: k.local, Peer: s.peer(), Code: s.Code,
		}
		if int(s.Owner) < len(w.places) {
			sighting.Pod = w.places[s.Owner].Identity
		}
		if k.point == probes.Dropped && w.level == probes.Full {
			sighting.Reason = reasonName(w.reasons, s.Reason)
		}
		found = append(found, sighting)
	}
	slices.SortStableFunc(found, func(a, b probes.Sighting) int { return cmp.Compare(a.After, b.After) })
	return found
}

// Forget ends the watch of the attempts and frees their room. Those that are not watched are passed over.
func (w *Witness) Forget(ids []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(ids)
}

func (w *Witness) forget(ids []string) {
	for _, id := range ids {
		key, ok := w.watched[id]
		if !ok {
			continue
		}
		if err := w.flows.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			w.opts.Log.Warn("flow is not forgotten", "attempt", id, "err", err)
		}
		delete(w.watched, id)
		delete(w.ids, key)
	}
}

// Close takes every program out of the kernel and ends every Follow with [ErrClosed]. It may be called again.
func (w *Witness) Close() error {
	faults := []error{w.hush()}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.drop != nil {
		faults = append(faults, w.drop.Close())
		w.drop = nil
	}
	for pod, t := range w.taps {
		faults = append(faults, t.close())
		delete(w.taps, pod)
	}
	if w.owners != nil {
		faults = append(faults, w.owners.Close(), w.calls.Close())
	}
	if w.flows != nil {
		faults = append(faults, w.flows.Close())
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("closing the witness: %w", err)
	}
	return nil
}

// interfaceName is the device's name: the one that the kernel noted, else the one that it has now, else none.
func (w *Witness) interfaceName(of iface, noted []uint8) string {
	if name, _, _ := strings.Cut(string(noted), "\x00"); name != "" {
		return name
	}
	if name, known := w.names[of]; known {
		return name
	}
	if int(of.owner) >= len(w.places) {
		return ""
	}
	t, ok := w.taps[w.places[of.owner]]
	if !ok {
		return ""
	}
	name := t.interfaceName(of.index)
	if name != "" {
		w.names[of] = name
	}
	return name
}
