package signed

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestKeysComeBackAsTheyWent(t *testing.T) {
	for _, a := range []Algorithm{ECDSAP256, Ed25519} {
		for _, passphrase := range []string{"", "correct horse"} {
			k := key(t, a)
			text, err := k.PEM([]byte(passphrase))
			if err != nil {
				t.Fatal(err)
			}
			back, err := ParsePrivateKey(text, []byte(passphrase))
			if err != nil || back.Public().ID() != k.Public().ID() {
				t.Errorf("algorithm %d, passphrase %q: %v", a, passphrase, err)
			}
			if passphrase == "" {
				continue
			}
			for _, wrong := range []string{"", "battery staple"} {
				if _, err := ParsePrivateKey(text, []byte(wrong)); !errors.Is(err, ErrPassphrase) {
					t.Errorf("passphrase %q: want %v, got %v", wrong, ErrPassphrase, err)
				}
			}
		}
		k := key(t, a).Public()
		text, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := ParsePublicKey(text); err != nil || back.ID() != k.ID() {
			t.Errorf("public key of algorithm %d: %v", a, err)
		}
	}
}

func TestForeignKeysAreRefused(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(p384.Public())
	if err != nil {
		t.Fatal(err)
	}
	good, err := key(t, Ed25519).Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"nothing":           nil,
		"no PEM":            []byte("ssh-ed25519 AAAA"),
		"another block":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"another curve":     pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}),
		"rubbish in a PEM":  pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: []byte("x")}),
		"two keys":          append(bytes.Clone(good), good...),
		"a private one":     pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}),
		"an encrypted file": pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: []byte("{}")}),
	} {
		if _, err := ParsePublicKey(raw); !errors.Is(err, ErrKey) {
			t.Errorf("%s as a public key: want %v, got %v", name, ErrKey, err)
		}
		if _, err := ParsePrivateKey(raw, []byte("x")); !errors.Is(err, ErrKey) && !errors.Is(err, ErrPassphrase) {
			t.Errorf("%s as a private key: want %v, got %v", name, ErrKey, err)
		}
	}
}

func TestATrustPolicyNamesEveryFault(t *testing.T) {
	text, err := key(t, Ed25519).Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	indented := "      " + strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", "\n      ") + "\n"
	good := "apiVersion: gapproof.dev/v1alpha1\nkind: TrustPolicy\nthreshold: 1\nkeys:\n  - name: release\n    publicKey: |\n" + indented
	if trust, err := ParseTrust([]byte(good)); err != nil || len(trust.Keys) != 1 || trust.Keys[0].Name != "release" {
		t.Errorf("a good policy: %+v, %v", trust, err)
	}
	bad := strings.NewReplacer("TrustPolicy", "Trust", "threshold: 1", "threshold: 4").Replace(good) +
		fmt.Sprintf("  - name: release\n    publicKey: |\n%s  - publicKey: x\n", indented)
	_, err = ParseTrust([]byte(bad))
	if err == nil {
		t.Fatal("a policy full of faults was read")
	}
	for _, want := range []string{
		`apiVersion, kind: are "gapproof.dev/v1alpha1" and "Trust"`, "threshold: 4 is not from 1 to 3", `keys[1].name: "release" is keys[0]'s already`,
		"keys[1].publicKey: is the same as keys[0]'s", "keys[2].name: is required", "keys[2].publicKey: reading the public key: it has no PEM block",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not among the faults:\n%v", want, err)
		}
	}
	if _, err := ParseTrust([]byte(good + "threshhold: 2\n")); err == nil {
		t.Error("an unknown field was passed over")
	}
}

func FuzzParseKeys(f *testing.F) {
	text, err := key(f, Ed25519).Public().PEM()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(_ *testing.T, raw []byte) {
		_, _ = ParsePublicKey(raw)
		_, _ = ParsePrivateKey(raw, nil)
		_, _ = ParseTrust(raw)
	})
}
