// Package differential puts the same worlds, policies and questions to runner/reach and to the matcher of cyclonus v0.5.6, and accounts for
// every answer that differs.
//
// [Case] is one question; [Ours] and [Theirs] answer it. A case on which they disagree is cut down by [Shrink] until every part of it is
// needed, and the smallest case must then be explained by one of [Differences]: the engine stands by the sentence of the API that is
// quoted there. A disagreement that no entry explains fails the test, and so does an entry that no case shows any more. The tests run the
// cases that cyclonus generates and tens of thousands of random worlds from a printed seed; the benchmark derives one matrix by both.
//
// The trap: cyclonus is given what the API server would store, with policyTypes and protocols filled in, because its matcher panics
// on less. That is done by [Defaulted] and is no difference of verdicts.
//
// It is a module of its own so that cyclonus and what it requires stay out of the product's. What does not belong here: anything that
// the product imports, and comparisons on a live cluster, which are runner/race's.
package differential
