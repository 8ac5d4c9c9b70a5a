// Command race runs the upstream e2e steps of cyclonus with gapproof and with cyclonus itself, on one cluster one after the other.
//
// [cases] takes cyclonus' generated test cases and writes them as scenarios, so that both contestants are given the same policies and labels in
// the same world; [gapproof.run] and [cyclonus.run] each return a [Result] with the wall-clock time and every verdict, and [compareResults] lists
// the verdicts that differ, each under the known difference that explains it, or under none. Cyclonus is the program of its module, built
// unmodified and started as a user would; its verdicts are read from the tables that it prints.
//
// The trap: the two do not send the same packets. By default cyclonus resolves a Service's name and connects to its ClusterIP, while gapproof
// connects to the pod's address and has both its ends proven alive. With --destination-type pod-ip cyclonus does the same as gapproof.
//
// It is a module of its own, so that cyclonus and what it needs never enter gapproof's. Nothing that gapproof itself uses belongs here.
package main
