package main

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/reach"
)

// twoCases is output of cyclonus v0.5.6 (generate --mock, so that everything was seen as allowed), cases 1 and 6, with invented times.
const twoCases = "testdata/two-cases.log"

func tables(t testing.TB) *Result {
	t.Helper()
	f, err := os.Open(twoCases)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := readTables(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStepsAreReadWithTheirTimes(t *testing.T) {
	type row struct {
		Case            string
		Number, Answers int
		Took            time.Duration
	}
	var got []row
	r := tables(t)
	for _, s := range r.Steps {
		got = append(got, row{s.Case, s.Number, len(s.Answers), s.Took})
	}
	want := []row{
		{"should support a 'default-deny-ingress' policy", 1, 324, 20 * time.Second},
		{"should allow ingress access on one named port", 1, 81, 20 * time.Second},
		{"should allow ingress access on one named port", 2, 324, 10 * time.Second},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Part{{"namespaces, pods and Services made", time.Second}}, r.Parts); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
}

func TestAnswersAreReadWithWhatCyclonusPromised(t *testing.T) {
	r := tables(t)
	for _, tt := range []struct {
		name string
		step int
		id   string
		want Answer
	}{
		{"a table that differs from the promise", 0, "y/a>x/b:TCP/81", Answer{Verdict: reach.Allow, Promised: reach.Deny}},
		{"the same table where it does not differ", 0, "x/b>y/a:UDP/80", Answer{Verdict: reach.Allow, Promised: reach.Allow}},
		{"a step of one port that cyclonus names", 1, "y/a>x/b:TCP/81", Answer{Verdict: reach.Allow, Promised: reach.Allow}},
		{"a step after it with every port", 2, "y/a>x/b:UDP/81", Answer{Verdict: reach.Allow, Promised: reach.Deny}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, have := r.Steps[tt.step].Answers[tt.id]
			if !have {
				t.Fatalf("no answer for %s; have %v", tt.id, slices.Sorted(maps.Keys(r.Steps[tt.step].Answers)))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

// smallest is a log of one step with one pod.
const smallest = `    0.500 starting test case #1
    1.000 time="" level=info msg="step 1: waiting 5 seconds for perturbation to take effect"
    9.000 evaluating test case: t
    9.000 step 1 on all available ports/protocols:
    9.000 0 wrong, 0 ignored, 1 correct
    9.000 +--------+-----+
    9.000 | TCP/80 | X/A |
    9.000 | UDP/80 |     |
    9.000 +--------+-----+
    9.000 | x/a    | . X |
    9.000 +--------+-----+
`

func TestSymbolsAreVerdicts(t *testing.T) {
	for symbol, want := range map[string]reach.Verdict{".": reach.Allow, "X": reach.Deny, "!": reach.Unknown, "?": reach.Unknown, "P": reach.Unknown} {
		r, err := readTables(strings.NewReader(strings.Replace(smallest, ". X", symbol+" X", 1)))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Steps[0].Answers["x/a>x/a:TCP/80"].Verdict; got != want {
			t.Errorf("%s: %s, want %s", symbol, got, want)
		}
	}
}

func TestALogThatIsNotWholeIsAnError(t *testing.T) {
	for name, tt := range map[string]struct{ old, new, want string }{
		"a line without its time":   {"    0.500 starting", "starting", "is no time"},
		"a step without a table":    {"| x/a    | . X |", "", "no time or no table"},
		"a step without times":      {"evaluating test case: t", "", "no time or no table"},
		"a cell with too few ports": {". X", ".", "1 symbols for 2 ports"},
		"a row with too few pods":   {"| x/a    | . X |", "| x/a |", "0 columns for 1 pods"},
		"a port nobody listens on":  {"on all available ports/protocols", "on port 99, protocol TCP", "no pod listens"},
		"a table before any step":   {"step 1 on all available ports/protocols:", "", "outside of any step"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(smallest, tt.old) {
				t.Fatalf("nothing to replace: %q", tt.old)
			}
			_, err := readTables(strings.NewReader(strings.Replace(smallest, tt.old, tt.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func FuzzReadTables(f *testing.F) {
	f.Add(smallest)
	f.Add("1 starting test case #1\n2 step 2 on port 80, protocol TCP:\n")
	f.Fuzz(func(t *testing.T, log string) {
		r, err := readTables(strings.NewReader(log))
		if (r == nil) == (err == nil) {
			t.Errorf("result %v with error %v", r, err)
		}
	})
}

func TestTheLogHasTheSecondsBeforeEachLine(t *testing.T) {
	var b strings.Builder
	var seen []string
	l := &stampedLog{to: &b, started: time.Now().Add(-time.Second), each: func(_ time.Duration, line string) { seen = append(seen, line) }}
	for _, piece := range []string{"fir", "st\nsec", "ond\n\nlast"} {
		if n, err := l.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatalf("wrote %d of %q: %v", n, piece, err)
		}
	}
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"first", "second", "", "last"}, seen); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	for _, line := range strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n") {
		if !strings.HasPrefix(line, "    1.0") {
			t.Errorf("line %q does not begin with the time", line)
		}
	}
}
