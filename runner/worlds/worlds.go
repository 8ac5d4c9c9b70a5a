// Package worlds brings the suite's worlds up as fixtures. It joins two adapters that do not know one another, for every program that
// runs a suite.
package worlds

import (
	"context"

	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/scenarios"
)

// Worlds is a [suite.Worlds] on one cluster.
type Worlds struct {
	Cluster *kube.Cluster
	// Options are those of every world but for the role, which the suite names.
	Options fixture.Options
}

// Up makes a fixture in the role.
func (w *Worlds) Up(ctx context.Context, of scenarios.World, role suite.Role) (suite.World, error) {
	o := w.Options
	o.Role = string(role)
	f, err := fixture.Up(ctx, w.Cluster, of, o)
	if err != nil {
		return nil, err
	}
	return world{f}, nil
}

// Nodes are those that take probe pods.
func (w *Worlds) Nodes(ctx context.Context) ([]string, error) {
	return fixture.Schedulable(ctx, w.Cluster.Client)
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
