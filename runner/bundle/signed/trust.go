package signed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"go.yaml.in/yaml/v3"
)

// The apiVersion and kind of a trust policy.
const (
	trustAPIVersion = "gapproof.dev/v1alpha1"
	trustKind       = "TrustPolicy"
)

// TrustedKey is one key of a trust policy.
type TrustedKey struct {
	// Name is what reports call it.
	Name string
	// Expires is until when its signatures count. Zero means for ever.
	Expires time.Time
	Key     *PublicKey
}

// Trust says whose signatures a bundle needs.
type Trust struct {
	// Threshold is how many keys must have signed.
	Threshold int
	Keys      []TrustedKey
}

// TrustKeys trusts each of the keys alone.
func TrustKeys(keys ...TrustedKey) *Trust { return &Trust{Threshold: 1, Keys: keys} }

// trustFile is a trust policy as a person writes it.
type trustFile struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Threshold  int    `yaml:"threshold"`
	Keys       []struct {
		Name      string  `yaml:"name"`
		PublicKey string  `yaml:"publicKey"`
		Expires   *string `yaml:"expires"`
	} `yaml:"keys"`
}

// ParseTrust reads a trust policy in YAML: apiVersion gapproof.dev/v1alpha1, kind TrustPolicy, threshold, and keys with name, publicKey (PEM)
// and, optionally, expires (RFC 3339). It is one document; fields that are unknown, doubled or in another case are faults, because a policy
// must not mean less than it says. Every fault is reported at once with its field.
func ParseTrust(raw []byte) (*Trust, error) {
	var f trustFile
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	err := d.Decode(&f)
	if errors.Is(err, io.EOF) {
		err = errors.New("it is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the trust policy: %w", err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("reading the trust policy: there is more behind its first document")
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if f.APIVersion != trustAPIVersion || f.Kind != trustKind {
		fault("apiVersion, kind: are %q and %q, want %s and %s", f.APIVersion, f.Kind, trustAPIVersion, trustKind)
	}
	if f.Threshold < 1 || f.Threshold > len(f.Keys) {
		fault("threshold: %d is not from 1 to %d, the number of keys", f.Threshold, len(f.Keys))
	}
	t := &Trust{Threshold: f.Threshold}
	names, ids := map[string]int{}, map[string]int{}
	for i, k := range f.Keys {
		if first, ok := names[k.Name]; ok || k.Name == "" {
			if k.Name == "" {
				fault("keys[%d].name: is required", i)
			} else {
				fault("keys[%d].name: %q is keys[%d]'s already", i, k.Name, first)
			}
		}
		names[k.Name] = i
		var expires time.Time
		if k.Expires != nil {
			if expires, err = time.Parse(time.RFC3339, *k.Expires); err != nil {
				fault("keys[%d].expires: %.100q is not a time such as 2027-01-31T00:00:00Z (RFC 3339)", i, *k.Expires)
			}
		}
		key, err := ParsePublicKey([]byte(k.PublicKey))
		if err != nil {
			fault("keys[%d].publicKey: %w", i, err)
			continue
		}
		if first, ok := ids[key.ID()]; ok {
			fault("keys[%d].publicKey: is the same as keys[%d]'s; one key cannot count twice", i, first)
		}
		ids[key.ID()] = i
		t.Keys = append(t.Keys, TrustedKey{Name: k.Name, Expires: expires, Key: key})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("reading the trust policy: %w", err)
	}
	return t, nil
}

// find is the trusted key with this identifier, nil when there is none.
func (t *Trust) find(id string) *TrustedKey {
	for i := range t.Keys {
		if t.Keys[i].Key.ID() == id {
			return &t.Keys[i]
		}
	}
	return nil
}
