package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/images"
	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/bundle/signed"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

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
	c.Flags().Uint64Var(&o.serial, "serial", 0, "the bundle's serial; a site refuses one below the last it has loaded of the same key, and tells none from another by 0")
	c.Flags().StringVar(&o.expires, "expires", "", "last day, in UTC, on which the bundle is taken, such as 2027-01-31")
	c.Flags().StringArrayVar(&o.keys, "key", nil, "private key that signs the bundle; may be given several times")
	c.Flags().StringArrayVar(&o.include, "include", nil, "folder of your own, such as policies, to be carried as include/NAME; may be given several times")
}

// packing is how a bundle is written.
type packing struct {
	out     string
	options signed.WriteOptions
	include []signed.Source
}

// packing checks every flag before anything is built, since a build takes minutes, and asks for a passphrase where one is needed. Every fault is
// reported at once. It is nil where no bundle is asked for.
func (a *app) packing(c *cobra.Command, o packOptions, now time.Time) (*packing, error) {
	var faults []error
	if o.out == "" {
		for _, flag := range []string{"serial", "expires", "key", "include"} {
			if c.Flags().Changed(flag) {
				faults = append(faults, fmt.Errorf("--%s: is about a bundle, and no --out is given", flag))
			}
		}
		return nil, usage(errors.Join(faults...))
	}
	p := &packing{out: o.out, options: signed.WriteOptions{Root: bundle.SubjectEntry, Serial: o.serial, Version: version}}
	if err := checkOut("--out", o.out); err != nil {
		faults = append(faults, err)
	}
	if o.expires != "" {
		day, err := time.Parse(time.DateOnly, o.expires)
		p.options.Expires = day.AddDate(0, 0, 1) // good through that day
		switch {
		case err != nil:
			faults = append(faults, fmt.Errorf("--expires: %q is not a day such as 2027-01-31", o.expires))
		case !now.Before(p.options.Expires):
			faults = append(faults, fmt.Errorf("--expires: %s is over", o.expires))
		}
	}
	included := map[string]string{}
	for _, dir := range o.include {
		more, err := includedFolder(dir, included)
		faults = append(faults, err)
		p.include = append(p.include, more...)
	}
	files, err := readKeys(o.keys)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, usage(err)
	}
	p.options.Keys, err = a.unlock(files)
	return p, err
}

// includedFolder are the files of one folder that is carried beside the lab. seen are the folders before it by the names they have in the bundle.
func includedFolder(dir string, seen map[string]string) ([]signed.Source, error) {
	whole, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("--include %s: %w", dir, err)
	}
	name := filepath.Base(whole)
	if first, ok := seen[name]; ok {
		return nil, fmt.Errorf("--include %s: include/%s is that of --include %s already", dir, name, first)
	}
	seen[name] = dir
	if info, err := os.Stat(whole); err != nil {
		return nil, fmt.Errorf("--include: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("--include %s: is no folder", dir)
	}
	sources, err := bundle.TreeSources(whole, "include/"+name+"/")
	if err != nil {
		return nil, fmt.Errorf("--include %s: %w", dir, err)
	}
	var faults []error
	for _, s := range sources {
		if err := signed.ValidateName(s.Name); err != nil {
			faults = append(faults, fmt.Errorf("--include %s: %w", dir, err))
		}
	}
	return sources, errors.Join(faults...)
}

// checkOut says what keeps a file from being written, before what is written into it is made.
func checkOut(flag, path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %s is no regular file", flag, path)
	}
	dir := filepath.Dir(path)
	if info, err := os.Stat(dir); err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s: %s is no folder", flag, dir)
	}
	f, err := os.CreateTemp(dir, ".gapproof-*")
	if err != nil {
		return fmt.Errorf("%s: nothing can be written into %s: %w", flag, dir, errors.Unwrap(err))
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// usage makes an error of flags one of usage, with where to read about them.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return hinted{usageError{err}, "gapproof bundle create --help"}
}

// pack writes the lab, this binary, the topologies, the catalogue and the included folders as a bundle. The lab must still be the one of lock:
// what another command has put in its place was not asked for, and is not signed.
func (a *app) pack(ctx context.Context, lock *images.Lock, p *packing) error {
	release, err := bundle.LockLab(ctx, a.labDir(), a.waitingForLab)
	if err != nil {
		return err
	}
	defer release()
	if err := a.sameLab(lock); err != nil {
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
	sources = append(sources, p.include...)
	end := a.waiting("writing " + p.out)
	defer end()
	started := time.Now()
	p.options.Platform = lock.Platform
	var s *signed.Statement
	err = writeFile(p.out, func(f io.Writer) (err error) {
		s, err = signed.Write(ctx, f, sources, p.options)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing the bundle: %w", err)
	}
	a.done(fmt.Sprintf("bundle of %d entries, %d MiB, signatures: %d", len(s.Predicate.Entries), s.Size()>>20, len(p.options.Keys)), time.Since(started))
	if s.Predicate.Serial == 0 {
		fmt.Fprintln(a.err, "its serial is 0: a site could not tell an older bundle from it; --serial N, higher with every bundle, says which is newer")
	}
	return nil
}

// sameLab tells whether the lab directory is the lab of the lock.
func (a *app) sameLab(lock *images.Lock) error {
	there, err := images.ReadLock(a.labDir())
	if err != nil {
		return err
	}
	want, errWant := lock.Encode()
	got, errGot := there.Encode()
	if err := errors.Join(errWant, errGot); err != nil {
		return err
	}
	if !bytes.Equal(want, got) {
		return hinted{fmt.Errorf("writing the bundle: another command has put another lab into %s meanwhile", a.labDir()), "gapproof bundle create, when nobody else uses this --cache-dir"}
	}
	return nil
}

// waitingForLab says why nothing happens.
func (a *app) waitingForLab() {
	fmt.Fprintf(a.err, "  … waiting for another command that makes, loads or carries the lab in %s\n", a.labDir())
}
