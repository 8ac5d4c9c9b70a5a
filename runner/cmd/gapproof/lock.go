package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/bundle/upstream"
	"github.com/gapproof/gapproof/runner/compare"
)

// The values of --source.
const (
	sourceModules  = "modules"
	sourceUpstream = "upstream"
)

// sourceOptions are the flags that say where images come from.
type sourceOptions struct {
	imagesDir, source string
	registries        []string
}

func (o *sourceOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.imagesDir, "images", "images", "images folder of a checkout")
	c.Flags().StringArrayVar(&o.registries, "registry", nil,
		"ask MIRROR, a host with a port and a path if it has them, in place of the registry HOST, as HOST=MIRROR; may be given several times")
}

// upstream reads the list of what may be pulled and makes the client that pulls it.
func (o *sourceOptions) upstream(a *app) (*bundle.Upstream, error) {
	list, err := bundle.ReadUpstream(o.imagesDir)
	if err != nil {
		return nil, usageError{err}
	}
	mirrors, err := list.Mirrored(o.registries)
	if err != nil {
		return nil, usageError{fmt.Errorf("--registry: %w", err)}
	}
	client, err := upstream.NewClient(upstream.Options{Mirrors: mirrors, Log: a.log})
	if err != nil {
		return nil, err
	}
	return &bundle.Upstream{List: list, Client: client}, nil
}

// hint is the command that takes the digests of the list.
func (o *sourceOptions) hint() string {
	hint := "gapproof bundle lock"
	if o.imagesDir != "images" {
		hint += " --images " + compare.ShellQuote(o.imagesDir)
	}
	return hint
}

// check says what is wrong with the flags of create.
func (o *sourceOptions) check() error {
	switch {
	case o.source == sourceModules && len(o.registries) > 0:
		return hinted{usageError{errors.New("--registry: nothing is pulled from --source modules")}, "gapproof bundle create --source upstream"}
	case o.source != sourceModules && o.source != sourceUpstream:
		return usageError{fmt.Errorf("--source: %q is not %s or %s", o.source, sourceModules, sourceUpstream)}
	}
	return nil
}

// create makes the lab from the source that was asked for.
func (a *app) create(ctx context.Context, from sourceOptions, o bundle.Options) (*images.Lock, error) {
	if from.source == sourceModules {
		return bundle.CreateFromModules(ctx, a.labDir(), o)
	}
	u, err := from.upstream(a)
	if err != nil {
		return nil, err
	}
	lock, err := bundle.CreateFromUpstream(ctx, a.labDir(), *u, o)
	var open *upstream.UnresolvedError
	if errors.As(err, &open) {
		return nil, hinted{usageError{err}, from.hint()}
	}
	return lock, err
}

func (a *app) bundleLock() *cobra.Command {
	var from sourceOptions
	var verify bool
	c := &cobra.Command{
		Use:   "lock [IMAGE ...]",
		Short: "Take the digests of the images that may be pulled, or tell which tags have drifted",
		Long: `lock asks the registries what the tags in images/upstream.yaml mean, checks that each is an index with an image for this platform, and
writes the digests, with today's date where one changed, into that file; comments stay. Where one tag cannot be resolved nothing is
written. With names of images, such as registry.k8s.io/etcd, it asks for those alone. Review the change as you would any other: from then on bundle create --source upstream pulls these digests and nothing else.

--verify writes nothing and tells which tags stand for something else than the file says. It exits 1 when one has drifted; else 4 when a
registry could not be asked, 2 when a digest is not known yet, and 0 when all are as written.`,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			u, err := from.upstream(a)
			if err != nil {
				return err
			}
			asked, err := u.List.Named(args)
			if err != nil {
				return usageError{err}
			}
			end := a.waiting(fmt.Sprintf("asking for %d tags", len(asked)))
			answers := u.Client.Resolve(c.Context(), asked, bundle.Platform())
			end()
			if verify {
				return a.verifyTags(answers, from)
			}
			return a.writeDigests(u.List, answers)
		},
	}
	from.flags(c)
	c.Flags().BoolVar(&verify, "verify", false, "write nothing; exit 1 when a tag has drifted from its digest")
	return c
}

// verifyTags prints what each tag has come to. What is known of one outranks what is not known of another.
func (a *app) verifyTags(answers []upstream.Answer, from sourceOptions) error {
	count := map[upstream.State]int{}
	for _, r := range answers {
		count[r.State()]++
		switch r.State() {
		case upstream.StateSame:
			fmt.Fprintf(a.out, "= %s %s\n", r.Image.Tagged(), r.Digest)
		case upstream.StateNew:
			fmt.Fprintf(a.out, "+ %s %s, not in the file\n", r.Image.Tagged(), r.Digest)
		case upstream.StateDrifted:
			fmt.Fprintf(a.out, "~ %s %s → %s\n", r.Image.Tagged(), r.Image.Digest, became(r))
		case upstream.StateUnasked:
			fmt.Fprintf(a.out, "? %s %v\n", r.Image.Tagged(), r.Err)
		}
	}
	switch {
	case count[upstream.StateDrifted] > 0:
		fmt.Fprintf(a.err, "%d of %d tags have drifted\n", count[upstream.StateDrifted], len(answers))
		return exitError(exitFail)
	case count[upstream.StateUnasked] > 0:
		return fmt.Errorf("verifying %d tags: of %d nothing was learnt", len(answers), count[upstream.StateUnasked])
	case count[upstream.StateNew] > 0:
		return hinted{usageError{fmt.Errorf("verifying %d tags: %d have no digest in the file", len(answers), count[upstream.StateNew])}, from.hint()}
	}
	return nil
}

// became is what a drifted tag stands for now.
func became(r upstream.Answer) string {
	if r.Err != nil {
		return r.Err.Error()
	}
	return r.Digest
}

// writeDigests writes the answers into the list's file, all or none, and prints what changed.
func (a *app) writeDigests(list *upstream.List, answers []upstream.Answer) error {
	digests := map[string]string{}
	var faults []error
	changed := 0
	for _, r := range answers {
		if r.Err != nil {
			faults = append(faults, fmt.Errorf("resolving %s: %w", r.Image.Tagged(), r.Err))
			continue
		}
		digests[r.Image.Tagged()] = r.Digest
		if r.State() != upstream.StateSame {
			changed++
		}
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	if changed > 0 {
		raw, err := list.Rewritten(digests, time.Now().UTC().Format(time.DateOnly))
		if err != nil {
			return usageError{err}
		}
		err = writeFile(list.File(), func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		})
		if err != nil {
			return fmt.Errorf("writing the digests: %w", err)
		}
	}
	for _, r := range answers {
		switch r.State() {
		case upstream.StateNew:
			fmt.Fprintf(a.out, "+ %s %s\n", r.Image.Tagged(), r.Digest)
		case upstream.StateDrifted:
			fmt.Fprintf(a.out, "~ %s %s → %s\n", r.Image.Tagged(), r.Image.Digest, r.Digest)
		}
	}
	fmt.Fprintf(a.err, "%s: %d of %d digests changed\n", list.File(), changed, len(answers))
	return nil
}
