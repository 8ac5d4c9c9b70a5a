package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/runner/compare"
)

// passphraseVariable holds the passphrase of private keys where there is no terminal to ask at.
const passphraseVariable = "GAPPROOF_PASSPHRASE"

// keyFile is a private key as it lies on the disk.
type keyFile struct {
	path string
	raw  []byte
	key  *signed.PrivateKey // nil where it needs a passphrase
}

// readKeys reads the named files and reports every fault at once. It asks for nothing.
func readKeys(paths []string) ([]keyFile, error) {
	var files []keyFile
	var faults []error
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			faults = append(faults, fmt.Errorf("--key: %w", err))
			continue
		}
		k, err := signed.ParsePrivateKey(raw, nil)
		if err != nil && !errors.Is(err, signed.ErrPassphrase) {
			faults = append(faults, fmt.Errorf("--key %s: %w", path, err))
		}
		files = append(files, keyFile{path, raw, k})
	}
	return files, errors.Join(faults...)
}

// unlock decrypts the keys. A passphrase is asked for once, and only where a key needs one.
func (a *app) unlock(files []keyFile) ([]*signed.PrivateKey, error) {
	var keys []*signed.PrivateKey
	seen := map[string]string{}
	passphrase := []byte(os.Getenv(passphraseVariable))
	for _, f := range files {
		if f.key == nil {
			var err error
			if len(passphrase) == 0 {
				passphrase, err = a.askPassphrase("passphrase of " + f.path)
			}
			if err == nil {
				f.key, err = signed.ParsePrivateKey(f.raw, passphrase)
			}
			if err != nil {
				return nil, usageError{fmt.Errorf("--key %s: %w", f.path, err)}
			}
		}
		id := f.key.Public().ID()
		if first, ok := seen[id]; ok {
			return nil, usageError{fmt.Errorf("--key %s: is the same key as --key %s; one key does not count twice", f.path, first)}
		}
		seen[id] = f.path
		keys = append(keys, f.key)
	}
	return keys, nil
}

// privateKeys reads and decrypts the named files.
func (a *app) privateKeys(paths []string) ([]*signed.PrivateKey, error) {
	files, err := readKeys(paths)
	if err != nil {
		return nil, usageError{err}
	}
	return a.unlock(files)
}

// askPassphrase asks at the terminal; without one it is an error that says what to set.
func (a *app) askPassphrase(what string) ([]byte, error) {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return nil, hinted{fmt.Errorf("%s: there is no terminal to ask at: %w", what, signed.ErrPassphrase), "set " + passphraseVariable}
	}
	fmt.Fprintf(a.err, "%s: ", what)
	raw, err := term.ReadPassword(in)
	fmt.Fprintln(a.err)
	return raw, err
}

func (a *app) bundleKey() *cobra.Command {
	var algorithm, out string
	var plain bool
	c := &cobra.Command{
		Use:   "key",
		Short: "Generate a key pair for signing bundles",
		Long: `key writes FILE.key, the private key, and FILE.pub. The private key is encrypted with the passphrase in ` + passphraseVariable + ` or asked
for at the terminal, in the form that cosign reads; --no-passphrase writes it as plain PKCS#8.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			kind, err := signed.ParseAlgorithm(algorithm)
			if err != nil {
				return usageError{fmt.Errorf("--algorithm: %w", err)}
			}
			var passphrase []byte
			if !plain {
				if passphrase = []byte(os.Getenv(passphraseVariable)); len(passphrase) == 0 {
					if passphrase, err = a.askPassphrase("new passphrase"); err != nil {
						return usageError{err}
					}
				}
				if len(passphrase) == 0 {
					return hinted{usageError{errors.New("the passphrase is empty")}, "--no-passphrase writes a key without one"}
				}
			}
			k, err := signed.GenerateKey(kind)
			if err != nil {
				return err
			}
			private, err := k.PEM(passphrase)
			if err != nil {
				return err
			}
			public, err := k.Public().PEM()
			if err != nil {
				return err
			}
			if err := writeNew(newFile{out + ".key", private, 0o600}, newFile{out + ".pub", public, 0o644}); err != nil {
				if errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
					err = hinted{usageError{err}, "gapproof bundle key --out ANOTHER"}
				}
				return err
			}
			fmt.Fprintf(a.out, "%s.key\n%s.pub\n%s\n", out, out, k.Public().ID())
			return nil
		},
	}
	c.Flags().StringVar(&algorithm, "algorithm", "ecdsa-p256", "ecdsa-p256 or ed25519")
	c.Flags().StringVarP(&out, "out", "o", "gapproof", "path of the key files without their endings")
	c.Flags().BoolVar(&plain, "no-passphrase", false, "do not encrypt the private key")
	return c
}

// newFile is a file that is not there yet.
type newFile struct {
	path string
	data []byte
	mode os.FileMode
}

// writeNew writes all of the files or none. None may exist: a key is never overwritten, and a half of a pair is of no use beside the other half of
// another.
func writeNew(files ...newFile) (err error) {
	var open []*os.File
	defer func() {
		for _, f := range open {
			f.Close()
			if err != nil {
				os.Remove(f.Name())
			}
		}
	}()
	var faults []error
	for _, n := range files {
		f, err := os.OpenFile(n.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, n.mode)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		open = append(open, f)
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	for i, n := range files {
		if _, err := open[i].Write(n.data); err != nil {
			return err
		}
		if err := open[i].Sync(); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) bundleSign() *cobra.Command {
	var keys []string
	var out string
	c := &cobra.Command{
		Use:   "sign FILE",
		Short: "Add signatures to a bundle",
		Long: `sign verifies that the bundle is what its own list says and writes it again with one more signature per --key. What is signed does not
change, so that several people can sign one after the other.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return hinted{usageError{errors.New("--key: is required")}, "gapproof bundle key"}
			}
			if out == "" {
				out = args[0]
			}
			files, err := readKeys(keys)
			if err := errors.Join(checkOut("--out", out), err); err != nil {
				return hinted{usageError{err}, c.CommandPath() + " --help"}
			}
			private, err := a.unlock(files)
			if err != nil {
				return err
			}
			return a.withBundle(args[0], func(f io.Reader) error {
				err := writeFile(out, func(w io.Writer) error {
					_, err := signed.AddSignatures(c.Context(), w, f, private)
					return err
				})
				if errors.Is(err, signed.ErrSigned) {
					return hinted{usageError{err}, "gapproof bundle sign FILE --key PRIVATE, with the key of somebody who has not"}
				}
				if err == nil {
					fmt.Fprintf(a.err, "signed by %d more in %s\n", len(private), out)
				}
				return err
			})
		},
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "private key; may be given several times")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write (default: the bundle itself, replaced in one step)")
	return c
}

// trustHint is how whose signatures count is said.
const trustHint = "--key PUBLIC, the .pub file of whoever made it"

// trustOptions are the flags that say whose signatures a bundle needs.
type trustOptions struct {
	keys     []string
	policy   string
	unsigned bool
}

func (o *trustOptions) flags(c *cobra.Command) {
	o.signedFlags(c)
	c.Flags().BoolVar(&o.unsigned, "unsigned", false, "ask for no signature: integrity alone, from a source that you trust otherwise")
}

// signedFlags are the flags without the one that asks for no signature.
func (o *trustOptions) signedFlags(c *cobra.Command) {
	c.Flags().StringArrayVar(&o.keys, "key", nil, "public key; a signature of any one that is given is enough")
	c.Flags().StringVar(&o.policy, "trust", "", "trust policy with keys and a threshold, instead of --key")
}

// signedTrust reads the keys or the policy, one of which is needed.
func (o *trustOptions) signedTrust() (*signed.Trust, error) {
	if (len(o.keys) > 0) == (o.policy != "") {
		return nil, hinted{usageError{errors.New("one of --key and --trust is needed, and they do not go together")}, trustHint}
	}
	return o.trust()
}

// trust reads the keys or the policy; nil for --unsigned.
func (o *trustOptions) trust() (*signed.Trust, error) {
	given := 0
	for _, is := range []bool{len(o.keys) > 0, o.policy != "", o.unsigned} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, hinted{usageError{errors.New("one of --key, --trust and --unsigned is needed, and no two of them go together")}, trustHint}
	}
	if o.policy != "" {
		raw, err := os.ReadFile(o.policy)
		if err != nil {
			return nil, usageError{fmt.Errorf("--trust: %w", err)}
		}
		t, err := signed.ParseTrust(raw)
		if err != nil {
			return nil, usageError{fmt.Errorf("--trust %s: %w", o.policy, err)}
		}
		return t, nil
	}
	var keys []signed.TrustedKey
	for _, path := range o.keys {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError{fmt.Errorf("--key: %w", err)}
		}
		k, err := signed.ParsePublicKey(raw)
		if err != nil {
			return nil, usageError{fmt.Errorf("--key %s: %w", path, err)}
		}
		keys = append(keys, signed.TrustedKey{Name: path, Key: k})
	}
	if o.unsigned {
		return nil, nil
	}
	return signed.TrustKeys(keys...), nil
}

// withBundle opens a bundle for do and sorts its errors: a bundle that must not be used is a promise that did not hold.
func (a *app) withBundle(path string, do func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return hinted{usageError{fmt.Errorf("opening the bundle: %w", err)}, "gapproof bundle --help"}
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return hinted{usageError{fmt.Errorf("opening the bundle: %s is a folder", path)}, "gapproof bundle --help"}
	}
	end := a.waiting("reading " + path)
	defer end()
	return bundleError(do(f), path)
}

// refused is a bundle that must not be used.
type refused struct{ error }

func (e refused) Unwrap() error { return e.error }

// bundleError makes an error of what a bundle is a refusal, with what can be done about it.
func bundleError(err error, path string) error {
	for _, r := range []struct {
		is   error
		hint string
	}{
		{signed.ErrUnsigned, "gapproof bundle sign FILE --key PRIVATE, where it was made"},
		{signed.ErrSignature, trustHint + "; or it was changed on its way: sha256sum " + compare.ShellQuote(path) + " on both sides"},
		{signed.ErrThreshold, "gapproof bundle sign FILE --key PRIVATE, with the key of somebody who has not signed yet"},
		{signed.ErrExpired, "gapproof bundle create --out FILE --expires DAY, where it was made"},
		{signed.ErrRollback, "gapproof bundle create --out FILE --serial N, with no less than the last seen, where it was made"},
		{bundle.ErrPlatform, "gapproof bundle create --out FILE, on a machine like this one"},
		{bundle.ErrLab, "gapproof bundle create --out FILE, where it was made"},
		{signed.ErrContent, "carry it again: sha256sum " + compare.ShellQuote(path) + " must be the same on both sides"},
	} {
		if errors.Is(err, r.is) {
			return hinted{refused{fmt.Errorf("REFUSED: %w", err)}, r.hint}
		}
	}
	return err
}

func (a *app) bundleVerify() *cobra.Command {
	var o trustOptions
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a bundle from its first byte to its last",
		Long: `verify holds the signatures against the keys or the trust policy, every byte of the bundle against the signed list, and what it carries
against its lock: every image down to its layers, and every file. It writes nothing. What it takes, load takes too.

Exit codes: 0 the bundle may be loaded, 1 it is refused, 2 usage, 4 it could not be read.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o, err := o.read(a)
			if err != nil {
				return err
			}
			return a.withBundle(args[0], func(f io.Reader) error {
				result, _, err := bundle.Verify(c.Context(), f, o)
				if err == nil {
					fmt.Fprintln(a.out, "VERIFIED: "+describeBundle(result))
				}
				return err
			})
		},
	}
	o.flags(c)
	return c
}

// read is what a bundle is held against: the trust, the time, and the serials that this host remembers.
func (o *trustOptions) read(a *app) (signed.ReadOptions, error) {
	trust, err := o.trust()
	if err != nil {
		return signed.ReadOptions{}, err
	}
	seen, err := a.serials().Read()
	return signed.ReadOptions{Trust: trust, Now: time.Now(), Seen: seen}, a.serialsError(err)
}

// describeBundle is one line about a bundle that was read.
func describeBundle(r *signed.Result) string {
	p := r.Statement.Predicate
	by := "no signature asked for"
	if len(r.Signers) > 0 {
		by = "signed by " + strings.Join(r.Signers, " and ")
	}
	return fmt.Sprintf("%d entries, %d MiB, serial %s, made by gapproof %s for %s, %s",
		len(p.Entries), r.Statement.Size()>>20, serialText(p.Serial), p.Version, p.Platform, by)
}

// serialText is a serial, and of 0 what it does not do.
func serialText(serial uint64) string {
	if serial == 0 {
		return "0 (an older bundle could not be told from it)"
	}
	return strconv.FormatUint(serial, 10)
}

func (a *app) bundleLoad() *cobra.Command {
	var o trustOptions
	c := &cobra.Command{
		Use:   "load FILE",
		Short: "Verify a bundle and make it this host's lab",
		Long: `load verifies as verify does while it unpacks beside the lab, and puts the new lab in the old one's place when the last byte was verified.
The serial is remembered for each key that has signed: an older bundle of any of them is refused from then on, whichever other keys are
trusted. It is remembered before the lab changes. One command at a time changes a lab; another one waits.

Exit codes: 0 the bundle is loaded, 1 it is refused, 2 usage, 4 it could not be read or the lab could not be written.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			read, err := o.read(a)
			if err != nil {
				return err
			}
			return a.withBundle(args[0], func(f io.Reader) error {
				var remembered *signed.Result
				result, lock, err := bundle.Load(c.Context(), f, a.labDir(), bundle.LoadOptions{
					ReadOptions: read, Waiting: a.waitingForLab,
					Accept: func(r *signed.Result) error {
						err := a.serials().Remember(c.Context(), r)
						if err == nil {
							remembered = r
						}
						return a.serialsError(err)
					},
				})
				if err != nil && remembered != nil {
					return fmt.Errorf("%w (serial %d is remembered; load it again)", err, remembered.Statement.Predicate.Serial)
				}
				if err != nil {
					return err
				}
				fmt.Fprintln(a.out, "LOADED: "+describeBundle(result))
				fmt.Fprintf(a.err, "lab of %d images in %s\n", len(lock.Images), a.labDir())
				return nil
			})
		},
	}
	o.flags(c)
	return c
}

// serials is where the highest serials that were loaded are kept.
func (a *app) serials() bundle.Serials {
	return bundle.Serials(filepath.Join(a.stateDir, "bundle-serials.json"))
}

// serialsError says what to do about a damaged memory, which is not forgotten by itself: that would let an older bundle in.
func (a *app) serialsError(err error) error {
	if errors.Is(err, bundle.ErrSerials) {
		return hinted{err, "rm " + compare.ShellQuote(string(a.serials())) + ", if you know which bundle was loaded last"}
	}
	return err
}

func (a *app) bundleInspect() *cobra.Command {
	return &cobra.Command{
		Use:   "inspect FILE",
		Short: "Show what a bundle says it holds, after checking that it holds just that",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			lock, s, err := a.inspect(c.Context(), args[0])
			if err != nil {
				return err
			}
			p := s.Predicate
			fmt.Fprintf(a.out, "serial %s · gapproof %s · %s · %d entries · %d MiB · signatures not verified\n\n", serialText(p.Serial), p.Version, p.Platform, len(p.Entries), s.Size()>>20)
			if !p.Expires.IsZero() {
				fmt.Fprintf(a.out, "taken before %s\n\n", p.Expires.Format(time.RFC3339))
			}
			for _, i := range lock.Images {
				fmt.Fprintf(a.out, "%8.1f MiB  %s\n", float64(i.Size)/(1<<20), i.Reference())
			}
			var layout int64
			blobs := 0
			for _, e := range p.Entries {
				if strings.HasPrefix(e.Name, "layout/") {
					layout, blobs = layout+e.Size, blobs+1
				}
			}
			fmt.Fprintf(a.out, "%8.1f MiB  layout/ with the images, %d files\n", float64(layout)/(1<<20), blobs)
			for _, e := range p.Entries {
				if !strings.HasPrefix(e.Name, "layout/") {
					fmt.Fprintf(a.out, "%8.1f MiB  %s sha256:%s\n", float64(e.Size)/(1<<20), e.Name, e.SHA256)
				}
			}
			return nil
		},
	}
}

// inspect reads a bundle whole, without looking at signatures, and returns its lock and statement.
func (a *app) inspect(ctx context.Context, path string) (lock *images.Lock, s *signed.Statement, err error) {
	err = a.withBundle(path, func(f io.Reader) error {
		result, l, err := bundle.Inspect(ctx, f)
		if err != nil {
			return err
		}
		lock, s = l, result.Statement
		return nil
	})
	return lock, s, err
}

func (a *app) bundleDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show what two bundles carry differently",
		Long: `diff compares images by name and digest, and all files of the bundles by content, those of the image layout too: images that are the same
can still travel with another bill of what belongs to them. It exits 1 when the bundles differ.`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			var carried [2]map[string]string
			for i, path := range args {
				lock, s, err := a.inspect(c.Context(), path)
				if err != nil {
					return err
				}
				carried[i] = map[string]string{}
				for _, image := range lock.Images {
					carried[i]["image "+image.Name+":"+image.Tag] = image.Digest
				}
				for _, e := range s.Predicate.Entries {
					kind := "file "
					if strings.HasPrefix(e.Name, "layout/") {
						kind = "part of " // after the images in the order of the lines
					}
					carried[i][kind+e.Name] = "sha256:" + e.SHA256
				}
			}
			if lines := differences(carried[0], carried[1]); len(lines) > 0 {
				fmt.Fprintln(a.out, strings.Join(lines, "\n"))
				return exitError(exitFail)
			}
			fmt.Fprintln(a.out, "the bundles carry the same")
			return nil
		},
	}
}

// differences are the lines that lead from one set of things to the other, sorted by name.
func differences(from, to map[string]string) []string {
	var lines []string
	for name, was := range from {
		switch is, ok := to[name]; {
		case !ok:
			lines = append(lines, "- "+name+" "+was)
		case is != was:
			lines = append(lines, "~ "+name+" "+was+" → "+is)
		}
	}
	for name, is := range to {
		if _, ok := from[name]; !ok {
			lines = append(lines, "+ "+name+" "+is)
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[2:], b[2:]) })
	return lines
}
