//go:build !race

package evidence_test

// thinned: every case is tried, see race_test.go.
const thinned = 1
