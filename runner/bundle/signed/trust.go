package signed

import (
	"errors"
	"fmt"
	"time"

	"sigs.k8s.io/yaml"
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
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Threshold  int    `json:"threshold"`
	Keys       []struct {
		Name      string    `json:"name"`
		PublicKey string    `json:"publicKey"`
		Expires   time.Time `json:"expires,omitzero"`
	} `json:"keys"`
}

// ParseTrust reads a trust policy in YAML: apiVersion gapproof.dev/v1alpha1, kind TrustPolicy, threshold, and keys with name, publicKey (PEM)
// and, optionally, expires (RFC 3339). Every fault is reported at once with its field.
func ParseTrust(raw []byte) (*Trust, error) {
	var f trustFile
	if err := yaml.UnmarshalStrict(raw, &f); err != nil {
		return nil, fmt.Errorf("reading the trust policy: %w", err)
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
		key, err := ParsePublicKey([]byte(k.PublicKey))
		if err != nil {
			fault("keys[%d].publicKey: %w", i, err)
			continue
		}
		if first, ok := ids[key.ID()]; ok {
			fault("keys[%d].publicKey: is the same as keys[%d]'s; one key cannot count twice", i, first)
		}
		ids[key.ID()] = i
		t.Keys = append(t.Keys, TrustedKey{Name: k.Name, Expires: k.Expires, Key: key})
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
