package signed

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// alone is an envelope around a statement of something.
func alone(t *testing.T, keys ...*PrivateKey) []byte {
	t.Helper()
	raw, err := Sign([]byte(`{"_type":"https://in-toto.io/Statement/v1"}`), keys)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestAStatementAloneComesBackWithItsSigners(t *testing.T) {
	a, b := key(t, ECDSAP256), key(t, Ed25519)
	two := &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), trusted("b", b)}}
	raw, statement, err := Countersign(alone(t, a), []*PrivateKey{b})
	if err != nil {
		t.Fatal(err)
	}
	got, signers, err := Open(raw, two, now)
	if err != nil || !bytes.Equal(got, statement) || string(got) != `{"_type":"https://in-toto.io/Statement/v1"}` {
		t.Fatalf("got %q, %v", got, err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, signers); diff != "" {
		t.Errorf("signers (-want +got):\n%s", diff)
	}
	if _, _, err := Countersign(raw, []*PrivateKey{a}); err == nil {
		t.Error("one key signed twice")
	}
	if _, err := Sign([]byte("{}"), nil); err == nil {
		t.Error("nobody signed, and there is an envelope")
	}
}

func TestAStatementAloneIsRefused(t *testing.T) {
	a, stranger := key(t, ECDSAP256), key(t, Ed25519)
	unsigned, err := envelope([]byte("{}"), nil, MaxStatement)
	if err != nil {
		t.Fatal(err)
	}
	both, _, err := Countersign(alone(t, a), []*PrivateKey{stranger})
	if err != nil {
		t.Fatal(err)
	}
	one := TrustKeys(trusted("a", a))
	for name, tt := range map[string]struct {
		raw   []byte
		trust *Trust
		want  error
	}{
		"unsigned":                    {unsigned, one, ErrUnsigned},
		"of a stranger":               {alone(t, stranger), one, ErrSignature},
		"of a stranger too":           {both, one, ErrSignature},
		"of one where two are needed": {alone(t, a), &Trust{Threshold: 2, Keys: []TrustedKey{trusted("a", a), trusted("s", stranger)}}, ErrThreshold},
		"of a key after its time":     {alone(t, a), &Trust{Threshold: 1, Keys: []TrustedKey{{Name: "a", Key: a.Public(), Expires: now.Add(-time.Hour)}}}, ErrThreshold},
		"that is none":                {[]byte("{}"), one, ErrEnvelope},
		"with a line end behind":      {append(alone(t, a), '\n'), one, ErrEnvelope},
	} {
		if got, _, err := Open(tt.raw, tt.trust, now); !errors.Is(err, tt.want) || got != nil {
			t.Errorf("a statement %s: got %q, %v; want %v", name, got, err, tt.want)
		}
	}
}

func TestAStatementThatIsTooLargeIsNotLookedInto(t *testing.T) {
	_, _, err := Open(make([]byte, MaxStatement+1), TrustKeys(), now)
	if want := "reading the envelope: 67108865 bytes, want at most 67108864: "; !errors.Is(err, ErrEnvelope) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
}

func TestNoByteOfAStatementAloneCanBeAnother(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, a := range []Algorithm{ECDSAP256, Ed25519} {
		k := key(t, a)
		raw := alone(t, k)
		for at := range raw {
			edited := bytes.Clone(raw)
			edited[at] ^= 1 << r.IntN(8)
			if got, _, err := Open(edited, TrustKeys(trusted("k", k)), now); err == nil {
				t.Errorf("byte %d from %q to %q: accepted as %s", at, raw[at], edited[at], got)
			}
		}
	}
}
