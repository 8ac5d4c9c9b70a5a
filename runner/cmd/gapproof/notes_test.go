package main

import (
	"slices"
	"testing"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

func TestEverySemanticsNoteIsCarriedByTheScenarioItNames(t *testing.T) {
	all, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	carriers := map[string][]string{} // the scenarios whose plan has the note, by note
	for _, s := range all {
		p, err := planOffline(s)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range p.Steps {
			for _, promise := range step.Promises {
				for _, note := range promise.Derived.Notes {
					if !slices.Contains(carriers[note], s.Metadata.Name) {
						carriers[note] = append(carriers[note], s.Metadata.Name)
					}
				}
			}
		}
	}
	for _, n := range reach.Notes() {
		if !slices.Contains(carriers[n.ID], n.Scenario) {
			t.Errorf("note %s names scenario %q, whose plan does not have it; these have: %v", n.ID, n.Scenario, carriers[n.ID])
		}
	}
}
