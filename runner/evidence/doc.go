// Package evidence keeps what a run rests on as files, and holds those files against what was concluded from them.
//
// A [Writer] is told of a run as it goes and writes a directory; [Rebuild] reads such a directory and makes the report again from its raw
// files alone; [Verify] compares that with every conclusion that is stored, and [ReadReport] reads the stored report. The raw files are
// what somebody or something else said: the scenario, the cluster's facts, the API server's policies, the agents' and the kernel's
// observations, the versions. The derived ones follow from them: the plan with its promises, the notes, the log of attempts, the report.
//
//	manifest.json               every other file with its size and SHA-256
//	run.json                    raw: versions, image digests, level of evidence, options, times, faults
//	scenarios/001-name/
//	  scenario.json             raw: the scenario as it was loaded, with where its policies are written
//	  facts.json                raw: addresses, nodes and the resolver, as the cluster gave them
//	  facts-002.json            raw: the same since step 2, for every step that made pods again
//	  baseline.jsonl            raw: an observation per attempt, before any policy
//	  policies.jsonl            raw: per step the policies as the API server returned them, right after it took the changes
//	  clusterpolicies.jsonl     raw: the ClusterNetworkPolicies likewise
//	  steps.jsonl               raw: per step how long enforcing took, and when each round of attempts began
//	  observations.jsonl        raw: per step, round and attempt the outcome, arrivals, controls and sightings
//	  plan.json                 derived: attempts, changes, and per step what was intended and derived for each attempt
//	  plan-002.json             derived: the plan since step 2, for every step that made pods again
//	  attempts.log              derived: every round of each attempt whose result is not pass, in logfmt
//	seal.json                   raw: the sealed network's rules and counters, canaries, names and images; absent where no seal was asked about
//	hubble.json                 raw: how Hubble's flows were read; absent, with the next, where they were not asked for
//	hubble.jsonl                raw: per judged attempt the flows that Hubble told of it
//	notes.json                  derived: the semantics notes that applied, with what each leaves open
//	report.json                 derived: the report of the run
//
// A file that ends in .jsonl has one JSON object per line and is written as the run goes, so that a run which is killed leaves what it had.
// Without a manifest such a directory is evidence of nothing. The same run gives the same bytes; keys, order and line ends never depend on
// the machine. Durations are nanoseconds.
//
// The trap: verifying finds every edit of what is stored, unless somebody writes every file anew so that all agree, the manifest too; and
// under a manifest made anew it does not find an edit of a raw fact on which no conclusion rests: what an API server adds to an object, a label or an
// address that nothing asks for, how many packets a seal let pass, where a flow of Hubble's that decides nothing was seen, the number of packets or the time of an attempt whose verdict they do not change, in
// a round that another one followed. Against both helps only what is kept elsewhere: the manifest's own digest, which a run and a verification print, or
// a signature over it, which this package does not make: on a sealed lab the statement of the seal has it. Nor can it tell whether what agents and
// kernels reported was true when it was written down. Nothing here talks to a cluster.
package evidence
