package signed

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func key(tb testing.TB, a Algorithm) *PrivateKey {
	tb.Helper()
	k, err := GenerateKey(a)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// content is a source of these bytes.
func content(name, text string) Source {
	return Source{Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
}

func sources() []Source {
	return []Source{
		content("layout/index.json", `{"schemaVersion":2}`),
		content("lock.json", "{}\n"),
		content("layout/blobs/sha256/"+strings.Repeat("a", 64), strings.Repeat("layer", 300)),
		content("empty", ""),
	}
}

func bundle(tb testing.TB, o WriteOptions) []byte {
	tb.Helper()
	if o.Root == "" {
		o.Root = "layout/index.json"
	}
	o.Version, o.Platform = "test", "linux/amd64"
	var b bytes.Buffer
	if _, err := Write(tb.Context(), &b, sources(), o); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// read reads a bundle and returns its entries' contents.
func read(tb testing.TB, raw []byte, o ReadOptions) (*Result, map[string]string, error) {
	tb.Helper()
	o.Now = now
	got := map[string]string{}
	result, err := Read(tb.Context(), bytes.NewReader(raw), o, func(e Entry, r io.Reader) error {
		text, err := io.ReadAll(r)
		got[e.Name] = string(text)
		return err
	})
	return result, got, err
}

func trusted(name string, k *PrivateKey) TrustedKey { return TrustedKey{Name: name, Key: k.Public()} }

func TestABundleComesBackAsItWent(t *testing.T) {
	for _, a := range []Algorithm{ECDSAP256, Ed25519} {
		k := key(t, a)
		raw := bundle(t, WriteOptions{Serial: 7, Keys: []*PrivateKey{k}})
		result, got, err := read(t, raw, ReadOptions{Trust: TrustKeys(trusted("release", k)), LastSerial: 7})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for _, s := range sources() {
			r, _ := s.Open()
			text, _ := io.ReadAll(r)
			want[s.Name] = string(text)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"release"}, result.Signers); diff != "" {
			t.Errorf("signers (-want +got):\n%s", diff)
		}
		sum := sha256.Sum256([]byte(want["layout/index.json"]))
		if got := result.Statement.Subject[0].Digest["sha256"]; got != hex.EncodeToString(sum[:]) {
			t.Errorf("subject: want the digest of the root, got %s", got)
		}
	}
}

func TestTheSameSourcesMakeTheSameBytes(t *testing.T) {
	k := key(t, Ed25519)
	o := WriteOptions{Serial: 1, Keys: []*PrivateKey{k}}
	if !bytes.Equal(bundle(t, o), bundle(t, o)) {
		t.Error("two bundles of the same sources differ")
	}
}

func TestSigningLaterIsSigningAtOnce(t *testing.T) {
	first, second := key(t, Ed25519), key(t, Ed25519)
	var b bytes.Buffer
	if _, err := AddSignatures(t.Context(), &b, bytes.NewReader(bundle(t, WriteOptions{Keys: []*PrivateKey{first}})), []*PrivateKey{second}); err != nil {
		t.Fatal(err)
	}
	if want := bundle(t, WriteOptions{Keys: []*PrivateKey{first, second}}); !bytes.Equal(want, b.Bytes()) {
		t.Error("adding a signature changed more than the signatures")
	}
	if _, err := AddSignatures(t.Context(), io.Discard, bytes.NewReader(b.Bytes()), []*PrivateKey{second}); err == nil {
		t.Error("one key signed twice")
	}
	broken := slices.Clone(b.Bytes())
	broken[len(broken)-trailerSize-blockSize] ^= 1
	if _, err := AddSignatures(t.Context(), io.Discard, bytes.NewReader(broken), []*PrivateKey{key(t, Ed25519)}); !errors.Is(err, ErrContent) {
		t.Errorf("a broken bundle was signed: %v", err)
	}
}

func TestTrustDecides(t *testing.T) {
	a, b, stranger := key(t, ECDSAP256), key(t, Ed25519), key(t, ECDSAP256)
	both := bundle(t, WriteOptions{Serial: 3, Keys: []*PrivateKey{a, b}})
	onlyA := bundle(t, WriteOptions{Serial: 3, Keys: []*PrivateKey{a}})
	two := &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), trusted("b", b)}}
	late := &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), {Name: "b", Expires: now, Key: b.Public()}}}
	for name, tc := range map[string]struct {
		bundle []byte
		o      ReadOptions
		want   error
	}{
		"two of two":                              {both, ReadOptions{Trust: two}, nil},
		"one of two":                              {onlyA, ReadOptions{Trust: two}, ErrThreshold},
		"two of two, one of them expired":         {both, ReadOptions{Trust: late}, ErrThreshold},
		"one of one":                              {onlyA, ReadOptions{Trust: TrustKeys(trusted("a", a))}, nil},
		"a good signature beside a stranger's":    {both, ReadOptions{Trust: TrustKeys(trusted("a", a))}, ErrSignature},
		"a stranger's alone":                      {onlyA, ReadOptions{Trust: TrustKeys(trusted("s", stranger))}, ErrSignature},
		"no signature with a key":                 {bundle(t, WriteOptions{}), ReadOptions{Trust: TrustKeys(trusted("a", a))}, ErrUnsigned},
		"no signature without a key":              {bundle(t, WriteOptions{}), ReadOptions{}, nil},
		"a bundle after its time":                 {bundle(t, WriteOptions{Expires: now}), ReadOptions{}, ErrExpired},
		"a bundle before its time":                {bundle(t, WriteOptions{Expires: now.Add(time.Second)}), ReadOptions{}, nil},
		"an older serial than the last one seen":  {onlyA, ReadOptions{LastSerial: 4}, ErrRollback},
		"the same serial as the last one seen":    {onlyA, ReadOptions{LastSerial: 3}, nil},
		"a newer serial than the last one seen":   {onlyA, ReadOptions{LastSerial: 2}, nil},
		"a key under another's name, both signed": {both, ReadOptions{Trust: &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), trusted("b", stranger)}}}, ErrSignature},
	} {
		t.Run(name, func(t *testing.T) {
			_, got, err := read(t, tc.bundle, tc.o)
			if !errors.Is(err, tc.want) {
				t.Errorf("want %v, got %v", tc.want, err)
			}
			if tc.want != nil && tc.want != ErrRollback && tc.want != ErrExpired && len(got) > 0 {
				t.Errorf("%d entries were handed out", len(got))
			}
		})
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		sources []Source
		want    string
	}{
		"a root that is no source":      {sources()[1:], `subject: has 0 members`},
		"a name twice":                  {append(sources(), content("empty", "")), `"empty" is listed already at predicate.entries[3]`},
		"a path that leaves the bundle": {append(sources(), content("../x", "")), `"../x" is not a clean relative path`},
		"an absolute path":              {append(sources(), content("/x", "")), `"/x" is not a clean relative path`},
		"a path that is not clean":      {append(sources(), content("a//b", "")), `"a//b" is not a clean relative path`},
		"the envelope's name":           {append(sources(), content(envelopeName, "")), `is the envelope's own`},
		"a name with a line end":        {append(sources(), content("a\nb", "")), `byte 0xa at 1`},
		"a name that is too long":       {append(sources(), content(strings.Repeat("n", 101), "")), `has 101 characters, want 1 to 100`},
		"a source that changes": {append(sources(), Source{Name: "clock", Open: func() func() (io.ReadCloser, error) {
			n := 0
			return func() (io.ReadCloser, error) {
				n++
				return io.NopCloser(strings.NewReader(strconv.Itoa(n))), nil
			}
		}()}), "changed meanwhile"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Write(t.Context(), io.Discard, tc.sources, WriteOptions{Root: "layout/index.json"})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
		})
	}
}

func TestACancelledReadEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, bytes.NewReader(bundle(t, WriteOptions{})), ReadOptions{Now: now}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
}

// mutations is how many mutated bundles the test below reads.
const mutations = 12_000

// TestNoMutatedBundleIsAccepted changes bundles at random, in ways that an attacker or a bad disk would, and holds that none is accepted,
// that nothing panics, and that memory stays bounded. GAPPROOF_SEED repeats a run.
func TestNoMutatedBundleIsAccepted(t *testing.T) {
	seed := rand.Uint64()
	if s := os.Getenv("GAPPROOF_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	a, b := key(t, ECDSAP256), key(t, Ed25519)
	good := bundle(t, WriteOptions{Serial: 9, Keys: []*PrivateKey{a, b}})
	other := bundle(t, WriteOptions{Serial: 8, Keys: []*PrivateKey{a}})
	o := ReadOptions{Trust: &Trust{Threshold: 1, Keys: []TrustedKey{trusted("a", a), trusted("b", b)}}, LastSerial: 9}
	if _, _, err := read(t, good, o); err != nil {
		t.Fatal(err)
	}
	blocks := len(good) / blockSize
	kinds := []struct {
		name   string
		mutate func() []byte
	}{
		{"bit flipped", func() []byte {
			m := slices.Clone(good)
			m[random.IntN(len(m))] ^= 1 << random.IntN(8)
			return m
		}},
		{"byte replaced", func() []byte {
			m := slices.Clone(good)
			i := random.IntN(len(m))
			m[i] += byte(1 + random.IntN(255))
			return m
		}},
		{"cut off", func() []byte { return slices.Clone(good[:random.IntN(len(good))]) }},
		{"more behind it", func() []byte { return append(slices.Clone(good), make([]byte, 1+random.IntN(2*blockSize))...) }},
		{"two blocks swapped", func() []byte {
			m := slices.Clone(good)
			i, j := random.IntN(blocks)*blockSize, random.IntN(blocks)*blockSize
			x := slices.Clone(m[i : i+blockSize])
			copy(m[i:], m[j:j+blockSize])
			copy(m[j:], x)
			return m
		}},
		{"a block left out", func() []byte {
			i := random.IntN(blocks) * blockSize
			return slices.Delete(slices.Clone(good), i, i+blockSize)
		}},
		{"a block twice", func() []byte {
			i := random.IntN(blocks) * blockSize
			return slices.Insert(slices.Clone(good), i, good[i:i+blockSize]...)
		}},
		{"a block of another bundle", func() []byte {
			m := slices.Clone(good)
			i := random.IntN(min(len(other), len(good))/blockSize) * blockSize
			copy(m[i:], other[i:i+blockSize])
			return m
		}},
		{"an older bundle", func() []byte { return slices.Clone(other) }},
		{"an entry of monstrous size", func() []byte {
			m := slices.Clone(good)
			copy(m[124:], fmt.Sprintf("%011o\x00", int64(8)<<30)) // the size field of a ustar header
			sum := 0
			copy(m[148:], "        ")
			for _, c := range m[:blockSize] {
				sum += int(c)
			}
			copy(m[148:], fmt.Sprintf("%06o\x00 ", sum))
			return m
		}},
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	reasons := map[string]int{}
	for n := range mutations {
		kind := kinds[n%len(kinds)]
		m := kind.mutate()
		if bytes.Equal(m, good) {
			continue // a block swapped with itself or its equal
		}
		_, _, err := read(t, m, o)
		if err == nil {
			t.Fatalf("seed %d, mutation %d (%s): accepted", seed, n, kind.name)
		}
		for _, is := range []error{ErrContent, ErrSignature, ErrThreshold, ErrUnsigned, ErrRollback, ErrExpired} {
			if errors.Is(err, is) {
				reasons[is.Error()]++
				err = nil
				break
			}
		}
		if err != nil {
			t.Errorf("seed %d, mutation %d (%s): %v is none of the package's errors", seed, n, kind.name, err)
		}
	}
	runtime.ReadMemStats(&after)
	// A monstrous size in a header must not be allocated: all reads together stay far below one of those eight gigabytes.
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<30 {
		t.Errorf("reading %d mutated bundles allocated %d MiB", mutations, grown>>20)
	}
	t.Logf("refused %d bundles: %v", mutations, reasons)
}

func FuzzRead(f *testing.F) {
	k := key(f, Ed25519)
	trust := TrustKeys(trusted("a", k))
	good := bundle(f, WriteOptions{Keys: []*PrivateKey{k}})
	f.Add(good)
	f.Add(bundle(f, WriteOptions{}))
	f.Add(good[:blockSize])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, _, err := read(t, raw, ReadOptions{Trust: trust}); err == nil && !bytes.Equal(raw, good) {
			t.Error("a bundle that nobody signed was accepted")
		}
		_, _, _ = read(t, raw, ReadOptions{})
	})
}
