package witness

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/leaktest"
)

// follow has the witness tell of drops into the channel; the function it returns ends that and gives Follow's error.
func follow(t *testing.T, w *Witness) (<-chan string, func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	told, done := make(chan string, 16), make(chan error, 1)
	go func() {
		done <- w.Follow(ctx, func(ids []string) error {
			for _, id := range ids {
				told <- id
			}
			return nil
		})
	}()
	return told, func() error { stop(); return <-done }
}

// wantTold waits for the attempt to be told of, and for no other.
func wantTold(t *testing.T, told <-chan string, want string) {
	t.Helper()
	select {
	case got := <-told:
		if got != want {
			t.Errorf("told of %q, want %q", got, want)
		}
	case <-time.After(labPatience):
		t.Errorf("not told of %q within %s", want, labPatience)
	}
}

func TestADropIsToldOfAsItHappensAndADeliveryNever(t *testing.T) {
	needRoot(t)
	leaktest.Check(t)
	l := newLab(t)
	w := openLab(t, "node", l.router, l.source, l.destination)
	watched := func() probes.Attempt {
		t.Helper()
		attempt, flow := l.attempt(probes.UDP, "10.77.2.2:80")
		if err := w.Watch([]probes.Flow{flow}); err != nil {
			t.Fatal(err)
		}
		return attempt
	}
	told, stop := follow(t, w)

	delivered := watched()
	if got := l.source.try(t, []probes.Attempt{delivered})[0]; got.Kind != probes.Replied {
		t.Fatalf("outcome without a fault: %s (%s)", got.Kind, got.Detail)
	}
	l.router.sh(t, "nft -f - <<E\ntable inet fault { chain c { type filter hook forward priority 0; udp dport 80 drop; }; }\nE")
	dropped := watched()
	l.source.try(t, []probes.Attempt{dropped})
	wantTold(t, told, dropped.ID) // and so not of the delivered one, which came before
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("following ended with %v, want the context's error", err)
	}

	// Who comes later is told of what was dropped before.
	told, stop = follow(t, w)
	wantTold(t, told, dropped.ID)
	w.Forget([]string{dropped.ID, delivered.ID})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := stop(); !errors.Is(err, ErrClosed) && !errors.Is(err, context.Canceled) {
		t.Errorf("following a closed witness ended with %v", err)
	}
	if err := w.Follow(t.Context(), func([]string) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("following a closed witness: %v, want %v", err, ErrClosed)
	}
}

func TestACallIsReadAsItsKeyAndAShortOneIsRefused(t *testing.T) {
	if _, err := readCall(make([]byte, 3)); err == nil {
		t.Error("a call of three bytes was read")
	}
	if _, err := readCall(make([]byte, callSize)); err != nil {
		t.Errorf("a call with the kernel's padding: %v", err)
	}
}

// FuzzCall reads whatever the ring may hold without a panic.
func FuzzCall(f *testing.F) {
	f.Add(make([]byte, 24))
	f.Add([]byte("short"))
	f.Fuzz(func(_ *testing.T, sample []byte) { _, _ = readCall(sample) })
}
