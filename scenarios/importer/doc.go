// Package importer turns what people wrote for other tools into scenarios.
//
// [Cyclonus] reads the models that cyclonus analyze takes with --probe-path, and its test cases as encoding/json writes them; [Netassert] reads
// test files of netassert v2. Each gives an [Import]: the scenarios, ready for [Import.Files] to write, and the omissions: what the file says and
// a scenario cannot, each with its line. Faults in the file are told all at once as [scenarios.Faults], and then there is no import.
//
// The trap: neither format says everything. Cyclonus' files hold no expected verdict, so its scenarios have no intent and promise what the engine
// derives; netassert's name workloads of a cluster without their labels, so without manifests beside them no policy would select its pods.
//
// Running the other tools and reading their results do not belong here.
package importer
