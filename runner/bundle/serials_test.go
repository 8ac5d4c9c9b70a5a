package bundle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/bundle/signed"
)

var (
	keyA = "SHA256:" + strings.Repeat("a", 43)
	keyB = "SHA256:" + strings.Repeat("b", 42) + "+"
)

// of is a bundle of these keys with a serial.
func of(serial uint64, keys ...string) *signed.Result {
	return &signed.Result{Keys: keys, Statement: &signed.Statement{Predicate: signed.Predicate{Serial: serial}}}
}

func TestSerialsAreRememberedPerKey(t *testing.T) {
	s := Serials(filepath.Join(t.TempDir(), "state", "serials.json"))
	for _, r := range []*signed.Result{of(5, keyA, keyB), of(7, keyB), of(5, keyA), of(2, signed.Unsigned)} {
		if err := s.Remember(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]uint64{keyA: 5, keyB: 7, signed.Unsigned: 2}
	got, err := s.Read()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for _, r := range []*signed.Result{of(6, keyB), of(6, keyA, keyB), of(4, keyA), of(1, signed.Unsigned), of(0, keyA)} {
		if err := s.Remember(t.Context(), r); !errors.Is(err, signed.ErrRollback) {
			t.Errorf("serial %d of %v: want %v, got %v", r.Statement.Predicate.Serial, r.Keys, signed.ErrRollback, err)
		}
	}
	if got, err = s.Read(); err != nil || !cmp.Equal(want, got) {
		t.Errorf("after refusals: %v, %v", got, err)
	}
}

// TestNoSerialIsLost has many remember at once: what one has written the next must not forget.
func TestNoSerialIsLost(t *testing.T) {
	s := Serials(filepath.Join(t.TempDir(), "serials.json"))
	var all sync.WaitGroup
	want := map[string]uint64{}
	for i := range 8 {
		key := "SHA256:" + strings.Repeat(string(rune('a'+i)), 43)
		want[key] = uint64(i + 1)
		all.Go(func() {
			if err := s.Remember(t.Context(), of(uint64(i+1), key)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	got, err := s.Read()
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestADamagedMemoryOfSerialsIsNotForgotten(t *testing.T) {
	good := "{\n  \"" + keyA + "\": 5\n}\n"
	for name, text := range map[string]string{
		"empty": "", "null": "null\n", "no JSON": "x", "more behind": good + good, "a space behind": good + " ", "a list": "[]\n",
		"a key twice":      "{\n  \"" + keyA + "\": 5,\n  \"" + keyA + "\": 1\n}\n",
		"a negative one":   strings.Replace(good, "5", "-5", 1),
		"no integer":       strings.Replace(good, "5", "5.0", 1),
		"something else":   "{\n  \"all\": 5\n}\n",
		"several at once":  "{\n  \"" + keyA + " " + keyB + "\": 5\n}\n",
		"a monstrous file": good + strings.Repeat(" ", maxSerials),
	} {
		s := Serials(filepath.Join(t.TempDir(), "serials.json"))
		if err := os.WriteFile(string(s), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(); !errors.Is(err, ErrSerials) {
			t.Errorf("%s: want %v, got %v", name, ErrSerials, err)
		}
		if err := s.Remember(t.Context(), of(9, keyA)); !errors.Is(err, ErrSerials) {
			t.Errorf("%s, remembering: want %v, got %v", name, ErrSerials, err)
		}
		if got, err := os.ReadFile(string(s)); err != nil || string(got) != text {
			t.Errorf("%s: the file has changed: %v", name, err)
		}
	}
}

func TestASerialThatCannotBeWrittenIsAnError(t *testing.T) {
	dir := t.TempDir()
	s := Serials(filepath.Join(dir, "serials.json"))
	if err := os.Mkdir(string(s), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Remember(t.Context(), of(1, keyA)); err == nil {
		t.Error("a folder in the file's place was written")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	free := Serials(filepath.Join(dir, "others.json"))
	release, err := lockFile(t.Context(), string(free)+".lock", func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := free.Remember(ctx, of(1, keyA)); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for others: want %v, got %v", context.Canceled, err)
	}
}
