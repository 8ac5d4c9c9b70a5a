package main

import (
	"slices"
	"testing"

	"github.com/gapproof/gapproof/runner/cni"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

// A difference that names what is no longer in the catalogue would never be found stale.
func TestKnownDifferencesNameWhatTheCatalogueHas(t *testing.T) {
	all, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range cni.Names() {
		p, err := cni.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := cni.Known(p.Detected)
		if err != nil {
			t.Fatal(err)
		}
		if raw == nil {
			continue
		}
		found++
		b, err := report.DecodeBaseline(raw)
		if err != nil {
			t.Errorf("profile %s: %v", name, err)
			continue
		}
		for i, d := range b.Differences {
			n := slices.IndexFunc(all, func(s *scenarios.Scenario) bool { return s.Metadata.Name == d.Scenario })
			if n < 0 {
				if d.Scenario != "" {
					t.Errorf("profile %s: differences[%d]: there is no scenario %q", name, i, d.Scenario)
				}
				continue
			}
			facts, err := plan.Offline(all[n])
			if err != nil {
				t.Fatal(err)
			}
			made, err := plan.Build(all[n], facts)
			if err != nil {
				t.Fatal(err)
			}
			for _, pattern := range d.Attempts {
				if !slices.ContainsFunc(made.Attempts, func(a plan.Planned) bool { return report.MatchesAttempt(pattern, a) }) {
					t.Errorf("profile %s: differences[%d]: no attempt of %s is named %q", name, i, d.Scenario, pattern)
				}
			}
			if d.Step != "" && !slices.ContainsFunc(made.Steps, func(s plan.Step) bool { return s.Name == d.Step }) {
				t.Errorf("profile %s: differences[%d]: no step of %s is named %q", name, i, d.Scenario, d.Step)
			}
		}
	}
	if found == 0 {
		t.Error("no profile has known differences")
	}
}
