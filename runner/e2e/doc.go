// Package e2e holds the live tests: the gapproof binary against a real kind cluster of its own, with sigs.k8s.io/e2e-framework.
//
// TestMain brings the cluster "e2e" up with the binary that GAPPROOF_BIN names and takes it down again; each test is one feature
// that runs the binary as a user would and looks at exit code, report and cluster. It has a go.mod of its own because the
// framework is needed for nothing else. `make e2e` runs it.
//
// The trap: these tests see the binary, not the packages. What a package promises is tested beside it.
package e2e
