package witness

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
)

// fakeProc is a directory like /proc whose process 1 lives in the network namespace at the path.
func fakeProc(t *testing.T, path string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "1", "ns"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, nodeNamespace(dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestEveryLevelLoadsWhereTheKernelHasIt(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	proc := fakeProc(t, "/proc/self/ns/net")
	for _, want := range []probes.Level{probes.TapsOnly, probes.NoDropReason, probes.Full} {
		w, err := open(Options{Proc: proc, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}.filled(), want)
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
