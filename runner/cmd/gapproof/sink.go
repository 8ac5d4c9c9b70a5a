package main

import (
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/gapproof/gapproof/runner/seal/sink"
)

// sink is what the container of a sealed network's resolver runs.
func (a *app) sink() *cobra.Command {
	c := &cobra.Command{Use: "sink", Short: "Answer and record the names of a sealed lab", Hidden: true}
	var listen, log string
	var nodes []string
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Answer the nodes' names, refuse every other, record all",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			packets, err := (&net.ListenConfig{}).ListenPacket(c.Context(), "udp", listen)
			if err != nil {
				return fmt.Errorf("listening for the nodes: %w", err)
			}
			l, err := (&net.ListenConfig{}).Listen(c.Context(), "tcp", listen)
			if err != nil {
				return errors.Join(fmt.Errorf("listening for the nodes: %w", err), packets.Close())
			}
			// Only now: whoever waits for the sink waits for its log.
			names, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return errors.Join(fmt.Errorf("opening the log of names: %w", err), packets.Close(), l.Close())
			}
			defer func() { err = errors.Join(err, names.Close()) }()
			return sink.New(nodes, sink.EngineLookup, names, a.log).Serve(c.Context(), packets, l)
		},
	}
	serve.Flags().StringVar(&listen, "listen", ":53", "address to answer on")
	serve.Flags().StringVar(&log, "log", "names.jsonl", "log of names, one JSON object a line")
	serve.Flags().StringArrayVar(&nodes, "node", nil, "name of a node, several times for several")
	c.AddCommand(serve)
	group(c)
	return c
}
