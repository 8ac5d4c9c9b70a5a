// Package report renders what a run has to tell.
//
// A [Report] holds every judgement of a run with the versions and the level of evidence it was made with. [Render] writes it
// in one [Format]: a table for people ([RenderTable]), JSON for machines ([RenderJSON], described by schema.json and read back by
// [ReadJSON]), JUnit for CI systems ([RenderJUnit]) and Markdown for a pull request ([RenderMarkdown]). [Report.Summary] counts,
// and gives the exit code.
//
// Holes come first everywhere, then breaks, then what could not be told. Failures with the same cause are shown once, with the
// attempts they concern. Texts that came out of the cluster are cleaned of control characters before a terminal sees them.
//
// The trap: the same report gives the same bytes, so nothing here may read a clock, the environment or the terminal; the caller
// decides colour, glyphs and width. The package is pure: no client, socket, clock or file.
package report
