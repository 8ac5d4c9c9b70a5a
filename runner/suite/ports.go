package suite

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/dial"
)

// ports assigns the source ports of attempts that are watched: a witness must know them before the first packet. They come from the range
// that agents take theirs from and rest as long (package dial says why both), in a ring of their own per source address and protocol.
// An agent's own choice, which it makes where none is assigned, knows of them: it rests what was claimed from it.
type ports struct {
	mu    sync.Mutex
	rings map[ringKey]*ring
	now   func() time.Time
}

// ringKey is what source ports must be unique for.
type ringKey struct {
	source   netip.Addr
	protocol probes.Protocol
}

// ring hands out ports in a cycle; used are the assignments, oldest first, of one cycle at most.
type ring struct {
	next uint16
	used []time.Time
}

const ringSize = dial.DefaultLastPort - dial.DefaultFirstPort + 1

func newPorts() *ports { return &ports{rings: map[ringKey]*ring{}, now: time.Now} }

// take is the next port that has rested and is not among those to avoid; zero when there is none. A port counts as used for the attempt's
// deadline and rests from then on.
func (p *ports) take(source netip.Addr, protocol probes.Protocol, deadline time.Duration, avoid []uint16) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := ringKey{source, protocol}
	r := p.rings[key]
	if r == nil {
		// A random start: the address may have been another pod's a moment ago, whose flows are still remembered on the way.
		r = &ring{next: uint16(rand.IntN(ringSize))}
		p.rings[key] = r
	}
	for range ringSize {
		now := p.now()
		if len(r.used) == ringSize {
			if now.Sub(r.used[0]) < deadline+dial.FlowMemory {
				return 0
			}
			r.used = r.used[1:]
		}
		port := dial.DefaultFirstPort + r.next
		r.next = (r.next + 1) % ringSize
		r.used = append(r.used, now)
		if !slices.Contains(avoid, port) {
			return port
		}
	}
	return 0
}
