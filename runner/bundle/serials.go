package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/runner/internal/wholefile"
)

// ErrSerials reports a memory of serials that cannot be relied on. Going on without it would let an older bundle in.
var ErrSerials = errors.New("the file of the serials seen is damaged")

// maxSerials bounds the file in bytes: it has a line for each key that this host has ever trusted.
const maxSerials = 1 << 20

// serialKey is the form of a key's identifier there: OpenSSH's fingerprint, or the word for none.
var serialKey = regexp.MustCompile(`^(?:` + signed.Unsigned + `|SHA256:[A-Za-z0-9+/]{43})$`)

// Serials is the file in which a host remembers, by the identifiers of keys, the highest serial that it has loaded of each: a JSON object of
// numbers, in one form. It does not have to exist.
type Serials string

// Read returns what is remembered. The error matches [ErrSerials] where the file is not one that Remember has written.
func (s Serials) Read() (map[string]uint64, error) {
	info, err := os.Stat(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]uint64{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the serials seen: %w", err)
	}
	if info.Size() > maxSerials {
		return nil, fmt.Errorf("reading the serials seen: %s has %d bytes: %w", string(s), info.Size(), ErrSerials)
	}
	raw, err := os.ReadFile(string(s))
	if err != nil {
		return nil, fmt.Errorf("reading the serials seen: %w", err)
	}
	var seen map[string]uint64
	if err := json.Unmarshal(raw, &seen); err != nil {
		return nil, fmt.Errorf("reading the serials seen: %s: %w: %w", string(s), ErrSerials, err)
	}
	// A key that is there twice, a number written otherwise or bytes behind show here.
	if again, err := encodeSerials(seen); err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("reading the serials seen: %s is not in the form in which gapproof writes it: %w", string(s), ErrSerials)
	}
	for key := range seen {
		if !serialKey.MatchString(key) {
			return nil, fmt.Errorf("reading the serials seen: %s: %.100q is no key: %w", string(s), key, ErrSerials)
		}
	}
	return seen, nil
}

// Remember makes the bundle's serial the last one seen of every key that has signed it, after holding it once more against what is remembered
// by then. When it returns, that is on the disk. Others that remember meanwhile are waited for, until ctx ends. The error matches
// [signed.ErrRollback] where another bundle of a key came first.
func (s Serials) Remember(ctx context.Context, r *signed.Result) error {
	if err := os.MkdirAll(filepath.Dir(string(s)), 0o700); err != nil {
		return fmt.Errorf("remembering the serial: %w", err)
	}
	release, err := lockFile(ctx, string(s)+".lock", func() {})
	if err != nil {
		return fmt.Errorf("remembering the serial: %w", err)
	}
	defer release()
	seen, err := s.Read()
	if err != nil {
		return err
	}
	if err := r.CheckSerial(seen); err != nil {
		return err
	}
	changed := false
	for _, key := range r.Keys {
		if serial := r.Statement.Predicate.Serial; serial > seen[key] {
			seen[key], changed = serial, true
		}
	}
	if !changed {
		return nil
	}
	raw, err := encodeSerials(seen)
	if err != nil {
		return fmt.Errorf("remembering the serial: %w", err)
	}
	if err := wholefile.Replace(string(s), 0o600, func(w io.Writer) error { _, err := w.Write(raw); return err }); err != nil {
		return fmt.Errorf("remembering the serial: %w", err)
	}
	return nil
}

func encodeSerials(seen map[string]uint64) ([]byte, error) {
	if seen == nil {
		return nil, errors.New("it is null")
	}
	raw, err := json.MarshalIndent(seen, "", "  ")
	return append(raw, '\n'), err
}
