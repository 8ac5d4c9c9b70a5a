package main

import (
	"testing"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

func TestEverySemanticsNoteThatNamesAScenarioNamesAShippedOne(t *testing.T) {
	all, err := scenarios.LoadFS(catalogue.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	shipped := map[string]bool{}
	for _, s := range all {
		shipped[s.Metadata.Name] = true
	}
	named := 0
	for _, n := range reach.Notes() {
		if n.Scenario == "" {
			continue
		}
		named++
		if !shipped[n.Scenario] {
			t.Errorf("note %s names scenario %s, which is not in the catalogue", n.ID, n.Scenario)
		}
	}
	if named == 0 {
		t.Error("no note names a scenario")
	}
}
