package main

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
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/gapproof/gapproof/images"
	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

// passphraseVariable holds the passphrase of private keys where there is no terminal to ask at.
const passphraseVariable = "GAPPROOF_PASSPHRASE"

// packOptions are the flags of bundle create that say how its file is made.
type packOptions struct {
	out     string
	serial  uint64
	expires string
	keys    []string
	include []string
}

func (o *packOptions) flags(c *cobra.Command) {
	c.Flags().StringVarP(&o.out, "out", "o", "", "also write the lab as one bundle into this file, to be carried across the gap")
	c.Flags().Uint64Var(&o.serial, "serial", 0, "the bundle's serial; a site refuses one below the last it has loaded")
	c.Flags().StringVar(&o.expires, "expires", "", "day after which the bundle is refused, such as 2027-01-31")
	c.Flags().StringArrayVar(&o.keys, "key", nil, "private key that signs the bundle; may be given several times")
	c.Flags().StringArrayVar(&o.include, "include", nil, "folder of your own, such as policies, to be carried as include/NAME; may be given several times")
}

// pack writes the lab, this binary, the topologies, the catalogue and the included folders as a bundle.
func (a *app) pack(ctx context.Context, lock *images.Lock, o packOptions) error {
	w := signed.WriteOptions{Root: bundle.SubjectEntry, Serial: o.serial, Version: version, Platform: lock.Platform}
	if o.expires != "" {
		day, err := time.Parse(time.DateOnly, o.expires)
		if err != nil {
			return usageError{fmt.Errorf("--expires: %q is not a day such as 2027-01-31", o.expires)}
		}
		w.Expires = day
	}
	var err error
	if w.Keys, err = a.privateKeys(o.keys); err != nil {
		return err
	}
	sources, err := bundle.Sources(a.labDir())
	if err != nil {
		return err
	}
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	sources = append(sources, signed.Source{Name: "bin/gapproof", Open: func() (io.ReadCloser, error) { return os.Open(own) }})
	for _, of := range []struct {
		fs     fs.FS
		prefix string
	}{{kindconfigs.Files(), "kind-configs/"}, {catalogue.FS, "scenarios/"}} {
		more, err := bundle.FSSources(of.fs, of.prefix)
		if err != nil {
			return err
		}
		sources = append(sources, more...)
	}
	for _, dir := range o.include {
		more, err := bundle.TreeSources(dir, "include/"+filepath.Base(filepath.Clean(dir))+"/")
		if err != nil {
			return usageError{fmt.Errorf("--include: %w", err)}
		}
		sources = append(sources, more...)
	}
	end := a.waiting("writing " + o.out)
	defer end()
	started := time.Now()
	var s *signed.Statement
	err = writeFile(o.out, func(f io.Writer) (err error) {
		s, err = signed.Write(ctx, f, sources, w)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	a.done(fmt.Sprintf("bundle of %d entries, %d MiB, signatures: %d", len(s.Predicate.Entries), s.Size()>>20, len(w.Keys)), time.Since(started))
	return nil
}

// privateKeys reads the named files. A passphrase is asked for once, and only where a key needs one.
func (a *app) privateKeys(paths []string) ([]*signed.PrivateKey, error) {
	var keys []*signed.PrivateKey
	passphrase := []byte(os.Getenv(passphraseVariable))
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return nil, usageError{fmt.Errorf("--key: %w", err)}
		}
		k, err := signed.ParsePrivateKey(raw, passphrase)
		if errors.Is(err, signed.ErrPassphrase) && len(passphrase) == 0 {
			if passphrase, err = a.askPassphrase("passphrase of " + path); err == nil {
				k, err = signed.ParsePrivateKey(raw, passphrase)
			}
		}
		if err != nil {
			return nil, usageError{fmt.Errorf("--key %s: %w", path, err)}
		}
		keys = append(keys, k)
	}
	return keys, nil
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
			if err := errors.Join(writeNew(out+".key", private, 0o600), writeNew(out+".pub", public, 0o644)); err != nil {
				return usageError{err}
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

// writeNew writes a file that must not exist: a key is never overwritten.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
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
			private, err := a.privateKeys(keys)
			if err != nil {
				return err
			}
			if out == "" {
				out = args[0]
			}
			return a.withBundle(args[0], func(f io.Reader) error {
				err := writeFile(out, func(w io.Writer) error {
					_, err := signed.AddSignatures(c.Context(), w, f, private)
					return err
				})
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
		return nil, usageError{errors.New("one of --key and --trust is needed, and they do not go together")}
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
		return nil, usageError{errors.New("one of --key, --trust and --unsigned is needed, and no two of them go together")}
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
		return usageError{fmt.Errorf("opening the bundle: %w", err)}
	}
	defer f.Close()
	end := a.waiting("reading " + path)
	defer end()
	return bundleError(do(f))
}

// refused is a bundle that must not be used.
type refused struct{ error }

func (e refused) Unwrap() error { return e.error }

func bundleError(err error) error {
	for _, is := range []error{
		signed.ErrContent, signed.ErrSignature, signed.ErrThreshold, signed.ErrUnsigned, signed.ErrExpired, signed.ErrRollback, images.ErrNotLocked,
	} {
		if errors.Is(err, is) {
			return refused{fmt.Errorf("REFUSED: %w", err)}
		}
	}
	return err
}

func (a *app) bundleVerify() *cobra.Command {
	var o trustOptions
	c := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a bundle from its first byte to its last",
		Long: `verify holds the signatures against the keys or the trust policy, then every byte of the bundle against the signed list. It writes nothing.

Exit codes: 0 the bundle may be loaded, 1 it is refused, 2 usage, 4 it could not be read.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := o.trust()
			if err != nil {
				return err
			}
			serials, err := a.readSerials()
			if err != nil {
				return err
			}
			return a.withBundle(args[0], func(f io.Reader) error {
				result, err := signed.Read(c.Context(), f, signed.ReadOptions{Trust: trust, Now: time.Now(), Seen: serials},
					func(signed.Entry, io.Reader) error { return nil })
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

// describeBundle is one line about a bundle that was read.
func describeBundle(r *signed.Result) string {
	p := r.Statement.Predicate
	by := "no signature asked for"
	if len(r.Signers) > 0 {
		by = "signed by " + strings.Join(r.Signers, " and ")
	}
	return fmt.Sprintf("%d entries, %d MiB, serial %d, made by gapproof %s for %s, %s",
		len(p.Entries), r.Statement.Size()>>20, p.Serial, p.Version, p.Platform, by)
}

func (a *app) bundleLoad() *cobra.Command {
	var o trustOptions
	c := &cobra.Command{
		Use:   "load FILE",
		Short: "Verify a bundle and make it this host's lab",
		Long: `load verifies as verify does while it unpacks beside the lab, and puts the new lab in the old one's place when the last byte was verified.
The serial is remembered per set of keys: an older bundle of the same signers is refused from then on.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			trust, err := o.trust()
			if err != nil {
				return err
			}
			serials, err := a.readSerials()
			if err != nil {
				return err
			}
			return a.withBundle(args[0], func(f io.Reader) error {
				result, lock, err := bundle.Load(c.Context(), f, a.labDir(), signed.ReadOptions{
					Trust: trust, Now: time.Now(), Seen: serials,
				})
				if err != nil {
					return err
				}
				for _, key := range result.Keys {
					serials[key] = result.Statement.Predicate.Serial
				}
				if err := a.writeSerials(serials); err != nil {
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

// serialsPath is where the highest serials that were loaded are kept.
func (a *app) serialsPath() string { return filepath.Join(a.stateDir, "bundle-serials.json") }

// readSerials are the highest serials by the name of the trust; none were seen where there is no file.
func (a *app) readSerials() (map[string]uint64, error) {
	raw, err := os.ReadFile(a.serialsPath())
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]uint64{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the serials seen: %w", err)
	}
	var serials map[string]uint64
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&serials); err != nil || serials == nil {
		// Forgetting them would let an older bundle in.
		return nil, hinted{fmt.Errorf("reading the serials seen: %s is damaged", a.serialsPath()), "remove it if you know which bundle was loaded last"}
	}
	return serials, nil
}

func (a *app) writeSerials(serials map[string]uint64) error {
	raw, err := json.MarshalIndent(serials, "", "  ")
	if err != nil {
		return fmt.Errorf("keeping the serial: %w", err)
	}
	if err := os.MkdirAll(a.stateDir, 0o700); err != nil {
		return fmt.Errorf("keeping the serial: %w", err)
	}
	return writeFile(a.serialsPath(), func(w io.Writer) error {
		_, err := w.Write(append(raw, '\n'))
		return err
	})
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
			fmt.Fprintf(a.out, "serial %d · gapproof %s · %s · %d entries · %d MiB · signatures not verified\n\n", p.Serial, p.Version, p.Platform, len(p.Entries), s.Size()>>20)
			if !p.Expires.IsZero() {
				fmt.Fprintf(a.out, "expires %s\n\n", p.Expires.Format(time.DateOnly))
			}
			for _, i := range lock.Images {
				fmt.Fprintf(a.out, "%8.1f MiB  %s\n", float64(i.Size)/(1<<20), i.Reference())
			}
			for _, e := range p.Entries {
				if !strings.HasPrefix(e.Name, "layout/") {
					fmt.Fprintf(a.out, "%8.1f MiB  %s sha256:%s\n", float64(e.Size)/(1<<20), e.Name, e.SHA256)
				}
			}
			return nil
		},
	}
}

// lockLimit bounds the lock that is held in memory; a lab's has some ten kilobytes.
const lockLimit = 4 << 20

// inspect reads a bundle whole, without looking at signatures, and returns its lock and statement.
func (a *app) inspect(ctx context.Context, path string) (lock *images.Lock, s *signed.Statement, err error) {
	err = a.withBundle(path, func(f io.Reader) error {
		result, err := signed.Read(ctx, f, signed.ReadOptions{Now: time.Time{}}, func(e signed.Entry, r io.Reader) error {
			if e.Name != "lock.json" {
				return nil
			}
			raw, err := io.ReadAll(io.LimitReader(r, lockLimit))
			if err != nil {
				return err
			}
			lock, err = images.DecodeLock(bytes.NewReader(raw))
			return err
		})
		if err != nil {
			return err
		}
		if lock == nil {
			return fmt.Errorf("looking for its lock: there is none: %w", signed.ErrContent)
		}
		s = result.Statement
		return nil
	})
	return lock, s, err
}

func (a *app) bundleDiff() *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Show what two bundles carry differently",
		Long:  "diff compares images by name and digest and all other files by content. It exits 1 when the bundles differ.",
		Args:  cobra.ExactArgs(2),
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
					if !strings.HasPrefix(e.Name, "layout/") && e.Name != "lock.json" {
						carried[i]["file "+e.Name] = "sha256:" + e.SHA256
					}
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
