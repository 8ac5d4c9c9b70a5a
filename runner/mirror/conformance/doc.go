// Package conformance holds the mirror against the OCI distribution specification's own conformance suite, in its category for
// read-only registries: pulls. It is a module of its own because the suite is a program that only this test needs.
package conformance
