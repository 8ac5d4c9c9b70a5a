package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func about() About {
	return About{
		Lock: strings.Repeat("ab", 32), Evidence: strings.Repeat("cd", 32), Run: "k7x2q", Time: time.Date(2026, 3, 4, 10, 11, 12, 13, time.UTC), Version: "v0.1.0",
	}
}

// stated is a statement of facts that were edited.
func stated(t *testing.T, edit func(*Facts)) *Statement {
	t.Helper()
	s := spec(t)
	f := sealed(s)
	edit(&f)
	st, err := s.Judge(f).Statement(s, about())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func encoded(t *testing.T, st *Statement) []byte {
	t.Helper()
	raw, err := st.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// attempt is what somebody tried.
func attempt(packets uint64) Tried {
	return Tried{Source: netip.MustParseAddr("10.244.0.9"), Destination: netip.MustParseAddr("9.9.9.9"), Protocol: TCP, Port: 443, Packets: packets, From: "pod x/a"}
}

func TestAStatementOfEveryVerdictReadsBack(t *testing.T) {
	for want, edit := range map[Verdict]func(*Facts){
		Sealed: func(f *Facts) {
			f.Began = &Reading{Tried: []Tried{attempt(1)}}
			f.After.Tried = []Tried{attempt(3)}
		},
		Leaked:    func(f *Facts) { f.After.Packets[BeyondForward4] = 2 },
		NotProven: func(f *Facts) { *f = Facts{Unchecked: "this needs root"} },
	} {
		st := stated(t, edit)
		got, err := ParseStatement(encoded(t, st))
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if got.Predicate.Verdict != want {
			t.Errorf("the verdict is %s, want %s", got.Predicate.Verdict, want)
		}
		if diff := cmp.Diff(string(encoded(t, st)), string(encoded(t, got))); diff != "" {
			t.Errorf("%s (-written +read):\n%s", want, diff)
		}
	}
	if got := stated(t, func(f *Facts) {
		f.Began = &Reading{Tried: []Tried{attempt(1)}}
		f.After.Tried = []Tried{attempt(3)}
	}).Predicate.Tried; !slices.Equal(got, []Tried{attempt(2)}) {
		t.Errorf("tried %v, want what came since the run began", got)
	}
}

func TestAStatementIsAboutALock(t *testing.T) {
	s := spec(t)
	for name, edit := range map[string]func(*About){
		"no lock":                 func(a *About) { a.Lock = "" },
		"a lock of half a digest": func(a *About) { a.Lock = "abab" },
		"a digest with a prefix":  func(a *About) { a.Evidence = "sha256:" + a.Evidence },
		"no time":                 func(a *About) { a.Time = time.Time{} },
	} {
		a := about()
		edit(&a)
		if _, err := s.Judge(sealed(s)).Statement(s, a); err == nil {
			t.Errorf("%s: it was stated", name)
		}
	}
}

func TestWhatDoesNotFollowFromItsFactsIsRefused(t *testing.T) {
	good := string(encoded(t, stated(t, func(f *Facts) { f.After.Tried = []Tried{attempt(3)} })))
	leaked := string(encoded(t, stated(t, func(f *Facts) { f.After.Packets[BeyondForward4] = 2 })))
	for name, tt := range map[string]struct{ raw, says string }{
		"a leak called sealed":      {strings.Replace(leaked, `"verdict":"LEAKED"`, `"verdict":"SEALED"`, 1), `predicate.verdict: is "SEALED", and the facts give LEAKED`},
		"a canary not counted":      {strings.Replace(good, `"counted":1`, `"counted":0`, 1), "the facts give SEAL_NOT_PROVEN"},
		"tried less than the facts": {strings.Replace(good, `"packets":3`, `"packets":2`, 1), "predicate.tried"},
		"of a bundle":               {strings.Replace(good, PredicateType, "https://gapproof.dev/bundle/v1", 1), "predicateType: is"},
		"another type":              {strings.Replace(good, StatementType, "https://in-toto.io/Statement/v0.1", 1), "_type: is"},
		"another subject":           {strings.Replace(good, LockSubject, "block.json", 1), "subject: the first must be lock.json"},
		"a digest in capitals":      {strings.Replace(good, "abab", "ABab", 1), "subject[0].digest"},
		"a kind that is none":       {strings.Replace(good, `"kind":"pod"`, `"kind":"host"`, 1), "not node or pod"},
		"a member that is unknown":  {strings.Replace(good, `"verdict":`, `"colour":"green","verdict":`, 1), "unknown field"},
		"a member that is twice":    {strings.Replace(good, `"verdict":`, `"verdict":"LEAKED","verdict":`, 1), "not in the form"},
		"more behind it":            {good + " ", "not in the form"},
		"nothing":                   {"", "EOF"},
	} {
		if tt.raw == good || tt.raw == leaked {
			t.Fatalf("%s: nothing was edited", name)
		}
		_, err := ParseStatement([]byte(tt.raw))
		if !errors.Is(err, ErrStatement) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: got %v, want ErrStatement that says %q", name, err, tt.says)
		}
	}
}

// TestNoByteOfAVerdictCanBeAnother is about whoever edits a statement of a leak so that it reads as a seal: of single bytes none does it.
func TestNoByteOfAVerdictCanBeAnother(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	raw := encoded(t, stated(t, func(f *Facts) { f.Foreign = []NodeImage{{"w", "evil:1", "sha256:1", ""}} }))
	for at := range raw {
		edited := bytes.Clone(raw)
		edited[at] ^= 1 << r.IntN(8)
		if st, err := ParseStatement(edited); err == nil && st.Predicate.Verdict == Sealed {
			t.Errorf("byte %d from %q to %q makes it SEALED", at, raw[at], edited[at])
		}
	}
}

func TestAKindWithoutANameIsNotWritten(t *testing.T) {
	if raw, err := json.Marshal(Expected{From: "x"}); err == nil {
		t.Errorf("it was written: %s", raw)
	}
}
