// Package conformance runs the conformance tests of network-policy-api v0.2.0, as they are, on runner/reach.
//
// The tests believe that they have a cluster: an in-memory client holds their objects, and a server on loopback answers the exec requests by
// which they connect, each with what the engine derives from the objects at that moment. A denied connection reads as a timeout.
//
// The trap: pods are made from the StatefulSets here, with addresses of our choice, so nothing is said about a CNI.
//
// It is a module of its own so that what the tests require stays out of the product's. What does not belong here: anything that the product
// imports, and tests against a live cluster.
package conformance
