// Package compare turns observations into judgements: what an attempt proved, and whether that is what was promised.
//
// Three types, none overwritten by the next: a probes.Observation is a fact, [Observed] is the inference from it ([Observe], the
// proof table), and [Judgement] holds it against a plan.Promise ([Judge], the three-way difference). [Count] adds judgements up into
// a [Tally] with the exit code, and [Sort] puts holes before breaks before everything else.
//
// The three-way difference. Intended is the person's verdict, derived the engine's, observed the packets'. Where intended and
// derived differ and the packets follow the policies, the policies do not say what the person meant: a policy bug. Where derived
// and observed differ, the CNI does not do what the policies say, or has not yet: a CNI bug or unconverged. Where the packets do what
// the person meant and the engine says otherwise, the engine is in question; such a result is inconclusive, because a
// green one would hide that one of the two is wrong.
//
// The trap: silence has many causes and a policy is only one of them. A deny is inferred only while both agents were alive,
// the listener healthy and the same path open before the policies; otherwise the result is inconclusive and says what was missing. What
// a delivered token proves is never taken back by a missing control. Where the kernel was watched, a request must be seen to die for
// a reason that policies make: one that is not accounted for, or died of anything else, proves no policy. The whole table is written out
// for people in testdata/proof-table.txt. The package is pure: no client, socket, clock or file.
package compare
