package signed

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"crypto/sha256"

	"github.com/google/go-cmp/cmp"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
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
		result, got, err := read(t, raw, ReadOptions{Trust: TrustKeys(trusted("release", k)), Seen: map[string]uint64{k.Public().ID(): 7}})
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
	o := WriteOptions{Serial: 1, Keys: []*PrivateKey{key(t, ECDSAP256), key(t, Ed25519)}}
	if !bytes.Equal(bundle(t, o), bundle(t, o)) {
		t.Error("two bundles of the same sources differ")
	}
	for _, k := range o.Keys {
		if !bytes.Equal(alone(t, k), alone(t, k)) {
			t.Errorf("two signatures of one statement by key %s differ", k.Public().ID())
		}
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
	if _, err := AddSignatures(t.Context(), io.Discard, bytes.NewReader(b.Bytes()), []*PrivateKey{second}); !errors.Is(err, ErrSigned) {
		t.Errorf("one key signed twice: want %v, got %v", ErrSigned, err)
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
	last := func(keys ...any) map[string]uint64 {
		seen := map[string]uint64{}
		for i := 0; i < len(keys); i += 2 {
			seen[keys[i].(*PrivateKey).Public().ID()] = uint64(keys[i+1].(int))
		}
		return seen
	}
	late := &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), {Name: "b", Expires: now, Key: b.Public()}}}
	for name, tc := range map[string]struct {
		bundle []byte
		o      ReadOptions
		want   error
	}{
		"two of two":                                      {both, ReadOptions{Trust: two}, nil},
		"one of two":                                      {onlyA, ReadOptions{Trust: two}, ErrThreshold},
		"two of two, one of them expired":                 {both, ReadOptions{Trust: late}, ErrThreshold},
		"one of one":                                      {onlyA, ReadOptions{Trust: TrustKeys(trusted("a", a))}, nil},
		"a good signature beside a stranger's":            {both, ReadOptions{Trust: TrustKeys(trusted("a", a))}, ErrSignature},
		"a stranger's alone":                              {onlyA, ReadOptions{Trust: TrustKeys(trusted("s", stranger))}, ErrSignature},
		"no signature with a key":                         {bundle(t, WriteOptions{}), ReadOptions{Trust: TrustKeys(trusted("a", a))}, ErrUnsigned},
		"no signature without a key":                      {bundle(t, WriteOptions{}), ReadOptions{}, nil},
		"a bundle after its time":                         {bundle(t, WriteOptions{Expires: now}), ReadOptions{}, ErrExpired},
		"a bundle before its time":                        {bundle(t, WriteOptions{Expires: now.Add(time.Second)}), ReadOptions{}, nil},
		"an older serial than the last one seen":          {onlyA, ReadOptions{Seen: map[string]uint64{Unsigned: 4}}, ErrRollback},
		"the same serial as the last one seen":            {onlyA, ReadOptions{Seen: map[string]uint64{Unsigned: 3}}, nil},
		"a newer serial than the last one seen":           {onlyA, ReadOptions{Seen: map[string]uint64{Unsigned: 2}}, nil},
		"an older serial than its key's":                  {onlyA, ReadOptions{Trust: TrustKeys(trusted("a", a)), Seen: last(a, 4)}, ErrRollback},
		"an older serial than its key's, keys added":      {onlyA, ReadOptions{Trust: TrustKeys(trusted("s", stranger), trusted("a", a)), Seen: last(a, 4)}, ErrRollback},
		"an older serial than its key's, key given twice": {onlyA, ReadOptions{Trust: TrustKeys(trusted("a", a), trusted("a", a)), Seen: last(a, 4)}, ErrRollback},
		"an older serial than one of two keys'":           {both, ReadOptions{Trust: two, Seen: last(a, 3, b, 4)}, ErrRollback},
		"an older serial than that of an expired key": {both, ReadOptions{Seen: last(a, 3, b, 4),
			Trust: &Trust{Threshold: 1, Keys: late.Keys}}, ErrRollback},
		"an older serial than a key's that has not signed": {onlyA, ReadOptions{Trust: TrustKeys(trusted("a", a), trusted("s", stranger)), Seen: last(stranger, 9)}, nil},
		"a key under another's name, both signed":          {both, ReadOptions{Trust: &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), trusted("b", stranger)}}}, ErrSignature},
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
			_, err := Write(t.Context(), io.Discard, tc.sources, WriteOptions{Root: "layout/index.json", Version: "test", Platform: "linux/amd64"})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
		})
	}
}

// TestNothingThatABundleSaysSpeaksToATerminal: whoever carries a bundle can write what is not signed, and a list where no signature is asked for.
func TestNothingThatABundleSaysSpeaksToATerminal(t *testing.T) {
	const evil = "\x1b[2J\x1b[H\nVERIFIED: by \u202eus\u009b" // valid UTF-8: else the form of the envelope is refused before it is looked into
	k := key(t, Ed25519)
	whole := bundle(t, WriteOptions{Keys: []*PrivateKey{k}})
	head := entryHeads(t, whole)[0]
	named := func(change func(*dsse.Envelope)) []byte {
		return reenveloped(t, whole, change)
	}
	for name, raw := range map[string][]byte{
		"key":           named(func(e *dsse.Envelope) { e.Signatures[0].KeyID = evil }),
		"payload type":  named(func(e *dsse.Envelope) { e.PayloadType = evil }),
		"version":       resigned(t, k, func(s *Statement) { s.Predicate.Version = evil }),
		"no version":    resigned(t, k, func(s *Statement) { s.Predicate.Version = "" }),
		"platform":      resigned(t, k, func(s *Statement) { s.Predicate.Platform = evil }),
		"type":          resigned(t, k, func(s *Statement) { s.Type = evil }),
		"predicateType": resigned(t, k, func(s *Statement) { s.PredicateType = evil }),
		"entry":         resigned(t, k, func(s *Statement) { s.Predicate.Entries[3].Name = evil }),
		"digest":        resigned(t, k, func(s *Statement) { s.Predicate.Entries[3].SHA256 = evil }),
		"subject":       resigned(t, k, func(s *Statement) { s.Subject[0].Name = evil }),
		"header":        rewritten(whole, head, func(h []byte) { copy(h, evil) }),
		"link":          rewritten(whole, head, func(h []byte) { copy(h, evil); h[typeAt] = tar.TypeSymlink }),
	} {
		for _, o := range []ReadOptions{{Trust: TrustKeys(trusted("release", k))}, {}} {
			if name == "key" && o.Trust == nil {
				continue // signatures are not looked at
			}
			_, _, err := read(t, raw, o)
			if err == nil {
				t.Errorf("%s: accepted", name)
				continue
			}
			for i, line := range strings.Split(err.Error(), "\n") {
				if strings.HasPrefix(line, "VERIFIED") || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("%s: line %d of the error is %q", name, i, line)
				}
			}
		}
	}
}

// reenveloped is a bundle with its envelope changed.
func reenveloped(tb testing.TB, raw []byte, change func(*dsse.Envelope)) []byte {
	tb.Helper()
	envelope, err := readEnvelope(bytes.NewReader(raw))
	if err != nil {
		tb.Fatal(err)
	}
	var e dsse.Envelope
	if err := decodeStrict(envelope, maxWrappers, &e); err != nil {
		tb.Fatal(err)
	}
	change(&e)
	if envelope, err = json.Marshal(e); err != nil {
		tb.Fatal(err)
	}
	return slices.Concat(enclosed(tb, envelope), raw[entryHeads(tb, raw)[0]:])
}

// enclosed is an envelope as the first entry of a bundle.
func enclosed(tb testing.TB, envelope []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := writeEntry(&b, envelopeEntry(envelope), bytes.NewReader(envelope)); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestAListOfManyFaultsNamesTheFirst(t *testing.T) {
	k := key(t, Ed25519)
	raw := resigned(t, k, func(s *Statement) {
		for range 5000 {
			s.Predicate.Entries = append(s.Predicate.Entries, Entry{Name: "/", Size: -1})
		}
	})
	_, _, err := read(t, raw, ReadOptions{})
	if err == nil || len(err.Error()) > 4<<10 || !strings.Contains(err.Error(), "and 19979 faults more") {
		t.Errorf("want twenty faults and the number of others, got %v", err)
	}
}

func TestACancelledReadEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, bytes.NewReader(bundle(t, WriteOptions{})), ReadOptions{Now: now}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("want %v, got %v", context.Canceled, err)
	}
}

// mutations is how many different mutated bundles the test below reads, and drawn how many are drawn at most to find them.
const mutations, drawn = 12_000, 60_000

// maxRead is what the documentation of maxEnvelope says of reading one bundle, in bytes.
const maxRead = 24 * maxEnvelope

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
	o := ReadOptions{Trust: &Trust{Threshold: 1, Keys: []TrustedKey{trusted("a", a), trusted("b", b)}}, Seen: map[string]uint64{a.Public().ID(): 9}}
	if _, _, err := read(t, good, o); err != nil {
		t.Fatal(err)
	}
	blocks, heads := len(good)/blockSize, entryHeads(t, good)
	raw, err := readEnvelope(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	_, payload, err := openEnvelope(raw)
	if err != nil {
		t.Fatal(err)
	}
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
		{"an envelope of a monstrous size", func() []byte {
			return rewritten(good, 0, func(h []byte) {
				copy(h[124:], fmt.Sprintf("%011o\x00", int64(8)<<30-1-random.Int64N(8<<30-maxEnvelope)))
			}) // the size field of a ustar header
		}},
		{"an entry of a monstrous size", func() []byte {
			return rewritten(good, heads[random.IntN(len(heads))], func(h []byte) { copy(h[124:], fmt.Sprintf("%011o\x00", 1501+random.Int64N(8<<30-1501))) })
		}},
		{"a field of a header", func() []byte {
			return rewritten(good, append([]int{0}, heads...)[random.IntN(len(heads)+1)], func(h []byte) {
				i := random.IntN(blockSize - 8)
				if i >= 148 {
					i += 8 // behind the checksum
				}
				h[i] ^= 1 << random.IntN(8)
			})
		}},
		{"a list of other content, signed by nobody", func() []byte {
			return reenveloped(t, good, func(e *dsse.Envelope) {
				i := random.IntN(len(payload))
				edited := slices.Clone(payload)
				edited[i] = byte('0' + (int(edited[i])+1+random.IntN(9))%75)
				e.Payload = base64.StdEncoding.EncodeToString(edited)
			})
		}},
		{"a signature over something else", func() []byte {
			return reenveloped(t, good, func(e *dsse.Envelope) {
				signature := make([]byte, 64)
				for i := range signature {
					signature[i] = byte(random.Uint32())
				}
				e.Signatures[random.IntN(2)].Sig = base64.StdEncoding.EncodeToString(signature)
			})
		}},
		{"two entries in another order", func() []byte {
			i := random.IntN(len(heads) - 1)
			end := len(good) - trailerSize
			if i+2 < len(heads) {
				end = heads[i+2]
			}
			return slices.Concat(good[:heads[i]], good[heads[i+1]:end], good[heads[i]:heads[i+1]], good[end:])
		}},
		{"two entries with each other's content", func() []byte {
			m := slices.Clone(good)
			one, other := heads[0]+blockSize, heads[1]+blockSize // both have one block
			copy(m[one:], good[other:other+blockSize])
			copy(m[other:], good[one:one+blockSize])
			return m
		}},
		{"an entry twice", func() []byte {
			i := random.IntN(len(heads) - 1)
			return slices.Insert(slices.Clone(good), heads[i], good[heads[i]:heads[i+1]]...)
		}},
		{"an entry left out", func() []byte {
			i := random.IntN(len(heads) - 1)
			return slices.Delete(slices.Clone(good), heads[i], heads[i+1])
		}},
		{"a path that leads elsewhere", func() []byte {
			paths := []string{"../../etc/passwd", "/etc/passwd", "a/../../b", `..\windows`, "./lock.json", "lock.json/", "C:/x", "envelope.json"}
			return rewritten(good, heads[random.IntN(len(heads))], func(h []byte) {
				clear(h[:100]) // the name field
				copy(h, paths[random.IntN(len(paths))])
			})
		}},
		{"an entry that is no file", func() []byte {
			return rewritten(good, heads[random.IntN(len(heads))], func(h []byte) {
				h[156] = "123456xgLK"[random.IntN(10)] // links, devices, folders, FIFOs, PAX and GNU extensions
				copy(h[157:], "/etc/passwd")
			})
		}},
	}
	var most uint64
	dearest := ""
	check := func(kind string, m []byte) error {
		before := allocated()
		_, _, err := read(t, m, o)
		if n := allocated() - before; n > most {
			most, dearest = n, kind
		}
		if err == nil {
			t.Fatalf("seed %d (%s): accepted", seed, kind)
		}
		for _, is := range []error{ErrContent, ErrSignature, ErrThreshold, ErrUnsigned, ErrRollback, ErrExpired} {
			if errors.Is(err, is) {
				return is
			}
		}
		t.Errorf("seed %d (%s): %v is none of the package's errors", seed, kind, err)
		return nil
	}
	// Different bundles are what counts: of some kinds there are few.
	seen := map[[sha256.Size]byte]bool{sha256.Sum256(good): true}
	reasons, perKind, changed := map[error]int{}, map[string]int{}, map[string]bool{}
	tried := 0
	for ; len(seen) <= mutations && tried < drawn; tried++ {
		kind := kinds[tried%len(kinds)]
		m := kind.mutate()
		changed[kind.name] = changed[kind.name] || !bytes.Equal(m, good)
		if sum := sha256.Sum256(m); seen[sum] {
			continue
		} else {
			seen[sum] = true
		}
		perKind[kind.name]++
		reasons[check(kind.name, m)]++
	}
	if len(seen) <= mutations {
		t.Errorf("of %d mutations %d were different, want %d", tried, len(seen)-1, mutations)
	}
	for _, kind := range kinds {
		if !changed[kind.name] {
			t.Errorf("%s: changed nothing", kind.name)
		}
	}
	// What a header claims must not be allocated, and an envelope as large as one may be costs what is documented.
	for name, envelope := range monstrous(t, a) {
		reasons[check(name, slices.Concat(enclosed(t, envelope), good[heads[0]:]))]++
	}
	if most > maxRead {
		t.Errorf("reading one mutated bundle allocated %d MiB, want at most %d", most>>20, maxRead>>20)
	}
	t.Logf("one read allocated at most %d KiB (%s)", most>>10, dearest)
	t.Logf("of %d mutations %d were different, all refused: %v, %v", tried, len(seen)-1, perKind, reasons)
}

// monstrous are envelopes of just under the size that is read, each made to be dear.
func monstrous(tb testing.TB, k *PrivateKey) map[string][]byte {
	tb.Helper()
	const room = maxEnvelope - 1<<10
	full := func(n int, statement string, keys ...*PrivateKey) []byte {
		raw, err := envelope([]byte(statement[:min(n, len(statement))]), keys, maxEnvelope)
		if err != nil {
			tb.Fatal(err)
		}
		return raw
	}
	const inPayload = room / 4 * 3
	entries := func(one string) string {
		head := `{"_type":"` + StatementType + `","subject":[],"predicateType":"` + PredicateType + `","predicate":{"serial":9,"version":"x","platform":"a/b","entries":[`
		return head + strings.Repeat(one+",", (inPayload-len(head)-len(one)-4)/(len(one)+1)) + one + "]}}"
	}
	quoted := func(one string) string { return strings.Repeat(one, room/len(one)) }
	const head = `{"payloadType":"` + PayloadType + `","payload":"","signatures":[`
	return map[string][]byte{
		"a signed list of the smallest entries": full(inPayload, entries(`{"name":"","size":0,"sha256":""}`), k),
		"a signed list of odd entries":          full(inPayload, entries(`{}`), k),
		"a signed list of arrays":               full(inPayload, strings.Repeat("[", inPayload), k),
		"an unsigned list":                      full(inPayload, entries(`{"name":"","size":0,"sha256":""}`)),
		"a signed list of as many entries as there may be": func() []byte {
			all := &Statement{Type: StatementType, PredicateType: PredicateType, Subject: []Subject{{Digest: map[string]string{}}}}
			for range maxEntries {
				all.Predicate.Entries = append(all.Predicate.Entries, Entry{Name: strings.Repeat("n", 75), SHA256: strings.Repeat("0", 64)})
			}
			text, err := json.Marshal(all)
			if err != nil {
				tb.Fatal(err)
			}
			return full(len(text), string(text), k)
		}(),
		"nothing but brackets":              bytes.Repeat([]byte("["), room),
		"a string of escapes":               []byte(`{"payloadType":"` + quoted(`\u003c`) + `"}`),
		"a key's name as long as it may be": []byte(head + `{"keyid":"` + strings.Repeat("\u202e", room/6) + `","sig":""}]}`),
		"many signatures":                   []byte(head + strings.Repeat(`{"keyid":"","sig":""},`, room/23) + `{"keyid":"","sig":""}]}`),
	}
}

// allocated is how much this process has allocated so far, in bytes.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// entryHeads are where the headers of the entries behind the envelope begin.
func entryHeads(tb testing.TB, raw []byte) []int {
	tb.Helper()
	var heads []int
	for at := 0; at < len(raw)-trailerSize; {
		size, err := strconv.ParseInt(string(raw[at+124:at+135]), 8, 64)
		if err != nil {
			tb.Fatal(err)
		}
		if at > 0 {
			heads = append(heads, at)
		}
		at += blockSize + int(size+padding(size))
	}
	return heads
}

// rewritten is a bundle with one header changed and its checksum made right again.
func rewritten(raw []byte, at int, change func(header []byte)) []byte {
	m := slices.Clone(raw)
	h := m[at : at+blockSize]
	change(h)
	copy(h[148:], "        ")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return m
}

// resigned is a signed bundle whose list says what this package's own Write refuses to say.
func resigned(tb testing.TB, k *PrivateKey, change func(*Statement)) []byte {
	tb.Helper()
	raw := bundle(tb, WriteOptions{Keys: []*PrivateKey{k}})
	envelope, err := readEnvelope(bytes.NewReader(raw))
	if err != nil {
		tb.Fatal(err)
	}
	e, payload, err := openEnvelope(envelope)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := openStatement(payload)
	if err != nil {
		tb.Fatal(err)
	}
	change(s)
	if payload, err = json.Marshal(s); err != nil {
		tb.Fatal(err)
	}
	e.Payload, e.Signatures = base64.StdEncoding.EncodeToString(payload), nil
	if err := addSignatures(e, payload, []*PrivateKey{k}); err != nil {
		tb.Fatal(err)
	}
	if envelope, err = encodeEnvelope(e, maxEnvelope); err != nil {
		tb.Fatal(err)
	}
	return append(enclosed(tb, envelope), raw[entryHeads(tb, raw)[0]:]...)
}

func TestARefusalNamesWhatIsWrong(t *testing.T) {
	k := key(t, Ed25519)
	good := bundle(t, WriteOptions{Serial: 3, Keys: []*PrivateKey{k}})
	heads := entryHeads(t, good)
	entries := func(change func(*Predicate)) []byte {
		return resigned(t, k, func(s *Statement) { change(&s.Predicate) })
	}
	none := bundle(t, WriteOptions{Serial: 3})
	altered := slices.Clone(good)
	altered[heads[1]+blockSize] ^= 1
	forged := slices.Clone(good)
	at := bytes.Index(forged, []byte(`"sig":"`)) + len(`"sig":"`)
	forged[at] ^= 1 // one letter for another, both of base64's
	typed := func(kind byte) []byte { return rewritten(good, heads[1], func(h []byte) { h[156] = kind }) }
	const foreign = "reading the header of entry 1: it is not that of lock.json with 3 bytes, which the list has there, but of "
	const broken = ": bundle is not what its list says"
	const list = "reading the statement: bundle is not what its list says: "
	for name, tc := range map[string]struct {
		raw   []byte
		trust *Trust
		last  uint64
		want  string
	}{
		"unsigned with a key": {raw: none, want: "verifying the bundle: it is not signed"},
		"a bad signature":     {raw: forged, want: "verifying the bundle: signatures[0] of key release: signature is not valid"},
		"an expired key": {raw: good, trust: &Trust{Threshold: 1, Keys: []TrustedKey{{Name: "release", Expires: now, Key: k.Public()}}},
			want: "verifying the bundle: 0 of 1 needed; key release expired on 2026-11-01: too few signatures"},
		"an older serial": {raw: good, last: 4, want: "verifying the bundle: its serial is 3, the last seen 4 (" + k.Public().ID() + "): bundle is older than the last one seen"},
		"an altered entry": {raw: altered, want: "reading entry 1, lock.json: it hashes to " + hashOf("{}\n", 1) + ", the list has " + hashOf("{}\n", 0) +
			": bundle is not what its list says"},
		"a missing entry": {raw: slices.Concat(good[:heads[1]], good[heads[2]:]), want: "reading the header of entry 1: it is not that of lock.json with 3 bytes, which the " +
			"list has there, but of \"layout/blobs/sha256/" + strings.Repeat("a", 64) + "\" with 1500 bytes: bundle is not what its list says"},
		"a doubled entry": {raw: slices.Concat(good[:heads[2]], good[heads[1]:]), want: "reading the header of entry 2: it is not that of layout/blobs/sha256/" +
			strings.Repeat("a", 64) + " with 1500 bytes, which the list has there, but of \"lock.json\" with 3 bytes: bundle is not what its list says"},
		"an unlisted entry": {raw: slices.Concat(good[:len(good)-trailerSize], good[heads[0]:]), want: "reading the bundle's end: there is content between entries: " +
			"bundle is not what its list says"},
		"an oversized entry": {raw: rewritten(good, heads[1], func(h []byte) { copy(h[124:], "00000000004") }), want: "reading the header of entry 1: it is not that of lock.json " +
			"with 3 bytes, which the list has there, but of \"lock.json\" with 4 bytes: bundle is not what its list says"},
		"a hard link":           {raw: typed('1'), want: foreign + `a hard link, "lock.json"` + broken},
		"a device":              {raw: typed('3'), want: foreign + `a character device, "lock.json"` + broken},
		"a directory":           {raw: typed('5'), want: foreign + `a directory, "lock.json"` + broken},
		"a PAX header":          {raw: typed('x'), want: foreign + `a PAX extension, "lock.json"` + broken},
		"a long name of GNU's":  {raw: typed('L'), want: foreign + `a long name of GNU's, "lock.json"` + broken},
		"a sparse file":         {raw: typed('S'), want: foreign + `a sparse file of GNU's, "lock.json"` + broken},
		"an unknown type":       {raw: typed('?'), want: foreign + `an entry of type '?', "lock.json"` + broken},
		"another owner":         {raw: rewritten(good, heads[1], func(h []byte) { copy(h[108:], "0000001") }), want: foreign + "the same name and size with another mode, owner or time" + broken},
		"a header in GNU's way": {raw: rewritten(good, heads[1], func(h []byte) { copy(h[257:], "ustar  \x00") }), want: foreign + "the same name and size in another format than ustar" + broken},
		"a header that is none": {raw: slices.Concat(good[:heads[1]], bytes.Repeat([]byte("0"), blockSize), good[heads[1]+blockSize:]), want: strings.TrimSuffix(foreign, "of ") + "no header of a tar" + broken},
		"an early end":          {raw: slices.Concat(good[:heads[1]], make([]byte, blockSize), good[heads[1]+blockSize:]), want: strings.TrimSuffix(foreign, "of ") + "the end of the archive" + broken},
		"a list with a path": {raw: entries(func(p *Predicate) { p.Entries[3].Name = "../x" }),
			want: list + `predicate.entries[3].name: "../x" is not a clean relative path`},
		"a list with a name twice": {raw: entries(func(p *Predicate) { p.Entries[3].Name = "lock.json" }),
			want: list + `predicate.entries[3].name: "lock.json" is listed already at predicate.entries[1]`},
		"a list with a monstrous size": {raw: entries(func(p *Predicate) { p.Entries[3].Size = maxEntry + 1 }),
			want: list + `predicate.entries[3].size: 17179869185 is not from 0 to 17179869184`},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.trust == nil {
				tc.trust = TrustKeys(trusted("release", k))
			}
			_, _, err := read(t, tc.raw, ReadOptions{Trust: tc.trust, Seen: map[string]uint64{k.Public().ID(): tc.last}})
			if err == nil {
				t.Fatal("it was accepted")
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

// hashOf is the digest of a text whose first byte has flip's bits changed.
func hashOf(text string, flip byte) string {
	raw := []byte(text)
	raw[0] ^= flip
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func FuzzOpenEnvelope(f *testing.F) {
	good, err := readEnvelope(bytes.NewReader(bundle(f, WriteOptions{Keys: []*PrivateKey{key(f, Ed25519)}})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, payload, err := openEnvelope(raw)
		if err != nil {
			return
		}
		s, err := openStatement(payload)
		if err != nil {
			return
		}
		for _, e := range s.Predicate.Entries {
			if !filepath.IsLocal(e.Name) || e.Size < 0 {
				t.Errorf("the list names %q with %d bytes", e.Name, e.Size)
			}
		}
	})
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
