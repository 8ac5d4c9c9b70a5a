package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
)

// The elements of a JUnit file as Jenkins, GitLab and GitHub's readers take them:
// https://github.com/jenkinsci/xunit-plugin/blob/master/src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		Tests      int             `xml:"tests,attr"`
		Failures   int             `xml:"failures,attr"`
		Errors     int             `xml:"errors,attr"`
		Skipped    int             `xml:"skipped,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr,omitempty"`
		File       string          `xml:"file,attr,omitempty"`
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Name      string        `xml:"name,attr"`
		Class     string        `xml:"classname,attr"`
		Time      string        `xml:"time,attr"`
		File      string        `xml:"file,attr,omitempty"`
		Failure   *junitProblem `xml:"failure"`
		Error     *junitProblem `xml:"error"`
		Skipped   *junitSkipped `xml:"skipped"`
		SystemOut string        `xml:"system-out,omitempty"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
	junitSkipped struct {
		Message string `xml:"message,attr"`
	}
)

// RenderJUnit writes r for CI systems: a suite per scenario, worst first, and in it a case per attempt and step; then one for the seal, if there is
// any. A hole, a break or a leak is a failure, what could not be told an error, so that none is green. The options are not used. The error is that of writing.
func RenderJUnit(w io.Writer, r *Report, _ Options) error {
	root := junitSuites{Name: "gapproof", Time: seconds(r.Took)}
	var suites []junitSuite
	for _, s := range r.bySeverity() {
		suites = append(suites, junitScenario(r, s))
	}
	if r.Seal != nil {
		suites = append(suites, junitSeal(r))
	}
	for _, suite := range suites {
		root.Tests += suite.Tests
		root.Failures += suite.Failures
		root.Errors += suite.Errors
		root.Skipped += suite.Skipped
	}
	root.Suites = suites
	body, err := xml.MarshalIndent(root, "", "  ")
	if err != nil {
		return fmt.Errorf("writing a JUnit report: %w", err)
	}
	if _, err := fmt.Fprintf(w, "%s%s\n", xml.Header, body); err != nil {
		return fmt.Errorf("writing a JUnit report: %w", err)
	}
	return nil
}

func junitScenario(r *Report, s *Scenario) junitSuite {
	suite := junitSuite{Name: s.Name, Time: seconds(s.Took), Timestamp: r.junitTime(), File: s.File}
	v := r.Versions
	for _, p := range []junitProperty{
		{"title", s.Title}, {"run", r.Run}, {"gapproof", v.Gapproof}, {"kubernetes", v.Kubernetes}, {"cni", v.CNI},
		{"kernel", v.Kernel}, {"evidence", r.Level},
	} {
		if p.Value != "" {
			suite.Properties = append(suite.Properties, p)
		}
	}
	if r.Hubble != nil {
		suite.Properties = append(suite.Properties, junitProperty{"hubble", r.Hubble.line("; ")})
	}
	for _, line := range s.contradictions() {
		suite.Properties = append(suite.Properties, junitProperty{"hubble-contradicts", line})
	}
	for _, line := range s.leftOut() {
		suite.Properties = append(suite.Properties, junitProperty{"left-out", line})
	}
	for _, step := range s.Steps {
		for _, j := range sorted(step.Judgements) {
			suite.add(junitAttempt(s, step.Name, j))
		}
	}
	const whole = "the scenario is carried out to its end"
	if s.Skipped != "" {
		suite.add(junitCase{Name: whole, Class: s.Name, Time: seconds(s.Took), File: s.File, Skipped: &junitSkipped{Message: s.Skipped}})
		return suite
	}
	if problem := s.junitFault(); problem != nil {
		suite.add(junitCase{Name: whole, Class: s.Name, Time: seconds(s.Took), File: s.File, Error: problem})
	}
	return suite
}

// junitTime is when the run began, in UTC, as the schema has no zone; empty when that is not known.
func (r *Report) junitTime() string {
	if r.Started.IsZero() {
		return ""
	}
	return r.Started.UTC().Format("2006-01-02T15:04:05")
}

// junitFault is the error of a scenario that its attempts do not tell of: a fault, or nothing tried at all.
func (s *Scenario) junitFault() *junitProblem {
	switch {
	case s.Fault != "":
		return &junitProblem{Message: s.Fault, Type: compare.Inconclusive.String(), Text: s.Fault}
	case s.Tally() == (compare.Tally{}):
		const words = "nothing was judged"
		return &junitProblem{Message: words, Type: compare.Inconclusive.String(), Text: words}
	default:
		return nil
	}
}

func (s *junitSuite) add(c junitCase) {
	s.Tests++
	switch {
	case c.Failure != nil:
		s.Failures++
	case c.Error != nil:
		s.Errors++
	case c.Skipped != nil:
		s.Skipped++
	}
	s.Cases = append(s.Cases, c)
}

func junitAttempt(s *Scenario, step string, j compare.Judgement) junitCase {
	c := junitCase{Name: j.Attempt.ID, Class: s.Name + "." + step, Time: seconds(j.Facts.Outcome.Took), File: s.File}
	switch j.Result {
	case compare.Pass:
		return c
	case compare.Skipped:
		c.Skipped = &junitSkipped{Message: j.Reason}
		return c
	case compare.Fail:
		if j.Known != "" { // JUnit has no word for a failure that is expected; skipped is the one that is neither red nor green
			c.Skipped = &junitSkipped{Message: "known: " + j.Known + ": " + j.Reason}
			break
		}
		c.Failure = &junitProblem{Message: j.Class.String() + ": " + j.Reason, Type: j.Class.String(), Text: j.Reason}
	default:
		c.Error = &junitProblem{Message: j.Reason, Type: compare.Inconclusive.String(), Text: j.Reason}
	}
	c.SystemOut = evidenceText(j)
	return c
}

// evidenceText is one attempt's evidence as lines of plain text.
func evidenceText(j compare.Judgement) string {
	p := newPage(Options{})
	p.line("attempt   " + p.attempt(j))
	p.line("promised  " + p.promised(j))
	p.line("derived   " + j.Promise.Derived.Verdict.String())
	p.line("observed  " + p.clean(fmt.Sprintf("%s, %s: %s", j.Observed.Verdict, evidenceWords(j.Observed.Evidence), j.Observed.Detail)))
	p.line("outcome   " + p.clean(strings.TrimSpace(j.Facts.Outcome.Kind.String()+" "+j.Facts.Outcome.Errno)))
	p.line(fmt.Sprintf("arrivals  %d", len(j.Facts.Arrivals)))
	if len(j.Facts.Sightings) > 0 {
		a := probes.Account(j.Facts.Sightings)
		p.line(fmt.Sprintf("requests  %d sent, %d arrived, %d dropped, %d unaccounted (%s)", a.Sent, a.Arrived, a.Dropped, a.Unaccounted, j.Facts.Level))
	}
	if j.Culprit != "" {
		p.line("culprit   " + j.Culprit)
	}
	for _, d := range j.Deciders() {
		p.line(p.clean(padRight(d.Direction, keyWidth) + strings.TrimPrefix(d.String(), d.Direction+" ")))
	}
	if j.Replay != "" {
		p.line("replay    " + p.clean(j.Replay))
	}
	return p.String()
}

// sorted is a sorted copy, worst first.
func sorted(judgements []compare.Judgement) []compare.Judgement {
	list := append([]compare.Judgement(nil), judgements...)
	compare.Sort(list)
	return list
}

// seconds is a duration as JUnit writes time.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
