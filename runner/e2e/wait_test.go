package e2e

import (
	"testing"
	"time"
)

const (
	waitInterval = 250 * time.Millisecond
	waitLimit    = time.Minute
)

// eventually polls condition until it answers true; after a minute it fails with the last state.
func eventually(t *testing.T, what string, condition func() (done bool, state string)) {
	t.Helper()
	tick := time.NewTicker(waitInterval)
	defer tick.Stop()
	limit := time.NewTimer(waitLimit)
	defer limit.Stop()
	state := ""
	for {
		var done bool
		if done, state = condition(); done {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("waiting until %s: not so after %s; last state: %s", what, waitLimit, state)
		}
	}
}
