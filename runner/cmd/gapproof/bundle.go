package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/runner/cni"
)

// labProfiles are the CNI profiles whose images every lab has. The one that enforces nothing is a single small binary.
func labProfiles() []string { return []string{cni.Default, "none"} }

func (a *app) bundle() *cobra.Command {
	c := &cobra.Command{
		Use:   "bundle",
		Short: "Make the lab's images and their lock, sign them, carry them across the gap",
	}
	c.AddCommand(a.bundleCreate(), a.bundleKey(), a.bundleSign(), a.bundleVerify(), a.bundleInspect(), a.bundleDiff(), a.bundleLoad(), a.bundleServe())
	group(c)
	return c
}

func (a *app) bundleCreate() *cobra.Command {
	var imagesDir string
	var race bool
	var o packOptions
	c := &cobra.Command{
		Use:   "create",
		Short: "Build every image of the lab from Go modules and Debian packages",
		Long: `create builds the images that the folder images/ describes into an OCI layout with a lock, below the cache directory.
Steps are cached by content: a second build does nothing, an interrupted one goes on where it was. With --out the lab, this
program and the included folders are written as one bundle, signed with --key or later with gapproof bundle sign.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			profiles := labProfiles()
			if race {
				profiles = append(profiles, "race")
			}
			started := time.Now()
			lock, err := bundle.CreateFromModules(c.Context(), a.labDir(), bundle.Options{
				ImagesDir: imagesDir, CacheDir: a.cacheDir, Profiles: profiles, Log: a.log, Progress: a.building,
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.err, "lab of %d images in %s, %.1f s\n", len(lock.Images), a.labDir(), time.Since(started).Seconds())
			for _, i := range lock.Images {
				fmt.Fprintf(a.out, "%s\n", i.Reference())
			}
			if o.out != "" {
				return a.pack(c.Context(), lock, o)
			}
			return nil
		},
	}
	o.flags(c)
	c.Flags().StringVar(&imagesDir, "images", "images", "images folder of a checkout")
	c.Flags().BoolVar(&race, "race", false, "also build the peers' probe image, for make race")
	return c
}
