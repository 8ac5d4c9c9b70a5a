package witness

import (
	"testing"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
)

func TestEveryLevelLoadsWhereTheKernelHasIt(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	for _, want := range []probes.Level{probes.TapsOnly, probes.NoDropReason, probes.Full} {
		w, err := open(Options{}.filled(), want)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if got := w.Level(); got != want {
			t.Errorf("level: want %q, got %q", want, got)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}
