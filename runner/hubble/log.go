package hubble

import (
	"slices"
	"sync"
)

// Limits of a Log's memory.
const (
	// keptRecent is how many flows wait for a tuple: a step's judged round is among its last, and a round of the catalogue's largest worlds
	// has some thousand flows. At some 250 bytes each they take 16 MiB.
	keptRecent = 1 << 16
	// keptUnlike is how many flows of one tuple are kept that differ in more than their time. A request that crosses two nodes to one of two
	// backends has six.
	keptUnlike = 16
)

// Log keeps the flows of the attempts that it is told of, and for a while those of others: which round's attempts count is known only when a
// step has settled, and a flow may be told later than that. Its methods may be called at once from several goroutines.
type Log struct {
	mu sync.Mutex
	// tuples are those that were told, by their number; flows are theirs.
	tuples []Tuple
	flows  [][]Flow
	latest map[key]int
	// recent are flows of no tuple, oldest first from next on, and by key their places.
	recent    []Flow
	next      int
	places    map[key][]int
	forgotten uint64
}

// NewLog returns an empty log.
func NewLog() *Log { return &Log{latest: map[key]int{}, places: map[key][]int{}} }

// Expect has the flows of t kept, those that were told already too, and returns its number.
func (l *Log) Expect(t Tuple) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.tuples)
	l.tuples, l.flows = append(l.tuples, t), append(l.flows, nil)
	l.latest[t.key()] = n
	for _, place := range l.places[t.key()] {
		l.keep(n, l.recent[place])
	}
	return n
}

// Add takes one flow.
func (l *Log) Add(f Flow) {
	f.Count = max(f.Count, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.latest[f.key()]; ok && l.keep(n, f) {
		return
	}
	if len(l.recent) < keptRecent {
		l.recent = append(l.recent, f)
		l.places[f.key()] = append(l.places[f.key()], len(l.recent)-1)
		return
	}
	l.dropOldest()
	l.recent[l.next] = f
	l.places[f.key()] = append(l.places[f.key()], l.next)
	l.next = (l.next + 1) % keptRecent
}

// dropOldest forgets the key of the flow at the next place, which is the first of its key's: they are taken in turn.
func (l *Log) dropOldest() {
	k := l.recent[l.next].key()
	if l.places[k] = l.places[k][1:]; len(l.places[k]) == 0 {
		delete(l.places, k)
	}
}

// keep adds f to tuple n if it is one of its flows.
func (l *Log) keep(n int, f Flow) bool {
	if l.tuples[n].Fault(f) != "" {
		return false
	}
	for i := range l.flows[n] {
		if have := &l.flows[n][i]; have.Alike(f) {
			have.Count += f.Count
			if f.Time.Before(have.Time) {
				have.Time = f.Time
			}
			return true
		}
	}
	if len(l.flows[n]) == keptUnlike {
		l.forgotten++
		return true
	}
	l.flows[n] = append(l.flows[n], f)
	return true
}

// Flows are those of the tuple of this number, in the order of their times.
func (l *Log) Flows(n int) []Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.flows[n])
	slices.SortStableFunc(out, func(a, b Flow) int { return a.Time.Compare(b.Time) })
	return out
}

// Forgotten is how many flows of tuples were more unlike each other than is kept.
func (l *Log) Forgotten() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.forgotten
}
