package main

import (
	"fmt"
	"os"

	"github.com/gapproof/gapproof/runner/cni"
	"github.com/gapproof/gapproof/runner/report"
)

// What --baseline takes besides the name of a file.
const (
	// baselineAuto is the baseline that the detected CNI's profile ships.
	baselineAuto = "auto"
	baselineNone = "none"
)

// ownBaseline reads the file that --baseline names; nil where it names none.
func ownBaseline(named string) (*report.Baseline, error) {
	if named == baselineAuto || named == baselineNone {
		return nil, nil
	}
	raw, err := os.ReadFile(named)
	if err != nil {
		return nil, usageError{fmt.Errorf("--baseline: %w", err)}
	}
	b, err := report.DecodeBaseline(raw)
	if err != nil {
		return nil, usageError{fmt.Errorf("--baseline %s: %w", named, err)}
	}
	return b, nil
}

// cniBaseline is what the detected CNI is known to do otherwise; nil where nothing is known, or no CNI was detected. Several CNIs in one
// cluster share the work in ways that no baseline was made for.
func (a *app) cniBaseline(p *place) *report.Baseline {
	raw, err := cni.Known(p.cni)
	if err == nil && raw == nil {
		return nil
	}
	var b *report.Baseline
	if err == nil {
		b, err = report.DecodeBaseline(raw)
	}
	if err != nil { // a test holds every shipped one: cannot happen
		a.log.Warn("reading the CNI's known differences", "err", err)
		return nil
	}
	return b
}
