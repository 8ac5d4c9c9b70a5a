// Package selftest turns the instrument on itself: it makes lies on purpose and sees whether gapproof believes them.
//
// Two parts. [EnforcesNothing] runs scenarios on a cluster whose pod network enforces nothing: every promised deny must come out as a
// hole and every promised allow pass ([Idle]). [Faults] breaks a lab cluster, one [Fault] of [Table] at a time, between a run's baseline
// and its verdicts, and holds each verdict against what the table says: what the fault touches must be inconclusive with the right
// reason, everything else must be right ([Outcome]). Neither needs anything of package suite but its seams: a fault acts inside
// decorators of suite.Worlds and suite.Policies, at a stated [Moment].
//
// Faults come from outside the pods: signals and killed sockets through the engine ([Machines]), a deleted pod, an API server proxy in
// this process. The one exception is the stepped clock, whose readings are changed as they leave the agent: nothing else of an agent's
// wall clock is seen by a run. Faults of a kernel witness, and those of agents under witnesses, are rows of their own. A fault is injected
// again, alone, where the host was too busy for what it leaves alone; a false pass or a false failure is never tried again.
//
// The trap: on a network that enforces nothing no beacon ever flips, and a run rightly ends there without a verdict. EnforcesNothing
// shows that first, and then lets the beacons of [paper] stand in, which follow the engine and not the network.
package selftest
