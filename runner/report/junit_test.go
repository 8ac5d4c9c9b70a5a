package report_test

import (
	"encoding/xml"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/report"
)

// The elements as a CI system reads them: apart from the renderer's own types, so that a renamed attribute is seen.
type (
	readSuites struct {
		XMLName  xml.Name    `xml:"testsuites"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Skipped  int         `xml:"skipped,attr"`
		Time     string      `xml:"time,attr"`
		Suites   []readSuite `xml:"testsuite"`
	}
	readSuite struct {
		Name      string     `xml:"name,attr"`
		Tests     int        `xml:"tests,attr"`
		Failures  int        `xml:"failures,attr"`
		Errors    int        `xml:"errors,attr"`
		Skipped   int        `xml:"skipped,attr"`
		Time      string     `xml:"time,attr"`
		Timestamp string     `xml:"timestamp,attr"`
		Cases     []readCase `xml:"testcase"`
	}
	readCase struct {
		Name      string       `xml:"name,attr"`
		Class     string       `xml:"classname,attr"`
		Time      string       `xml:"time,attr"`
		Failure   *readProblem `xml:"failure"`
		Error     *readProblem `xml:"error"`
		Skipped   *readProblem `xml:"skipped"`
		SystemOut string       `xml:"system-out"`
	}
	readProblem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
	}
)

func readJUnit(t *testing.T, r *report.Report) readSuites {
	t.Helper()
	var got readSuites
	if err := xml.Unmarshal(render(t, r, report.JUnit, report.Options{}), &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestJUnitCountsAddUp(t *testing.T) {
	got := readJUnit(t, failing(t))
	type counts struct{ tests, failures, errors, skipped int }
	var total counts
	for _, s := range got.Suites {
		var here counts
		for _, c := range s.Cases {
			here.tests++
			problems := 0
			if c.Failure != nil {
				here.failures++
				problems++
			}
			if c.Error != nil {
				here.errors++
				problems++
			}
			if c.Skipped != nil {
				here.skipped++
				problems++
			}
			if problems > 1 {
				t.Errorf("%s %s has %d results", s.Name, c.Name, problems)
			}
			if c.Name == "" || c.Class == "" {
				t.Errorf("%s: a case without name or classname: %+v", s.Name, c)
			}
			if _, err := strconv.ParseFloat(c.Time, 64); err != nil {
				t.Errorf("%s %s: time %q", s.Name, c.Name, c.Time)
			}
		}
		if want := (counts{s.Tests, s.Failures, s.Errors, s.Skipped}); want != here {
			t.Errorf("%s says %+v and holds %+v", s.Name, want, here)
		}
		if s.Timestamp != "2026-03-04T10:11:12" {
			t.Errorf("%s: timestamp %q", s.Name, s.Timestamp)
		}
		total.tests += s.Tests
		total.failures += s.Failures
		total.errors += s.Errors
		total.skipped += s.Skipped
	}
	if want := (counts{got.Tests, got.Failures, got.Errors, got.Skipped}); want != total {
		t.Errorf("the root says %+v, the suites %+v", want, total)
	}
	// 346 attempts and the fault of the scenario that was stopped.
	if want := (counts{347, 9, 6, 0}); total != want {
		t.Errorf("got %+v, want %+v", total, want)
	}
}

func TestJUnitFailuresCarryTheEvidenceAndTheReplay(t *testing.T) {
	got := readJUnit(t, failing(t))
	first := got.Suites[0].Cases[0]
	if got.Suites[0].Name != "missing-selector" || first.Failure == nil || first.Failure.Type != "hole" {
		t.Fatalf("the first case is %s %+v, want a hole", got.Suites[0].Name, first)
	}
	if !strings.HasPrefix(first.Failure.Message, "hole: expect.exhaustive promises deny, but the policies allow it: ingress allowed by x/admit-b") {
		t.Errorf("message %q", first.Failure.Message)
	}
	for _, want := range []string{"promised  deny, by expect.exhaustive", "observed  allow, delivered", "replay    gapproof run catalogue/missing-selector.yaml --attempt 'y/a>x/a:TCP/80'"} {
		if !strings.Contains(first.SystemOut, want) {
			t.Errorf("system-out lacks %q:\n%s", want, first.SystemOut)
		}
	}
}

func TestJUnitNeverShowsGreenForWhatWasNotTried(t *testing.T) {
	r := &report.Report{Scenarios: []report.Scenario{{Name: "nothing"}, {Name: "stopped", Fault: "went away"}}}
	got := readJUnit(t, r)
	for _, s := range got.Suites {
		if s.Errors != 1 || s.Tests != 1 {
			t.Errorf("%s: %d errors in %d tests, want 1 in 1", s.Name, s.Errors, s.Tests)
		}
	}
}

func TestJUnitLooksAsItShould(t *testing.T) {
	golden(t, "passing.junit.xml", render(t, passing(t), report.JUnit, report.Options{}))
}

func TestJUnitHoldsOnlyWhatXMLMayHold(t *testing.T) {
	r := passing(t)
	r.Scenarios[0].Name = "a\x1b<b>&\"c"
	got := readJUnit(t, r)
	if diff := cmp.Diff("a\uFFFD<b>&\"c", got.Suites[0].Name); diff != "" {
		t.Errorf("name (-want +got):\n%s", diff)
	}
}
