// Package scenarios is the language in which a person writes down what a cluster's network must do: a world, policies, steps and intent.
//
// [Load] reads files and directories into [Scenario] values, [LoadFS] does the same from an [io/fs.FS] such as the embedded catalogue. A scenario
// has a [World] (namespaces, pods, Services; written in the file or shared from a [WorldFile]), [Policies], the [Step]s that apply them, and per step
// an [Expect]: the intent, whose entries tell by [Rule.Names] which attempts they speak about. Loading is strict (unknown and repeated keys are faults), fills
// defaults, then validates; every fault of every file comes back at once as [Faults], each with file, line, field path and value. A loaded
// scenario is the same value on every machine: addresses enter later, through [Substitute]. schema.json is the language for editors.
//
// What a world's pods attempt beyond one another is its [Reach]: echoes, node addresses, both address families, the API server, and hosts outside
// the cluster, which are sources too. Addresses that a policy must name are written as placeholders, "${pod:x/a}" or "${outside:bank:IPv6}".
// A block of all addresses that holds on clusters of either family is "${pod:x/a}/0".
//
// Worlds and policies may also come from what a person has already: manifests, kustomizations and what Helm renders, named in [World.From] and
// [Policies.Manifests], or given to [FromManifests]. What those say and a world cannot is listed in [Scenario.Omissions], and what is neither workload
// nor policy is counted in [Scenario.Ignored]; nothing is fetched and nothing is executed. The same reader gives lint and explain the decoded
// [Object]s themselves ([ReadManifests]), each with its place: every kind is decoded here and nowhere else.
//
// The trap: intent is what a person wants, not what the policies say. Nothing here evaluates a policy, and a scenario whose
// policies contradict its intent loads without a fault; finding that out is what a run is for. Policies are kept as they were written:
// the API server's defaults are not filled in here.
//
// Clients, the planning of attempts and anything that is known only about one cluster do not belong here.
package scenarios
