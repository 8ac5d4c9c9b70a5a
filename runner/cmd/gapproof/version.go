package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/gapproof/gapproof/images"
)

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print build, kernel and image digests",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(a.out, "gapproof %s\n", version)
			if info, ok := debug.ReadBuildInfo(); ok {
				fmt.Fprintf(a.out, "built with %s\n", info.GoVersion)
			}
			var u unix.Utsname
			if err := unix.Uname(&u); err == nil {
				fmt.Fprintf(a.out, "kernel %s\n", unix.ByteSliceToString(u.Release[:]))
			}
			lock, err := images.ReadLock(a.labDir())
			if err != nil {
				fmt.Fprintln(a.out, "no lab images (gapproof bundle create)")
				return nil
			}
			for _, i := range lock.Images {
				fmt.Fprintf(a.out, "image %s\n", i.Reference())
			}
			return nil
		},
	}
}
