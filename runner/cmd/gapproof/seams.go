package main

import (
	"context"
	"log/slog"

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
	log                *slog.Logger
}

// Up makes a fixture with this run's image and token.
func (s *seams) Up(ctx context.Context, w scenarios.World, role suite.Role) (suite.World, error) {
	f, err := fixture.Up(ctx, s.cluster, w, fixture.Options{
		Run: s.run, Role: string(role), Image: s.image, Token: s.token, Prefix: s.prefix, Log: s.log,
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

// world gives the fixture's agents as the suite's.
type world struct{ *fixture.Fixture }

// Agent is nil, not a nil *fixture.Agent, for a pod the world lacks.
func (w world) Agent(name string) suite.Agent {
	if a := w.Fixture.Agent(name); a != nil {
		return a
	}
	return nil
}
