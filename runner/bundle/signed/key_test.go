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
	"time"
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
	sec1, err := x509.MarshalECPrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	good, err := key(t, Ed25519).Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		raw             []byte
		public, private error
	}{
		"nothing":              {nil, ErrKeyForm, ErrKeyForm},
		"no PEM":               {[]byte("ssh-ed25519 AAAA"), ErrKeyForm, ErrKeyForm},
		"another block":        {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), ErrKeyForm, ErrKeyForm},
		"another curve":        {pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), ErrKey, ErrKeyForm},
		"another curve's SEC1": {pem.EncodeToMemory(&pem.Block{Type: pemSEC1, Bytes: sec1}), ErrKeyForm, ErrKey},
		"rubbish in a PEM":     {pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: []byte("x")}), ErrKey, ErrKeyForm},
		"two keys":             {append(bytes.Clone(good), good...), ErrKeyForm, ErrKeyForm},
		"a private one":        {pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}), ErrKeyForm, ErrKey},
		"an encrypted file":    {pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: []byte("{}")}), ErrKeyForm, ErrPassphrase},
		"encrypted PKCS#8":     {pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der}), ErrKeyForm, ErrKeyForm},
		"encrypted SEC1":       {pem.EncodeToMemory(&pem.Block{Type: pemSEC1, Headers: map[string]string{"DEK-Info": "AES-256-CBC"}, Bytes: sec1}), ErrKeyForm, ErrKeyForm},
	} {
		if _, err := ParsePublicKey(tt.raw); !errors.Is(err, tt.public) {
			t.Errorf("%s as a public key: want %v, got %v", name, tt.public, err)
		}
		if _, err := ParsePrivateKey(tt.raw, []byte("x")); !errors.Is(err, tt.private) {
			t.Errorf("%s as a private key: want %v, got %v", name, tt.private, err)
		}
	}
}

func TestAKeyOfOpensslSigns(t *testing.T) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: pemSEC1, Bytes: sec1})
	parameters := pem.EncodeToMemory(&pem.Block{Type: pemParameters, Bytes: []byte{6, 8, 42, 134, 72, 206, 61, 3, 1, 7}}) // the name of P-256
	for _, raw := range [][]byte{text, append(parameters, text...)} {
		private, err := ParsePrivateKey(raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Open(alone(t, private), TrustKeys(trusted("k", private)), now); err != nil {
			t.Error(err)
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
	for name, bad := range map[string]string{
		"an unknown field":          good + "threshhold: 2\n",
		"a field in another case":   good + "THRESHOLD: 1\n",
		"a field twice":             good + "threshold: 1\n",
		"a second document":         good + "---\n" + good,
		"a second document, broken": good + "---\n{",
		"nothing":                   "",
		"a time that is none":       good + "    expires: tomorrow\n",
	} {
		if _, err := ParseTrust([]byte(bad)); err == nil {
			t.Errorf("%s was passed over", name)
		}
	}
	trust, err := ParseTrust([]byte("---\n" + good + "    expires: 2027-01-31T00:00:00Z\n---\n"))
	if err == nil {
		t.Errorf("an empty second document was passed over: %+v", trust)
	}
	if trust, err = ParseTrust([]byte("---\n" + good + "    expires: 2027-01-31T00:00:00Z\n")); err != nil || trust.Keys[0].Expires.Format(time.DateOnly) != "2027-01-31" {
		t.Errorf("a key with an end: %+v, %v", trust, err)
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
