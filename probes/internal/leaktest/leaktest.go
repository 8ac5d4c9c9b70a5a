// Package leaktest fails a test that ends with goroutines or file descriptors it did not begin with.
//
// Call [Check] first in the test, so that it looks after every other clean-up has run.
//
// The trap: it counts for the whole process, so neither the test nor any other at the same time may call t.Parallel.
package leaktest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Limits of the wait at the end: closing is not instant, since a reset connection's other end learns of it by the network.
const (
	patience = 5 * time.Second
	interval = 5 * time.Millisecond
)

// Check notes what is open, and at the test's end waits until no more is; what remains after five seconds fails the test.
func Check(t testing.TB) {
	t.Helper()
	before := open()
	t.Cleanup(func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for deadline := time.Now().Add(patience); ; <-tick.C {
			leaked := surplus(before, open())
			if len(leaked) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("%d left open:\n%s", len(leaked), strings.Join(leaked, "\n\n"))
				return
			}
		}
	})
}

// open is every goroutine by its number and every descriptor by its number and what it refers to. The runtime's own poller stays out.
func open() map[string]string {
	found := make(map[string]string)
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for _, stack := range strings.Split(string(buf), "\n\n") {
		name, _, _ := strings.Cut(stack, " [")
		found[name] = stack
	}
	links, _ := filepath.Glob("/proc/self/fd/*") // none where there is no such directory
	for _, link := range links {
		to, err := os.Readlink(link)
		if err != nil || to == "anon_inode:[eventpoll]" || to == "anon_inode:[eventfd]" || strings.HasPrefix(to, "/proc/") {
			continue // closed meanwhile, or the runtime's
		}
		found[fmt.Sprintf("%s → %s", filepath.Base(link), to)] = "descriptor " + filepath.Base(link) + " → " + to
	}
	return found
}

// surplus is what after has and before had not.
func surplus(before, after map[string]string) []string {
	var leaked []string
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if _, ok := before[name]; !ok {
			leaked = append(leaked, after[name])
		}
	}
	return leaked
}
