// Package catalogue holds the scenarios we ship, one YAML file each, in folders named for the API field they exercise.
//
// [FS] is the tree; load it with scenarios.LoadFS(catalogue.FS, "."). The folder worlds has the worlds that the scenarios share: scenarios with
// equal worlds run in one fixture, so a new scenario should use a shared world unless it needs pods of its own.
//
// The trap: `gapproof run scenarios/catalogue` must pass on every conforming CNI, so each file's intent must agree with what its
// policies say. Scenarios that are meant to fail belong to scenarios/examples.
package catalogue

import "embed"

// FS has the catalogue's files, with this folder as its root. It is never written to.
//
//go:embed */*.yaml
var FS embed.FS
