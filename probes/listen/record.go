package listen

import (
	"net/netip"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
)

// record keeps the newest arrivals in a ring, one entry per token, protocol and pair of addresses.
type record struct {
	max int

	mu    sync.Mutex
	ring  []probes.Arrival // grows to max, then entry n overwrites entry n-max
	added uint64           // entries ever; the newest is ring[(added-1)%max]
	index map[arrivalKey]uint64
	until time.Time // of the newest entry overwritten
}

// arrivalKey is what makes two arrivals the same one, come twice.
type arrivalKey struct {
	token               probes.Token
	protocol            probes.Protocol
	source, destination netip.AddrPort
}

func keyOf(a probes.Arrival) arrivalKey {
	return arrivalKey{a.Token, a.Protocol, a.Source, a.Destination}
}

func newRecord(limit int) *record {
	return &record{max: limit, index: make(map[arrivalKey]uint64)}
}

func (r *record) at(n uint64) *probes.Arrival { return &r.ring[n%uint64(r.max)] }

// first is the number of the oldest entry kept.
func (r *record) first() uint64 { return r.added - uint64(len(r.ring)) }

func (r *record) add(a probes.Arrival) {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := keyOf(a)
	if n, ok := r.index[key]; ok {
		r.at(n).Count++
		return
	}
	if len(r.ring) < r.max {
		r.ring = append(r.ring, a)
	} else {
		oldest := r.at(r.added)
		delete(r.index, keyOf(*oldest))
		r.until = oldest.At
		*oldest = a
	}
	r.index[key] = r.added
	r.added++
}

func (r *record) find(tokens []probes.Token) []probes.Arrival {
	asked := make(map[probes.Token]struct{}, len(tokens))
	for _, t := range tokens {
		asked[t] = struct{}{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []probes.Arrival
	for n := r.first(); n < r.added; n++ {
		if _, ok := asked[r.at(n).Token]; ok {
			found = append(found, *r.at(n))
		}
	}
	return found
}

func (r *record) since(cursor uint64) ([]probes.Arrival, uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []probes.Arrival
	for n := max(cursor, r.first()); n < r.added; n++ {
		found = append(found, *r.at(n))
	}
	return found, r.added
}

func (r *record) lost() (uint64, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first(), r.until
}
