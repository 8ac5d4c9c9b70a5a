package signed

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// Source is one file that goes into a bundle.
type Source struct {
	// Name is the entry's name; see [Entry].
	Name string
	// Open opens its content. It is called twice, for hashing and for writing; content that changes in between is an error.
	Open func() (io.ReadCloser, error)
}

// WriteOptions describe a bundle. All but Expires and Keys are required.
type WriteOptions struct {
	// Root is the name of the source that the statement is about.
	Root string
	// Serial, Version, Platform and Expires are the predicate's.
	Serial            uint64
	Version, Platform string
	Expires           time.Time
	// Keys sign, in this order. Without any the bundle is not signed.
	Keys []*PrivateKey
}

// Write writes a bundle of the sources in their order and returns what it says of itself. The same sources and options give the same
// bytes, signatures too.
func Write(ctx context.Context, w io.Writer, sources []Source, o WriteOptions) (*Statement, error) {
	s := &Statement{
		Type: StatementType, PredicateType: PredicateType,
		Predicate: Predicate{Serial: o.Serial, Expires: o.Expires.UTC(), Version: o.Version, Platform: o.Platform, Entries: []Entry{}},
	}
	for _, source := range sources {
		entry, err := describe(ctx, source)
		if err != nil {
			return nil, err
		}
		s.Predicate.Entries = append(s.Predicate.Entries, entry)
		if source.Name == o.Root {
			s.Subject = []Subject{{Name: entry.Name, Digest: map[string]string{"sha256": entry.SHA256}}}
		}
	}
	envelope, err := seal(s, o.Keys)
	if err != nil {
		return nil, err
	}
	if err := writeEntry(w, envelopeEntry(envelope), bytes.NewReader(envelope)); err != nil {
		return nil, err
	}
	for i, source := range sources {
		if err := copySource(ctx, w, source, s.Predicate.Entries[i]); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(make([]byte, trailerSize)); err != nil {
		return nil, fmt.Errorf("ending the bundle: %w", err)
	}
	return s, nil
}

// describe hashes a source.
func describe(ctx context.Context, source Source) (Entry, error) {
	r, err := source.Open()
	if err != nil {
		return Entry{}, fmt.Errorf("opening %s for the bundle: %w", source.Name, err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, reader{ctx, r})
	if err != nil {
		return Entry{}, fmt.Errorf("reading %s for the bundle: %w", source.Name, err)
	}
	return Entry{Name: source.Name, Size: n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

// copySource writes one source, which must still be what it was when it was hashed.
func copySource(ctx context.Context, w io.Writer, source Source, entry Entry) error {
	r, err := source.Open()
	if err != nil {
		return fmt.Errorf("opening %s for the bundle: %w", source.Name, err)
	}
	defer r.Close()
	h := sha256.New()
	if err := writeEntry(w, entry, io.TeeReader(reader{ctx, r}, h)); err != nil {
		return err
	}
	if n, _ := r.Read(make([]byte, 1)); n > 0 || hex.EncodeToString(h.Sum(nil)) != entry.SHA256 {
		return fmt.Errorf("writing %s into the bundle: it changed meanwhile", source.Name)
	}
	return nil
}

// reader ends a long read when its context does.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// The shape of a tar (POSIX.1-1988, ustar).
const (
	// blockSize is what headers have and contents are filled up to.
	blockSize = 512
	// trailerSize is the end of archive: two blocks of zeros, and nothing behind them.
	trailerSize = 2 * blockSize
	// entryMode is every entry's: who unpacks one by hand can read it.
	entryMode = 0o644
)

// header is the only header that an entry can have: a regular file of nobody's, from the beginning of time.
func header(e Entry) ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	err := t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: e.Name, Size: e.Size, Mode: entryMode, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	})
	if err != nil {
		return nil, fmt.Errorf("making the header of %s: %w", e.Name, err)
	}
	if b.Len() != blockSize {
		return nil, fmt.Errorf("making the header of %s: %d bytes, want %d", e.Name, b.Len(), blockSize)
	}
	return b.Bytes(), nil
}

func writeEntry(w io.Writer, e Entry, content io.Reader) error {
	head, err := header(e)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("writing %s into the bundle: %w", e.Name, err)
	}
	if n, err := io.CopyN(w, content, e.Size); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("it has %d bytes instead of %d: %w", n, e.Size, io.ErrUnexpectedEOF)
		}
		return fmt.Errorf("writing %s into the bundle: %w", e.Name, err)
	}
	if _, err := w.Write(make([]byte, padding(e.Size))); err != nil {
		return fmt.Errorf("writing %s into the bundle: %w", e.Name, err)
	}
	return nil
}

// padding is how many zeros follow a content of this size.
func padding(size int64) int64 { return (blockSize - size%blockSize) % blockSize }

// envelopeEntry describes the envelope itself, whose digest nobody lists: its signatures vouch for it.
func envelopeEntry(raw []byte) Entry { return Entry{Name: envelopeName, Size: int64(len(raw))} }

// AddSignatures copies a bundle and adds the signatures of keys to it. Signatures that it has are kept and not verified: whoever relies on them
// verifies them. The rest of the bundle is held against its list while it is copied, so that nobody signs what is broken.
func AddSignatures(ctx context.Context, w io.Writer, bundle io.Reader, keys []*PrivateKey) (*Statement, error) {
	raw, err := readEnvelope(bundle)
	if err != nil {
		return nil, err
	}
	e, payload, err := openEnvelope(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	s, err := openStatement(payload)
	if err != nil {
		return nil, err
	}
	if err := addSignatures(e, payload, keys); err != nil {
		return nil, err
	}
	if raw, err = encodeEnvelope(e, maxEnvelope); err != nil {
		return nil, err
	}
	if err := writeEntry(w, envelopeEntry(raw), bytes.NewReader(raw)); err != nil {
		return nil, err
	}
	return s, readEntries(io.TeeReader(reader{ctx, bundle}, w), s, func(Entry, io.Reader) error { return nil })
}

// openStatement reads a payload whose signatures have been verified, or that is about to be signed.
func openStatement(payload []byte) (*Statement, error) {
	var s Statement
	if err := decodeStrict(payload, maxObjects, &s); err != nil {
		return nil, fmt.Errorf("reading the statement: %w: %w", ErrContent, err)
	}
	if err := s.validate(); err != nil {
		return nil, fmt.Errorf("reading the statement: %w: %w", ErrContent, err)
	}
	return &s, nil
}
