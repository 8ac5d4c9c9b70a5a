package dial

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// The default range of source ports: below the kernel's ephemeral ports (from 32768, ip_local_port_range) and the API server's node
// ports (from 30000), above what node agents listen on (kubelet's and the control plane's end at 10259), and away from it all by
// a margin, since a hostNetwork pod shares them.
const (
	DefaultFirstPort = 12000
	DefaultLastPort  = 29999
)

// FlowMemory is how long a source port rests after an attempt. Linux tracks an answered UDP flow and an unanswered SYN for 120 s by
// default (nf_conntrack_udp_timeout_stream, nf_conntrack_tcp_timeout_syn_sent), Cilium a UDP flow for 60 s; ten more for the clock.
// With the default range this allows 138 attempts a second without end, and 18 000 at once.
//
// https://docs.kernel.org/networking/nf_conntrack-sysctl.html
const FlowMemory = 130 * time.Second

// errPortsSpent is the fault of an attempt for which no source port was free and rested.
var errPortsSpent = errors.New("every source port is in use or was used too short a time ago; lower the rate")

// ports hands out the source ports of one protocol.
type ports struct {
	memory time.Duration
	first  int
	epoch  time.Time // used counts from here; monotonic

	mu   sync.Mutex
	next int // index to look at first
	// slots has one entry per port of the range.
	slots []slot
}

// slot is the state of one port.
type slot struct {
	taken bool
	used  time.Duration // since the epoch, of the last release; zero when never used
}

func newPorts(opts Options) *ports {
	first, n := int(opts.FirstPort), int(opts.LastPort)-int(opts.FirstPort)+1
	p := &ports{memory: opts.FlowMemory, first: first, epoch: time.Now(), slots: make([]slot, n)}
	// A random start keeps an agent that was restarted in the same network namespace off the ports it has just used.
	var seed [4]byte
	rand.Read(seed[:]) // never fails: crypto/rand ends the program instead
	p.next = int(binary.NativeEndian.Uint32(seed[:]) % uint32(n))
	for _, port := range opts.Avoid {
		if s := p.slot(port); s != nil {
			s.taken = true
		}
	}
	return p
}

// slot is the entry of the port, nil when it is outside the range.
func (p *ports) slot(port uint16) *slot {
	if i := int(port) - p.first; i >= 0 && i < len(p.slots) {
		return &p.slots[i]
	}
	return nil
}

// take gives the next port of the cycle that is free and rested.
func (p *ports) take() (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Since(p.epoch)
	for range p.slots {
		i := p.next
		p.next = (p.next + 1) % len(p.slots)
		if s := &p.slots[i]; !s.taken && (s.used == 0 || now-s.used >= p.memory) {
			s.taken = true
			return uint16(p.first + i), nil
		}
	}
	return 0, errPortsSpent
}

// claim takes the port that an attempt asks for by number. Whether it has rested is for the one who asked.
func (p *ports) claim(port uint16) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slot(port)
	if s == nil {
		return nil // outside the range: the kernel's exclusive bind decides
	}
	if s.taken {
		return fmt.Errorf("taking source port %d: it is in use by another attempt or a listener", port)
	}
	s.taken = true
	return nil
}

// release gives a port back, to rest.
func (p *ports) release(port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.slot(port); s != nil {
		s.taken = false
		s.used = max(time.Since(p.epoch), 1)
	}
}
