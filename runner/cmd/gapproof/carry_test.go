package main

import (
	"io/fs"
	"testing"

	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	"github.com/gapproof/gapproof/runner/bundle"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

func TestTheCatalogueAndTheTopologiesHaveNamesThatABundleCarries(t *testing.T) {
	for prefix, files := range map[string]fs.FS{"scenarios/": catalogue.FS, "kind-configs/": kindconfigs.Files()} {
		sources, err := bundle.FSSources(files, prefix)
		if err != nil || len(sources) == 0 {
			t.Errorf("%s: %d files, %v", prefix, len(sources), err)
		}
		for _, s := range sources {
			if len(s.Name) > 100 { // what a bundle's list takes (runner/bundle/signed)
				t.Errorf("%s has %d characters, want at most 100", s.Name, len(s.Name))
			}
		}
	}
}
