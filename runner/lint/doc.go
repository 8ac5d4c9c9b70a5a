// Package lint finds in NetworkPolicies, before anything runs, what their author hardly meant: policies that select nothing, rules that admit more or less than they seem to.
//
// [Check] holds a [manifest.Set] against every one of the [Rules] and returns [Finding]s, each with the rule, a [Severity], file, line and field, a message
// that says what is so, and a hint that says what to write. [CheckSteps] does it for a scenario whose policies and labels change from step to step.
// [WriteText], [WriteJSON] and [WriteSARIF] render. A policy that is meant as it is names the rules it is exempt from in its annotation
// [IgnoreAnnotation].
//
// The trap: a rule may only speak of what it knows. Rules about what selectors match are silent when the set has no pods, rules about ports when a
// pod declares none; a finding is no proof, and no finding is no promise. What a cluster really does is for a run to show.
//
// This package is pure. Reading files is not its part, nor are faults that the API server itself would refuse: those are errors.
package lint
