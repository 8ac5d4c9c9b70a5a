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
	"slices"
	"strings"
	"time"
)

// ReadOptions say what a bundle must satisfy. Now is required.
type ReadOptions struct {
	// Trust says whose signatures are needed. Nil asks for integrity alone: signatures are then not looked at.
	Trust *Trust
	// Now is held against the expiry of keys and bundle.
	Now time.Time
	// Seen are the highest serials seen before, by [PublicKey.ID], and by [Unsigned] for bundles of which no signature was asked for. A
	// bundle is refused when it is older than the highest of any trusted key that has signed it.
	Seen map[string]uint64
}

// Unsigned stands for a key where no signature is asked for.
const Unsigned = "unsigned"

// Result is what is known about a bundle that was read.
type Result struct {
	Statement *Statement
	// Signers are the names of the trusted keys whose signatures counted; nil when no trust was asked for.
	Signers []string
	// Keys are the identifiers of the trusted keys that have signed, also of those whose time is over; [Unsigned] alone when no trust was asked
	// for. The bundle's serial is from then on the last seen of each.
	Keys []string
}

// Read verifies a bundle from its first byte to its last and calls each for every entry, in order, with its content. What each leaves unread
// is read for it; an error of it ends the reading. Content is streamed and not yet verified while each sees it; see the package
// comment. The error matches one of this package's: [ErrUnsigned], [ErrSignature], [ErrThreshold], [ErrExpired], [ErrRollback] or
// [ErrContent]. Until the signatures are verified nothing but the envelope is read.
func Read(ctx context.Context, bundle io.Reader, o ReadOptions, each func(Entry, io.Reader) error) (*Result, error) {
	bundle = reader{ctx, bundle}
	raw, err := readEnvelope(bundle)
	if err != nil {
		return nil, err
	}
	e, payload, err := openEnvelope(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrContent, err)
	}
	result := Result{Keys: []string{Unsigned}}
	if o.Trust != nil {
		by, err := o.Trust.verify(e, payload, o.Now)
		if err != nil {
			return nil, fmt.Errorf("verifying the bundle: %w", err)
		}
		result.Signers, result.Keys = by.names, by.ids
	}
	if result.Statement, err = openStatement(payload); err != nil {
		return nil, err
	}
	p := result.Statement.Predicate
	if !p.Expires.IsZero() && !o.Now.Before(p.Expires) {
		return nil, fmt.Errorf("verifying the bundle: on %s: %w", p.Expires.Format(time.RFC3339), ErrExpired)
	}
	if err := result.CheckSerial(o.Seen); err != nil {
		return nil, err
	}
	if err := readEntries(bundle, result.Statement, each); err != nil {
		return nil, err
	}
	return &result, nil
}

// CheckSerial tells whether the bundle is older than one seen before, with the meaning of [ReadOptions]. Who remembers serials asks again
// when nobody else can change them. The error matches [ErrRollback].
func (r *Result) CheckSerial(seen map[string]uint64) error {
	for _, key := range r.Keys {
		if last := seen[key]; r.Statement.Predicate.Serial < last {
			return fmt.Errorf("verifying the bundle: its serial is %d, the last seen %d (%s): %w", r.Statement.Predicate.Serial, last, key, ErrRollback)
		}
	}
	return nil
}

// readEnvelope reads the first entry, whose size is the only thing that the tar itself says and is believed, within a limit.
func readEnvelope(bundle io.Reader) ([]byte, error) {
	head := make([]byte, blockSize)
	if _, err := io.ReadFull(bundle, head); err != nil {
		return nil, fmt.Errorf("reading the bundle's first header: %w", cut(err))
	}
	h, err := tar.NewReader(bytes.NewReader(head)).Next()
	if err != nil {
		return nil, fmt.Errorf("reading the bundle's first header: it is no tar: %w", ErrContent)
	}
	if h.Name != envelopeName || h.Size > maxEnvelope {
		return nil, fmt.Errorf("reading the bundle's first header: %q of %d bytes, want %s of at most %d: %w", h.Name, h.Size, envelopeName, maxEnvelope, ErrContent)
	}
	entry := Entry{Name: envelopeName, Size: h.Size}
	if want, err := header(entry); err != nil || !bytes.Equal(want, head) {
		return nil, fmt.Errorf("reading the bundle's first header: it is not the one gapproof writes: %w", ErrContent)
	}
	raw := make([]byte, h.Size)
	if _, err := io.ReadFull(bundle, raw); err != nil {
		return nil, fmt.Errorf("reading the envelope: %w", cut(err))
	}
	if err := readZeros(bundle, padding(h.Size)); err != nil {
		return nil, fmt.Errorf("reading behind the envelope: %w", err)
	}
	return raw, nil
}

// readEntries reads what the list says, and nothing else.
func readEntries(bundle io.Reader, s *Statement, each func(Entry, io.Reader) error) error {
	head := make([]byte, blockSize)
	for i, e := range s.Predicate.Entries {
		want, err := header(e)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(bundle, head); err != nil {
			return fmt.Errorf("reading the header of entry %d, %s: %w", i, e.Name, cut(err))
		}
		if !bytes.Equal(want, head) {
			return fmt.Errorf("reading the header of entry %d: it is not that of %s with %d bytes, which the list has there,%s: %w", i, e.Name, e.Size, found(head, e), ErrContent)
		}
		if err := readEntry(bundle, e, each); err != nil {
			return fmt.Errorf("reading entry %d, %s: %w", i, e.Name, err)
		}
	}
	if err := readZeros(bundle, trailerSize); err != nil {
		return fmt.Errorf("reading the bundle's end: %w", err)
	}
	if n, err := io.ReadFull(bundle, make([]byte, 1)); n > 0 {
		return fmt.Errorf("reading the bundle's end: there is more behind it: %w", ErrContent)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the bundle's end: %w", err)
	}
	return nil
}

func readEntry(bundle io.Reader, e Entry, each func(Entry, io.Reader) error) error {
	h := sha256.New()
	content := &io.LimitedReader{R: bundle, N: e.Size}
	hashed := io.TeeReader(content, h)
	if err := each(e, hashed); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, hashed); err != nil {
		return err
	}
	if content.N > 0 {
		return fmt.Errorf("%d bytes are missing: %w", content.N, ErrContent)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != e.SHA256 {
		return fmt.Errorf("it hashes to %s, the list has %s: %w", got, e.SHA256, ErrContent)
	}
	return readZeros(bundle, padding(e.Size))
}

// readZeros reads n bytes, which must all be zero.
func readZeros(r io.Reader, n int64) error {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return cut(err)
	}
	for _, c := range b {
		if c != 0 {
			return fmt.Errorf("there is content between entries: %w", ErrContent)
		}
	}
	return nil
}

// cut makes an early end a fault of the content; other errors stay what they are.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("it ends too early: %w", ErrContent)
	}
	return err
}

// foreignTypes are the types of ustar, PAX and GNU entries that a bundle cannot have.
var foreignTypes = map[byte]string{
	tar.TypeLink: "a hard link", tar.TypeSymlink: "a symbolic link", tar.TypeChar: "a character device", tar.TypeBlock: "a block device",
	tar.TypeDir: "a directory", tar.TypeFifo: "a FIFO", tar.TypeCont: "a contiguous file",
	tar.TypeXHeader: "a PAX extension", tar.TypeXGlobalHeader: "a global PAX extension",
	tar.TypeGNULongName: "a long name of GNU's", tar.TypeGNULongLink: "a long link of GNU's", tar.TypeGNUSparse: "a sparse file of GNU's",
}

// The places of a ustar header that tell it from the one the list allows.
const (
	typeAt  = 156
	magicAt = 257
	magic   = "ustar\x0000" // with the version; GNU's has spaces
)

// found is what a foreign header is, for the error.
func found(head []byte, want Entry) string {
	if !slices.ContainsFunc(head, func(b byte) bool { return b != 0 }) {
		return " but the end of the archive"
	}
	name, _, _ := strings.Cut(string(head[:maxName]), "\x00")
	if kind := head[typeAt]; kind != tar.TypeReg {
		what, ok := foreignTypes[kind]
		if !ok {
			what = fmt.Sprintf("an entry of type %q", kind)
		}
		return fmt.Sprintf(" but of %s, %q", what, name)
	}
	h, err := tar.NewReader(bytes.NewReader(head)).Next()
	switch {
	case err != nil:
		return " but no header of a tar"
	case h.Name != want.Name || h.Size != want.Size:
		return fmt.Sprintf(" but of %q with %d bytes", h.Name, h.Size)
	case string(head[magicAt:magicAt+len(magic)]) != magic:
		return " but of the same name and size in another format than ustar"
	}
	return " but of the same name and size with another mode, owner or time"
}
