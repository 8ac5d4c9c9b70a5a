//go:build race

package evidence_test

// thinned: the race detector makes these tests six times slower and has one goroutine to watch in them, so they try a third of their cases, by
// a seed of their own. Without it they try all, as `make unit` does besides.
const thinned = 3
