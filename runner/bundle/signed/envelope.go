package signed

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// Errors about envelopes, which callers tell apart.
var (
	// ErrUnsigned reports an envelope without any signature.
	ErrUnsigned = errors.New("it is not signed")
	// ErrEnvelope reports bytes that are no envelope around an in-toto statement in the one form in which this package writes it. A bundle's
	// matches [ErrContent] too.
	ErrEnvelope = errors.New("not an envelope as gapproof writes it")
	// ErrSignature reports a signature that does not verify, or is of a key that is not trusted. There is no falling back to another one.
	ErrSignature = errors.New("signature is not valid")
	// ErrThreshold reports too few signatures of keys that have not expired.
	ErrThreshold = errors.New("too few signatures")
	// ErrExpired reports a bundle after its time.
	ErrExpired = errors.New("bundle has expired")
	// ErrRollback reports a bundle that is older than one seen before.
	ErrRollback = errors.New("bundle is older than the last one seen")
	// ErrSigned reports a key that has signed already, which would not count twice.
	ErrSigned = errors.New("it has signed already")
	// ErrContent reports bytes that are not what the list says.
	ErrContent = errors.New("bundle is not what its list says")
)

// envelopeName is the name of the first entry.
const envelopeName = "envelope.json"

// seal makes the envelope's bytes: the statement with signatures of keys, in the order of keys, and none for none.
func seal(s *Statement, keys []*PrivateKey) ([]byte, error) {
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("describing the bundle: %w", err)
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the statement: %w", err)
	}
	if err := decodeStrict(payload, maxObjects, &Statement{}); err != nil {
		return nil, fmt.Errorf("encoding the statement: %w", err)
	}
	return envelope(payload, keys, maxEnvelope)
}

// MaxStatement is how large an envelope of [Sign] may be in bytes: a seal's statement lists up to some hundred thousand packets.
const MaxStatement = 64 << 20

// Sign puts an in-toto statement into an envelope with signatures of keys, in the order of keys. Without any key it is an error.
func Sign(statement []byte, keys []*PrivateKey) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errors.New("signing: no key was given")
	}
	return envelope(statement, keys, MaxStatement)
}

// Countersign adds signatures of keys to an envelope of [Sign]. Those that it has are kept and not verified: whoever relies on them verifies
// them. It returns the statement too, so that the caller can look at what is being signed. The error matches [ErrEnvelope] where raw is none,
// and [ErrSigned].
func Countersign(raw []byte, keys []*PrivateKey) (envelope, statement []byte, err error) {
	e, statement, err := openEnvelope(raw)
	if err != nil {
		return nil, nil, err
	}
	if err := addSignatures(e, statement, keys); err != nil {
		return nil, nil, err
	}
	envelope, err = encodeEnvelope(e, MaxStatement)
	return envelope, statement, err
}

// Open verifies an envelope of [Sign] and returns its statement and the names of the trusted keys whose signatures counted. What kind of
// statement it is, the caller must look at: keys that sign bundles sign others too. now is held against the expiry of keys. The error matches
// [ErrEnvelope], [ErrUnsigned], [ErrSignature] or [ErrThreshold].
func Open(raw []byte, t *Trust, now time.Time) (statement []byte, signers []string, err error) {
	if len(raw) > MaxStatement {
		return nil, nil, fmt.Errorf("reading the envelope: %d bytes, want at most %d: %w", len(raw), MaxStatement, ErrEnvelope)
	}
	e, statement, err := openEnvelope(raw)
	if err != nil {
		return nil, nil, err
	}
	by, err := t.verify(e, statement, now)
	if err != nil {
		return nil, nil, fmt.Errorf("verifying the statement: %w", err)
	}
	return statement, by.names, nil
}

// envelope makes an envelope of at most limit bytes.
func envelope(payload []byte, keys []*PrivateKey, limit int) ([]byte, error) {
	e := &dsse.Envelope{PayloadType: PayloadType, Payload: base64.StdEncoding.EncodeToString(payload), Signatures: []dsse.Signature{}}
	if err := addSignatures(e, payload, keys); err != nil {
		return nil, err
	}
	return encodeEnvelope(e, limit)
}

// addSignatures signs with every key that has not signed yet.
func addSignatures(e *dsse.Envelope, payload []byte, keys []*PrivateKey) error {
	for _, k := range keys {
		for _, s := range e.Signatures {
			if s.KeyID == k.id {
				return fmt.Errorf("signing with key %s: %w", k.id, ErrSigned)
			}
		}
		signature, err := k.sign(dsse.PAE(PayloadType, payload))
		if err != nil {
			return fmt.Errorf("signing with %s: %w", k.id, err)
		}
		e.Signatures = append(e.Signatures, dsse.Signature{KeyID: k.id, Sig: base64.StdEncoding.EncodeToString(signature)})
	}
	return nil
}

func encodeEnvelope(e *dsse.Envelope, limit int) ([]byte, error) {
	raw, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encoding the envelope: %w", err)
	}
	if n := len(e.Signatures); n > maxSignatures {
		return nil, fmt.Errorf("encoding the envelope: %d signatures, at most %d are read", n, maxSignatures)
	}
	if len(raw) > limit {
		return nil, fmt.Errorf("encoding the envelope: %d bytes, at most %d are read", len(raw), limit)
	}
	return raw, nil
}

// openEnvelope takes an envelope apart. Nothing is verified yet, and the payload is not looked into.
func openEnvelope(raw []byte) (e *dsse.Envelope, payload []byte, err error) {
	e = &dsse.Envelope{}
	if err := decodeStrict(raw, maxWrappers, e); err != nil {
		return nil, nil, fmt.Errorf("reading the envelope: %w: %w", ErrEnvelope, err)
	}
	if e.PayloadType != PayloadType {
		return nil, nil, fmt.Errorf("reading the envelope: payloadType is %.100q, want %q: %w", e.PayloadType, PayloadType, ErrEnvelope)
	}
	if payload, err = decodeBase64(e.Payload); err != nil {
		return nil, nil, fmt.Errorf("reading the envelope: payload: %w: %w", ErrEnvelope, err)
	}
	return e, payload, nil
}

// decodeBase64 takes the one standard form of every value: no line ends, no loose bits.
func decodeBase64(s string) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(s)
	if err == nil && base64.StdEncoding.EncodeToString(raw) != s {
		err = errors.New("it has line ends within")
	}
	return raw, err
}

// verified is who has signed.
type verified struct {
	// names are those of the keys that count.
	names []string
	// ids are those of every key, also of one whose time is over.
	ids []string
}

// verify holds the envelope's signatures against the trust. Every signature must be of a trusted key and valid: one that is not is a reason to
// stop, not to look at the next.
func (t *Trust) verify(e *dsse.Envelope, payload []byte, now time.Time) (*verified, error) {
	if len(e.Signatures) == 0 {
		return nil, ErrUnsigned
	}
	message := dsse.PAE(e.PayloadType, payload)
	seen := map[string]bool{}
	by := &verified{}
	var late []string
	for i, s := range e.Signatures {
		key := t.find(s.KeyID)
		if key == nil {
			return nil, fmt.Errorf("signatures[%d]: key %.100q is not trusted: %w", i, s.KeyID, ErrSignature)
		}
		if seen[s.KeyID] {
			return nil, fmt.Errorf("signatures[%d]: key %s has signed twice: %w", i, key.Name, ErrSignature)
		}
		seen[s.KeyID] = true
		signature, err := decodeBase64(s.Sig)
		if err != nil || !key.Key.verifies(message, signature) {
			return nil, fmt.Errorf("signatures[%d] of key %s: %w", i, key.Name, ErrSignature)
		}
		by.ids = append(by.ids, s.KeyID)
		if !key.Expires.IsZero() && !now.Before(key.Expires) {
			late = append(late, fmt.Sprintf("%s expired on %s", key.Name, key.Expires.Format(time.DateOnly)))
			continue
		}
		by.names = append(by.names, key.Name)
	}
	if len(by.names) < t.Threshold {
		return nil, fmt.Errorf("%d of %d needed%s: %w", len(by.names), t.Threshold, join("; key ", late), ErrThreshold)
	}
	return by, nil
}

// join is each of the words with the prefix before it.
func join(prefix string, words []string) string {
	if len(words) == 0 {
		return ""
	}
	return prefix + strings.Join(words, prefix)
}
