package signed

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// Errors about keys.
var (
	// ErrPassphrase reports an encrypted key without a passphrase, or with a wrong one.
	ErrPassphrase = errors.New("passphrase is missing or wrong")
	// ErrKeyForm reports a key in a form that is not read, such as encrypted PKCS#8.
	ErrKeyForm = errors.New("key is not in a form that is read: PKCS#8, SEC1 or cosign's, in PEM")
	// ErrKey reports bytes that are no key of a kind this package signs with: ECDSA on P-256, or Ed25519.
	ErrKey = errors.New("not an ECDSA P-256 or Ed25519 key")
)

// Algorithm is a kind of key. The zero value is unknown and invalid.
type Algorithm uint8

// The algorithms.
const (
	AlgorithmUnknown Algorithm = iota
	// ECDSAP256 signs the SHA-256 of a message; signatures are ASN.1, as cosign's are, and deterministic (RFC 6979).
	ECDSAP256
	// Ed25519 signs the message itself (RFC 8032).
	Ed25519
)

// ParseAlgorithm reads "ecdsa-p256" or "ed25519".
func ParseAlgorithm(name string) (Algorithm, error) {
	switch name {
	case "ecdsa-p256":
		return ECDSAP256, nil
	case "ed25519":
		return Ed25519, nil
	}
	return AlgorithmUnknown, fmt.Errorf("%q is not ecdsa-p256 or ed25519", name)
}

// PEM block types.
const (
	pemPrivate = "PRIVATE KEY"    // PKCS#8 (RFC 5958)
	pemSEC1    = "EC PRIVATE KEY" // (RFC 5915)
	// pemParameters comes before a SEC1 key of openssl ecparam -genkey, and says what the key says too.
	pemParameters = "EC PARAMETERS"
	// pemPKCS8 is PKCS#8 that is encrypted (RFC 5958), which this package does not read.
	pemPKCS8     = "ENCRYPTED PRIVATE KEY"
	pemPublic    = "PUBLIC KEY" // SubjectPublicKeyInfo (RFC 5280)
	pemEncrypted = "ENCRYPTED SIGSTORE PRIVATE KEY"
	// pemCosign is what cosign wrote before version 2; the content is the same.
	pemCosign = "ENCRYPTED COSIGN PRIVATE KEY"
)

// PrivateKey signs.
type PrivateKey struct {
	signer crypto.Signer
	id     string
}

// PublicKey verifies.
type PublicKey struct {
	key crypto.PublicKey
	id  string
}

// ID is the key's identifier in envelopes: OpenSSH's SHA-256 fingerprint, which DSSE's own library derives for a key without a name.
func (k *PublicKey) ID() string { return k.id }

// Public is the key that verifies what this one signs.
func (k *PrivateKey) Public() *PublicKey { return &PublicKey{key: k.signer.Public(), id: k.id} }

// GenerateKey makes a key from the system's source of randomness.
func GenerateKey(a Algorithm) (*PrivateKey, error) {
	switch a {
	case ECDSAP256:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generating a key: %w", err)
		}
		return newPrivate(key)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generating a key: %w", err)
		}
		return newPrivate(key)
	}
	return nil, fmt.Errorf("generating a key: algorithm %d: %w", a, ErrKey)
}

func newPrivate(key any) (*PrivateKey, error) {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("it is a %T: %w", key, ErrKey)
	}
	public, err := newPublic(signer.Public())
	if err != nil {
		return nil, err
	}
	return &PrivateKey{signer: signer, id: public.id}, nil
}

func newPublic(key crypto.PublicKey) (*PublicKey, error) {
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("it is on %s: %w", k.Curve.Params().Name, ErrKey)
		}
	default:
		return nil, fmt.Errorf("it is a %T: %w", key, ErrKey)
	}
	id, err := dsse.SHA256KeyID(key)
	if err != nil {
		return nil, fmt.Errorf("naming the key: %w", err)
	}
	return &PublicKey{key: key, id: id}, nil
}

// PEM is the key in PKCS#8, or, with a passphrase, in cosign's form: the same encrypted with scrypt and NaCl's secretbox.
func (k *PrivateKey) PEM(passphrase []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.signer)
	if err != nil {
		return nil, fmt.Errorf("encoding the private key: %w", err)
	}
	if len(passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}), nil
	}
	sealed, err := encrypted.Encrypt(der, passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypting the private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: sealed}), nil
}

// PEM is the key as a SubjectPublicKeyInfo.
func (k *PublicKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

// ParsePrivateKey reads what [PrivateKey.PEM] and cosign write, and what openssl writes without a passphrase: PKCS#8 and SEC1. The passphrase
// is ignored for a key that is not encrypted. The error matches [ErrPassphrase], [ErrKeyForm] or [ErrKey] and never shows the key.
func ParsePrivateKey(raw, passphrase []byte) (*PrivateKey, error) {
	block, err := onlyBlock(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	der := block.Bytes
	parse := x509.ParsePKCS8PrivateKey
	switch block.Type {
	case pemPrivate:
	case pemSEC1:
		if len(block.Headers) > 0 { // Proc-Type and DEK-Info (RFC 1421)
			return nil, fmt.Errorf("reading the private key: it is encrypted by openssl, and must be decrypted first with openssl pkey: %w", ErrKeyForm)
		}
		parse = func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) }
	case pemPKCS8:
		return nil, fmt.Errorf("reading the private key: it is encrypted PKCS#8, and must be decrypted first with openssl pkey: %w", ErrKeyForm)
	case pemEncrypted, pemCosign:
		if len(passphrase) == 0 {
			return nil, fmt.Errorf("reading the private key: it is encrypted: %w", ErrPassphrase)
		}
		if der, err = encrypted.Decrypt(der, passphrase); err != nil {
			return nil, fmt.Errorf("decrypting the private key: %w", ErrPassphrase)
		}
	case pemPublic:
		return nil, fmt.Errorf("reading the private key: it is a public key: %w", ErrKeyForm)
	default:
		return nil, fmt.Errorf("reading the private key: a PEM block %.100q: %w", block.Type, ErrKeyForm)
	}
	key, err := parse(der)
	if err != nil {
		return nil, fmt.Errorf("reading the private key from a PEM block %q: %w", block.Type, ErrKey)
	}
	private, err := newPrivate(key)
	if err != nil {
		return nil, fmt.Errorf("reading the private key: %w", err)
	}
	return private, nil
}

// ParsePublicKey reads a SubjectPublicKeyInfo in PEM. The error matches [ErrKeyForm] or [ErrKey].
func ParsePublicKey(raw []byte) (*PublicKey, error) {
	block, err := onlyBlock(raw)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	switch block.Type {
	case pemPublic:
	case pemPrivate, pemSEC1, pemPKCS8, pemEncrypted, pemCosign:
		return nil, fmt.Errorf("reading the public key: it is a private key: %w", ErrKeyForm)
	default:
		return nil, fmt.Errorf("reading the public key: a PEM block %.100q: %w", block.Type, ErrKeyForm)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w: %w", ErrKey, err)
	}
	public, err := newPublic(key)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	return public, nil
}

// onlyBlock is the PEM block that raw consists of. Parameters before an EC key do not count.
func onlyBlock(raw []byte) (*pem.Block, error) {
	block, rest := pem.Decode(raw)
	if block != nil && block.Type == pemParameters {
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, fmt.Errorf("it has no PEM block: %w", ErrKeyForm)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("it has more than one PEM block: %w", ErrKeyForm)
	}
	return block, nil
}

// sign signs a message, the same one always alike: without a source of randomness crypto/ecdsa signs after RFC 6979, and Ed25519 takes none.
func (k *PrivateKey) sign(message []byte) ([]byte, error) {
	if _, ok := k.signer.(ed25519.PrivateKey); ok {
		return k.signer.Sign(nil, message, crypto.Hash(0))
	}
	sum := sha256.Sum256(message)
	return k.signer.Sign(nil, sum[:], crypto.SHA256)
}

// verifies tells whether signature is the key's for the message.
func (k *PublicKey) verifies(message, signature []byte) bool {
	switch key := k.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(key, message, signature)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		return ecdsa.VerifyASN1(key, sum[:], signature)
	}
	return false
}
