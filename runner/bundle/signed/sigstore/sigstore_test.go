// Package sigstore holds what runner/bundle/signed writes against sigstore's own code: its DSSE verifier accepts our envelopes, and its key
// reader our encrypted keys.
//
// It is a module of its own because nothing that is shipped may need sigstore's dependencies. No code that ships belongs here.
package sigstore

import (
	"archive/tar"
	"bytes"
	"crypto"
	"io"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"github.com/gapproof/gapproof/runner/bundle/signed"
)

// envelope is the first entry of a bundle, read with nothing but a tar reader.
func envelope(t *testing.T, keys ...*signed.PrivateKey) []byte {
	t.Helper()
	open := func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("{}")), nil }
	var b bytes.Buffer
	_, err := signed.Write(t.Context(), &b, []signed.Source{{Name: "layout/index.json", Open: open}},
		signed.WriteOptions{Root: "layout/index.json", Version: "test", Platform: "linux/amd64", Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&b)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func verifier(t *testing.T, k *signed.PrivateKey) signature.Verifier {
	t.Helper()
	text, err := k.Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSigstoreAcceptsOurEnvelopes(t *testing.T) {
	for name, algorithm := range map[string]signed.Algorithm{"ECDSA P-256": signed.ECDSAP256, "Ed25519": signed.Ed25519} {
		t.Run(name, func(t *testing.T) {
			ours, other, err := pair(algorithm)
			if err != nil {
				t.Fatal(err)
			}
			raw := envelope(t, ours, other)
			if err := dsse.WrapVerifier(verifier(t, ours)).VerifySignature(bytes.NewReader(raw), nil); err != nil {
				t.Errorf("one key of two: %v", err)
			}
			both := dsse.WrapMultiVerifier(signed.PayloadType, 2, verifier(t, ours), verifier(t, other))
			if err := both.VerifySignature(bytes.NewReader(raw), nil); err != nil {
				t.Errorf("two keys of two: %v", err)
			}
			if err := dsse.WrapVerifier(verifier(t, other)).VerifySignature(bytes.NewReader(envelope(t, ours)), nil); err == nil {
				t.Error("a stranger's key was accepted")
			}
		})
	}
}

func pair(a signed.Algorithm) (one, other *signed.PrivateKey, err error) {
	if one, err = signed.GenerateKey(a); err != nil {
		return nil, nil, err
	}
	other, err = signed.GenerateKey(a)
	return one, other, err
}

func TestSigstoreReadsOurEncryptedKeys(t *testing.T) {
	k, err := signed.GenerateKey(signed.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PEM([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(text, cryptoutils.StaticPasswordFunc([]byte("correct horse")))
	if err != nil {
		t.Fatal(err)
	}
	signer, ok := private.(crypto.Signer)
	if !ok {
		t.Fatalf("it is a %T, want a signer", private)
	}
	want, err := k.Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	got, err := cryptoutils.MarshalPublicKeyToPEM(signer.Public())
	if err != nil || !bytes.Equal(want, got) {
		t.Errorf("sigstore reads another key than was written: %v", err)
	}
}
