package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/runner/worlds"
)

// witnessMode says what a run does about the kernel's witness. The zero value is unknown.
type witnessMode string

// The modes.
const (
	// witnessAuto uses a witness where there is an image for one and the cluster takes it.
	witnessAuto witnessMode = "auto"
	// witnessRequire ends the run where there cannot be one on every node; a deny that was observed without, because one was lost later, is
	// inconclusive.
	witnessRequire witnessMode = "require"
	witnessOff     witnessMode = "off"
)

func parseWitnessMode(s string) (witnessMode, error) {
	switch m := witnessMode(s); m {
	case witnessAuto, witnessRequire, witnessOff:
		return m, nil
	}
	return "", fmt.Errorf("--witness: %q is not auto, require or off", s)
}

// least is the level of evidence that denies need in this mode.
func (m witnessMode) least() probes.Level {
	if m == witnessRequire {
		return probes.TapsOnly
	}
	return probes.Unwitnessed
}

// witnesses joins the suite's seam to the fixture's witnesses.
type witnesses struct {
	worlds *worlds.Worlds
	image  string
	mode   witnessMode
	// told is called with what is missing.
	told func(missing string)
	up   *fixture.Witnesses
}

// Up brings a witness up on every node. What is missing is told, or, where a witness is required, ends the run.
func (w *witnesses) Up(ctx context.Context) (map[string]suite.Witness, string, error) {
	up, err := fixture.UpWitnesses(ctx, w.worlds.Cluster, fixture.WitnessOptions{
		Run: w.worlds.Options.Run, Image: w.image, Token: w.worlds.Options.Token, Log: w.worlds.Options.Log,
	})
	w.up = up
	if err != nil && (w.mode == witnessRequire || ctx.Err() != nil) {
		return nil, "", err
	}
	missing := ""
	if err != nil {
		missing = err.Error()
		w.told(missing)
	}
	byNode := map[string]suite.Witness{}
	if up != nil {
		for node, one := range up.Nodes() {
			byNode[node] = one
		}
	}
	return byNode, missing, nil
}

// Close removes them; there may be none.
func (w *witnesses) Close(ctx context.Context) error {
	if w.up == nil {
		return nil
	}
	return w.up.Close(ctx)
}

// errNoWitnessImage is a witness that is required where none can be had.
var errNoWitnessImage = errors.New("--witness require: there is no witness image in the lock")

// witnesses are the run's; nil, with the reason, where it has none.
func (a *app) witnesses(of *worlds.Worlds, image string, mode witnessMode) (suite.Witnesses, string, error) {
	switch {
	case mode == witnessOff:
		return nil, "no witness was asked for", nil
	case image == "" && mode == witnessRequire:
		return nil, "", hinted{usageError{errNoWitnessImage}, "gapproof bundle create, or --witness-image outside the lab"}
	case image == "":
		return nil, "there is no witness image", nil
	}
	return &witnesses{worlds: of, image: image, mode: mode, told: func(missing string) {
		fmt.Fprintf(a.err, "  no kernel witness, the run goes on without: %s\n", missing)
	}}, "", nil
}
