package main

import (
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/mirror"
)

// mirror is what the lab's mirror container runs.
func (a *app) mirror() *cobra.Command {
	c := &cobra.Command{Use: "mirror", Short: "Serve the lab's images to its nodes", Hidden: true}
	var lab, listen, log string
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve a lab directory, read-only and only what its lock lists",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			lock, err := images.ReadLock(lab)
			if err != nil {
				return usageError{err}
			}
			access, err := openAccessLog(log)
			if err != nil {
				return fmt.Errorf("opening the access log: %w", err)
			}
			defer access.Close()
			m, err := mirror.New(lab, lock, mirror.Options{AccessLog: access, Log: a.log})
			if err != nil {
				return err
			}
			defer m.Close()
			l, err := (&net.ListenConfig{}).Listen(c.Context(), "tcp", listen)
			if err != nil {
				return fmt.Errorf("listening for the nodes: %w", err)
			}
			return m.Serve(c.Context(), l)
		},
	}
	serve.Flags().StringVar(&lab, "lab", "", "lab directory")
	serve.Flags().StringVar(&listen, "listen", ":5000", "address to listen on")
	serve.Flags().StringVar(&log, "log", "access.jsonl", "access log, one JSON object a line")
	c.AddCommand(serve)
	group(c)
	return c
}
