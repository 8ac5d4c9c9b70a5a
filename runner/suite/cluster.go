package suite

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/scenarios"
)

// sift parts the scenarios that can be carried out from those for which the cluster lacks something. The cluster is asked once, and only
// when a scenario needs it.
func (s *Suite) sift(ctx context.Context, all []*scenarios.Scenario) (able []*scenarios.Scenario, skipped []report.Scenario, _ error) {
	var unserved string
	asked := false
	count := map[string]int{}
	for _, sc := range all {
		if sc.Policies.HasCluster() && !asked {
			asked = true
			var err error
			if unserved, err = s.missing(ctx); err != nil {
				return nil, nil, fmt.Errorf("finding out what %s can be run on: %w", sc.Metadata.Name, err)
			}
		}
		reason := ""
		switch {
		case sc.Policies.HasCluster() && unserved != "":
			reason = unserved
		case len(sc.World.Reach.Outside) > 0:
			reason = s.o.NoOutside
		}
		if reason == "" {
			able = append(able, sc)
			continue
		}
		count[reason]++
		skipped = append(skipped, report.Scenario{Name: sc.Metadata.Name, Title: sc.Metadata.Title, File: sc.File, Skipped: reason})
	}
	for _, reason := range slices.Sorted(maps.Keys(count)) {
		s.o.Log.Info("scenarios skipped", "scenarios", count[reason], "reason", reason)
	}
	return able, skipped, nil
}

func (s *Suite) missing(ctx context.Context) (string, error) {
	if s.o.Cluster == nil {
		return "this run changes no ClusterNetworkPolicies", nil
	}
	return s.o.Cluster.Missing(ctx)
}

// clearCluster takes a plan's ClusterNetworkPolicies back.
func (s *Suite) clearCluster(ctx context.Context, p *plan.Plan) error {
	if !p.Scenario.Policies.HasCluster() {
		return nil
	}
	return s.o.Cluster.Clear(ctx)
}
