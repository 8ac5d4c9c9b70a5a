package main

import (
	"context"
	"net/netip"

	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/fixture"
)

// outside starts hosts outside a lab's cluster.
type outside struct{ cluster, stateDir, run, token string }

// Start starts one.
func (o outside) Start(ctx context.Context, name, identity, listen string, addresses []netip.Addr) (fixture.OutsideHost, error) {
	h, err := cluster.StartOutside(ctx, cluster.OutsideOptions{
		Cluster: o.cluster, StateDir: o.stateDir, Run: o.run, Name: name, Identity: identity, Listen: listen, Addresses: addresses, Token: o.token,
	})
	if err != nil {
		return nil, err // not a nil *cluster.OutsideHost
	}
	return h, nil
}
