package report_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/report"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got), go test -update writes it anew:\n%s", name, diff)
	}
}

func render(t *testing.T, r *report.Report, f report.Format, o report.Options) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := report.Render(&b, r, f, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTheTableLooksAsItShould(t *testing.T) {
	tests := []struct {
		file    string
		report  *report.Report
		options report.Options
	}{
		{"failing.txt", failing(t), report.Options{}},
		{"failing.colour.txt", failing(t), report.Options{Colour: report.ANSI}},
		{"failing.ascii.txt", failing(t), report.Options{Glyphs: report.ASCII}},
		{"failing.narrow.txt", failing(t), report.Options{Width: 60}},
		{"api-server.txt", governed(t), report.Options{Width: 120}},
		{"everything.txt", failing(t), report.Options{Detail: report.Everything, Width: 120}},
		{"passing.txt", passing(t), report.Options{}},
		{"empty.txt", &report.Report{Run: "none", Level: "unwitnessed"}, report.Options{}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			golden(t, tt.file, render(t, tt.report, report.Table, tt.options))
		})
	}
}

func TestWidthIsKeptButForWhatMustNotBreak(t *testing.T) {
	for _, width := range []int{60, 80, 100, 140} {
		text := string(render(t, failing(t), report.Table, report.Options{Width: width}))
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			// A command is there to be copied, and an attempt's name is one word.
			unbreakable := strings.Contains(line, "gapproof run ") || strings.Contains(line, "shop-frontend-production/")
			if n := utf8.RuneCountInString(line); n > width && !unbreakable {
				t.Errorf("at width %d a line has %d columns: %s", width, n, line)
			}
			if strings.HasSuffix(line, " ") {
				t.Errorf("a line ends in blanks: %q", line)
			}
		}
	}
}

func TestNineByNineWithFourPortsFitsAHundredColumnsWhateverItHolds(t *testing.T) {
	r := failing(t)
	// Every cell a different mixture: the widest matrix there is.
	for i := range r.Scenarios {
		for s := range r.Scenarios[i].Steps {
			list := r.Scenarios[i].Steps[s].Judgements
			for k := range list {
				if k%3 == 0 {
					list[k].Result, list[k].Class = compare.Fail, compare.Hole
				}
			}
		}
	}
	text := string(render(t, r, report.Table, report.Options{}))
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  z/c ") && utf8.RuneCountInString(line) > 100 {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
	if !strings.Contains(text, "  z/c ") {
		t.Error("the matrix has no row z/c")
	}
}

func TestPlainTextHasNoEscapesAndASCIINothingElse(t *testing.T) {
	if b := render(t, failing(t), report.Table, report.Options{}); bytes.ContainsRune(b, '\x1b') {
		t.Error("plain text has an escape sequence")
	}
	for _, c := range render(t, failing(t), report.Table, report.Options{Glyphs: report.ASCII, Detail: report.Everything}) {
		if c > 126 || c < 32 && c != '\n' {
			t.Fatalf("ASCII text has the byte %#x", c)
		}
	}
}

func TestTextFromTheClusterCannotSteerATerminal(t *testing.T) {
	// The sample's resolver sends ESC [2J, which would clear the screen.
	b := render(t, failing(t), report.Table, report.Options{Colour: report.ANSI})
	if bytes.Contains(b, []byte("\x1b[2J")) {
		t.Error("an escape sequence of an agent's words reached the terminal")
	}
	if !bytes.Contains(b, []byte("NXDOMAIN?[2J")) {
		t.Error("the words themselves are gone")
	}
}

func TestHolesComeFirstWhateverTheOrderOfTheRun(t *testing.T) {
	for _, r := range []*report.Report{failing(t), permuted(failing(t))} {
		text := string(render(t, r, report.Table, report.Options{}))
		last := -1
		for _, want := range []string{"FAIL          missing-selector", "FAIL          checkout-egress", "PASS          default-deny", " HOLES 7 ", " BREAKS 2 ", " INCONCLUSIVE 5 ", "exit code 1"} {
			at := strings.Index(text, want)
			if at <= last {
				t.Errorf("%q is at %d, after %d", want, at, last)
			}
			last = at
		}
	}
}

func TestTheSameReportGivesTheSameBytes(t *testing.T) {
	for _, f := range report.Formats() {
		first, second := render(t, failing(t), f, report.Options{}), render(t, failing(t), f, report.Options{})
		if !bytes.Equal(first, second) {
			t.Errorf("%s differs between two renderings", f)
		}
	}
}

func TestTheSummaryCountsAndDecidesTheExit(t *testing.T) {
	want := report.Summary{
		Tally:     compare.Tally{Pass: 332, Fail: 9, Inconclusive: 5, Holes: 7, Breaks: 2},
		Scenarios: report.ScenarioTally{Pass: 1, Fail: 2, Inconclusive: 1},
		Result:    compare.Fail, ExitCode: 1,
	}
	if diff := cmp.Diff(want, failing(t).Summary()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	faulty := passing(t)
	faulty.Scenarios = append(faulty.Scenarios, report.Scenario{Name: "stopped", Fault: "the API server went away"})
	if s := faulty.Summary(); s.ExitCode != 3 || s.Result != compare.Inconclusive {
		t.Errorf("a scenario that was not carried out: exit code %d", s.ExitCode)
	}
	if s := passing(t).Summary(); s.ExitCode != 0 {
		t.Errorf("a run in which all held: exit code %d", s.ExitCode)
	}
	if s := (&report.Report{}).Summary(); s.ExitCode != 3 {
		t.Errorf("a run without scenarios: exit code %d", s.ExitCode)
	}
	allSkipped := passing(t)
	for i := range allSkipped.Scenarios[0].Steps[0].Judgements {
		allSkipped.Scenarios[0].Steps[0].Judgements[i].Result = compare.Skipped
	}
	if s := allSkipped.Summary(); s.ExitCode != 3 {
		t.Errorf("a run in which all was skipped: exit code %d", s.ExitCode)
	}
}

func TestMarkdownLooksAsItShould(t *testing.T) {
	golden(t, "failing.md", render(t, failing(t), report.Markdown, report.Options{}))
}

func TestAnUnknownFormatIsAnError(t *testing.T) {
	if err := report.Render(&bytes.Buffer{}, passing(t), report.FormatUnknown, report.Options{}); err == nil {
		t.Error("a format that is none was rendered")
	}
	if _, err := report.ParseFormat("xml"); err == nil || !strings.Contains(err.Error(), "table, json, junit, markdown") {
		t.Errorf("got %v, want the formats there are", err)
	}
	for _, f := range report.Formats() {
		if got, err := report.ParseFormat(f.String()); err != nil || got != f || f.FileName() == "" {
			t.Errorf("%s: read back %s (%v), file %q", f, got, err, f.FileName())
		}
	}
}

// brokenWriter takes nothing.
type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWhatCannotBeWrittenIsAnError(t *testing.T) {
	for _, f := range report.Formats() {
		if err := report.Render(brokenWriter{}, passing(t), f, report.Options{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: got %v, want the writer's error", f, err)
		}
	}
}

func TestAScenarioThatTheClusterLacksSomethingForIsSkippedInEveryFormat(t *testing.T) {
	r := skipping(t)
	if s := r.Summary(); s.ExitCode != 0 || s.Result != compare.Pass || s.Scenarios.Skipped != 1 {
		t.Errorf("summary %+v, want what was judged to pass beside one skipped", s)
	}
	reason := r.Scenarios[1].Skipped
	for _, f := range report.Formats() {
		if text := string(render(t, r, f, report.Options{Width: 200})); !strings.Contains(text, reason) {
			t.Errorf("%s does not say %q:\n%s", f, reason, text)
		}
	}
	r.Scenarios = r.Scenarios[1:]
	if s := r.Summary(); s.ExitCode != 0 || s.Result != compare.Skipped {
		t.Errorf("summary %+v, want skipped and no failure when there is nothing else", s)
	}
	if text := string(render(t, r, report.Table, report.Options{})); !strings.Contains(text, "exit code 0: every scenario was skipped, nothing was judged") {
		t.Errorf("the table does not say that nothing was judged:\n%s", text)
	}
	r.Scenarios = append(r.Scenarios, report.Scenario{Name: "without-evidence"})
	if s := r.Summary(); s.ExitCode != 3 {
		t.Errorf("summary %+v, want a scenario without evidence or reason to be inconclusive", s)
	}
}
