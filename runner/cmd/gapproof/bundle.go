package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/cni"
)

// labProfiles are the CNI profiles whose images a lab has when nobody asks for others: what gapproof up and gapproof selftest use. The
// one that enforces nothing is a single small binary. The others cost minutes to build for the first time, which nobody shall wait for
// unasked.
func labProfiles() []string { return []string{cni.Default, "none"} }

// allProfiles asks for every profile there is.
const allProfiles = "all"

// chosenProfiles are the profiles that a build is for. A bundle is made for sites that cannot build what it lacks, so unasked it carries all.
func chosenProfiles(asked []string, o packOptions) ([]string, error) {
	switch {
	case len(asked) == 0 && o.out == "":
		return labProfiles(), nil
	case len(asked) == 0, slices.Equal(asked, []string{allProfiles}):
		return cni.Names(), nil
	}
	var faults []error
	for _, name := range asked {
		if _, err := cni.Find(name); err != nil {
			faults = append(faults, usageError{fmt.Errorf("--cni: %w", err)})
		}
	}
	return asked, errors.Join(faults...)
}

func (a *app) bundle() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Make the lab's images and their lock, sign them, carry them across the gap",
	}
	c.AddCommand(a.bundleCreate(), a.bundleLock(), a.bundleKey(), a.bundleSign(), a.bundleVerify(), a.bundleInspect(), a.bundleDiff(), a.bundleLoad(), a.bundleServe())
	group(c)
	return c
}

func (a *app) bundleCreate() *cobra.Command {
	var from sourceOptions
	var pods []string
	var race bool
	var o packOptions
	c := &cobra.Command{
		Use:   "create",
		Short: "Make every image of the lab, from Go modules and Debian packages or from registries",
		Long: `create makes the images that the folder images/ describes into an OCI layout with a lock, below the cache directory.
Steps are cached by content: a second build does nothing, an interrupted one goes on where it was. With --out the lab, this
program and the included folders are written as one bundle, signed with --key or later with gapproof bundle sign.

--source modules builds all of them on this host, from Go modules and Debian packages. --source upstream pulls those that
images/upstream.yaml lists, by the digest it gives them, and builds the rest: the node, the probe, the witness and the pod network none.
Credentials for registries are docker's (docker login). A digest that is not known yet is refused; gapproof bundle lock takes it.

Without --cni the lab has the pod networks ` + strings.Join(labProfiles(), " and ") + `, and a bundle all there are: a site that only loads it could not
build another.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			profiles, err := chosenProfiles(pods, o)
			p, errPack := a.packing(c, o, time.Now())
			if err := errors.Join(err, from.check(), errPack); err != nil {
				return err
			}
			if race {
				profiles = append(profiles, "race")
			}
			started := time.Now()
			lock, err := a.create(c.Context(), from, bundle.Options{
				ImagesDir: from.imagesDir, CacheDir: a.cacheDir, Profiles: profiles, Log: a.log, Progress: a.building,
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.err, "lab of %d images in %s, %.1f s\n", len(lock.Images), a.labDir(), time.Since(started).Seconds())
			for _, i := range lock.Images {
				fmt.Fprintf(a.out, "%s\n", i.Reference())
			}
			if p != nil {
				return a.pack(c.Context(), lock, p)
			}
			return nil
		},
	}
	o.flags(c)
	from.flags(c)
	c.Flags().StringVar(&from.source, "source", sourceModules, "where images come from, "+sourceModules+" (this host) or "+sourceUpstream+" (registries, by digest)")
	c.Flags().StringSliceVar(&pods, "cni", nil, "pod networks to build, some of "+strings.Join(cni.Names(), ", ")+", or "+allProfiles)
	c.Flags().BoolVar(&race, "race", false, "also build the peers' probe image, for make race")
	return c
}
