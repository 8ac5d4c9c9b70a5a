// Package archtest holds the tests that keep the house in order: the arrow table of README.md against the real imports, a doc
// comment on every package and exported name, and no fixed sleep. It has no code of its own.
//
// The trap: the table is the source of truth. A new arrow is a change of the table first, with a reason in the commit.
package archtest
