package main

import (
	"context"
	"log/slog"

	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// seams joins the suite's seams to the adapters; adapters do not know one another.
type seams struct {
	cluster            *kube.Cluster
	run, image, prefix string
	token              string
	outside            fixture.Outside // nil where the cluster is not the lab's
	log                *slog.Logger
}

// Up makes a fixture with this run's image and token.
func (s *seams) Up(ctx context.Context, w scenarios.World, role suite.Role) (suite.World, error) {
	f, err := fixture.Up(ctx, s.cluster, w, fixture.Options{
		Run: s.run, Role: string(role), Image: s.image, Token: s.token, Prefix: s.prefix, Outside: s.outside, Log: s.log,
	})
	if err != nil {
		return nil, err
	}
	return world{f}, nil
}

// Nodes are those that take probe pods.
func (s *seams) Nodes(ctx context.Context) ([]string, error) {
	return fixture.Schedulable(ctx, s.cluster.Client)
}

// outside starts hosts outside a lab's cluster.
type outside struct{ cluster, stateDir, run, token string }

// Start starts one.
func (o outside) Start(ctx context.Context, name, identity, listen string) (fixture.OutsideHost, error) {
	h, err := cluster.StartOutside(ctx, cluster.OutsideOptions{
		Cluster: o.cluster, StateDir: o.stateDir, Run: o.run, Name: name, Identity: identity, Listen: listen, Token: o.token,
	})
	if err != nil {
		return nil, err // not a nil *cluster.OutsideHost
	}
	return h, nil
}

// world gives the fixture's agents as the suite's.
type world struct{ *fixture.Fixture }

// Agent is nil, not a nil *fixture.Agent, for a pod the world lacks.
func (w world) Agent(name string) suite.Agent {
	if a := w.Fixture.Agent(name); a != nil {
		return a
	}
	return nil
}
