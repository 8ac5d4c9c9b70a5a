package agent

import (
	"context"
	"sync"
	"time"
)

// pace spaces the beginnings of attempts evenly: a rate without bursts, since a burst is what a production network must be spared.
type pace struct {
	interval time.Duration // zero does not wait

	mu   sync.Mutex
	next time.Time
}

// wait returns when the caller's turn has come, or with the error of ctx when that ended first; the turn is spent either way.
func (p *pace) wait(ctx context.Context) error {
	if p.interval == 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	turn := p.next
	if turn.Before(now) {
		turn = now
	}
	p.next = turn.Add(p.interval)
	p.mu.Unlock()

	timer := time.NewTimer(turn.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
