package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
)

// ErrNone reports a directory that holds neither a manifest nor a run.
var ErrNone = errors.New("holds no evidence")

// FormatError is a place in a file that cannot be read as what the file should hold.
type FormatError struct {
	File string
	// Line is counted from 1.
	Line int
	Err  error
}

// Error names the file and the line.
func (e *FormatError) Error() string {
	return fmt.Sprintf("reading evidence %s:%d: %v", e.File, e.Line, e.Err)
}

// Unwrap is what is wrong there.
func (e *FormatError) Unwrap() error { return e.Err }

// ReadReport is the report that the directory stores. Whether it follows from the evidence is for [Verify] to say.
func ReadReport(dir fs.FS) (*report.Report, error) {
	b, err := fs.ReadFile(dir, reportFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, fmt.Errorf("reading evidence: %w", err)
	}
	r, err := report.ReadJSON(bytes.NewReader(b))
	if err != nil {
		return nil, &FormatError{reportFile, lineOf(b, err, int64(len(b))), err}
	}
	return r, nil
}

// Rebuild makes the report of a run again, from the raw files alone. A file that is missing is [fs.ErrNotExist], one that cannot be read
// a [*FormatError].
func Rebuild(dir fs.FS) (*report.Report, error) {
	r := reader{dir: dir}
	whole, err := r.all()
	if err != nil {
		return nil, err
	}
	return whole.rebuild(), nil
}

// kept is everything raw of one run.
type kept struct {
	run Run
	// seal is nil where no seal was asked about, hubble where Hubble was not.
	seal   *Seal
	hubble *corroborated
	all    []record
}

// record is everything of one scenario: what was read, and the plan that follows from it.
type record struct {
	folder string
	loaded loaded
	plan   *plan.Plan
	// plans has one entry per step that was begun: the plan since, which is another one where pods were made again.
	plans []*plan.Plan
	// facts has one entry for each of plans.
	facts    []plan.Facts
	baseline []probes.Observation
	policies []stored
	cluster  []storedCluster
	steps    []step
	// rounds has one entry per step.
	rounds [][]compare.Round
}

func (w kept) rebuild() *report.Report {
	run := w.run
	rep := &report.Report{Run: run.Run, Started: run.Started, Took: run.Took, Level: run.Level, LevelReason: run.LevelReason, Versions: run.Versions}
	rep.Scenarios = append(rep.Scenarios, run.Skipped...)
	for i, rec := range w.all {
		ended := run.Scenarios[i]
		sc := report.Scenario{Name: rec.plan.Name, Title: rec.loaded.Scenario.Metadata.Title, File: rec.loaded.File, Took: ended.Took, Fault: ended.Fault, Ignored: rec.loaded.Ignored}
		for _, o := range rec.loaded.Omissions {
			sc.Omissions = append(sc.Omissions, report.Omission(o))
		}
		for n := range rec.steps {
			sc.Steps = append(sc.Steps, rec.step(run, n, ended.Steps[n]))
		}
		rep.Scenarios = append(rep.Scenarios, sc)
	}
	rep.Explain(run.Baseline)
	if w.seal != nil {
		rep.Seal = report.NewSeal(w.seal.Spec.Judge(w.seal.Facts))
	}
	if w.hubble != nil {
		rep.Corroborate(w.hubble.reading, func(i, k, n int) ([]hubble.Flow, string) {
			at := i - len(run.Skipped)
			j := &rep.Scenarios[i].Steps[k].Judgements[n]
			_, why := w.all[at].tuple(k, j)
			return w.hubble.flows[place{at, k, j.Attempt.ID}], why
		})
	}
	return rep
}

// step judges the n-th step again.
func (rec *record) step(run Run, n int, took time.Duration) report.Step {
	p := rec.plans[n]
	measured := rec.steps[n]
	out := report.Step{
		Name: p.Steps[n].Name, Enforced: measured.Enforced, Decided: measured.Decided, Confirm: measured.Confirm,
		Rounds: len(rec.rounds[n]), Took: took,
	}
	out.Judgements, out.Gaps = compare.JudgeRounds(p.Attempts, p.Steps[n].Promises, rec.rounds[n], measured.Confirm)
	for i := range out.Judgements {
		if j := &out.Judgements[i]; j.Result != compare.Pass {
			j.Replay = compare.Replay(rec.loaded.File, j.Attempt.ID, run.Options.Replay...)
		}
	}
	return out
}

// reader reads raw files and holds each against what writing it again gives, so that nothing hides in what a decoder passes over.
type reader struct {
	dir fs.FS
	// strange are the places, one per file, that say more, or say it otherwise, than what was read from them.
	strange []Difference
}

// all reads the run, its seal if it has one and its scenarios, and checks that they fit together as far as rebuilding needs it.
func (r *reader) all() (kept, error) {
	var w kept
	run := &w.run
	if err := r.document(runFile, run); err != nil {
		return w, err
	}
	if run.APIVersion != APIVersion || run.Kind != RunKind {
		return w, &FormatError{runFile, 1, fmt.Errorf("it is %s %s, want %s %s", run.APIVersion, run.Kind, APIVersion, RunKind)}
	}
	var err error
	if w.seal, err = r.seal(); err != nil {
		return w, err
	}
	for i, ended := range run.Scenarios {
		rec, err := r.scenario(*run, folder(i, ended.Name))
		if err != nil {
			return w, err
		}
		if len(ended.Steps) != len(rec.steps) {
			return w, &FormatError{runFile, 1, fmt.Errorf("scenarios[%d].steps: %d entries, but %s has %d", i, len(ended.Steps), rec.folder+"/"+stepsFile, len(rec.steps))}
		}
		w.all = append(w.all, rec)
	}
	w.hubble, err = r.hubble(w.all)
	return w, err
}

// seal reads what the seal was put to the proof with; nil where it was not. The report tells when the file has been taken away.
func (r *reader) seal() (*Seal, error) {
	var s Seal
	switch err := r.document(sealFile, &s); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case s.APIVersion != APIVersion || s.Kind != SealKind:
		return nil, &FormatError{sealFile, 1, fmt.Errorf("it is %s %s, want %s %s", s.APIVersion, s.Kind, APIVersion, SealKind)}
	}
	return &s, nil
}

func (r *reader) scenario(run Run, folder string) (record, error) {
	rec := record{folder: folder}
	if err := r.document(folder+"/"+scenarioFile, &rec.loaded); err != nil {
		return rec, err
	}
	s, err := rec.loaded.unload()
	if err != nil {
		return rec, &FormatError{folder + "/" + scenarioFile, 1, err}
	}
	var facts plan.Facts
	if err := r.document(folder+"/"+factsFile, &facts); err != nil {
		return rec, err
	}
	if rec.plan, err = plan.Build(s, facts); err == nil && run.Options.Attempt != "" {
		rec.plan, err = rec.plan.Only(run.Options.Attempt)
	}
	if err != nil {
		return rec, &FormatError{folder + "/" + scenarioFile, 1, err}
	}
	if rec.baseline, err = lines[probes.Observation](r, folder+"/"+baselineFile); err != nil {
		return rec, err
	}
	if len(rec.baseline) != len(rec.plan.Attempts) {
		return rec, &FormatError{folder + "/" + baselineFile, len(rec.baseline) + 1, fmt.Errorf("%d observations for %d attempts", len(rec.baseline), len(rec.plan.Attempts))}
	}
	if rec.policies, err = lines[stored](r, folder+"/"+policiesFile); err != nil {
		return rec, err
	}
	if rec.cluster, err = lines[storedCluster](r, folder+"/"+clusterPoliciesFile); err != nil {
		return rec, err
	}
	if err := r.rounds(&rec); err != nil {
		return rec, err
	}
	return rec, r.plans(&rec, facts)
}

// plans renews the plan at every step that made pods again, as the run did. The step at which a run ended may have left its facts, or not.
func (r *reader) plans(rec *record, facts plan.Facts) error {
	current := rec.plan
	for n := range min(len(rec.plan.Steps), len(rec.steps)+1) {
		if len(current.Remade(n)) > 0 {
			name := rec.folder + "/" + factsSince(n)
			facts = plan.Facts{}
			err := r.document(name, &facts)
			if n == len(rec.steps) && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if current, err = current.Renew(n, facts); err != nil {
				return &FormatError{name, 1, err}
			}
		}
		rec.plans, rec.facts = append(rec.plans, current), append(rec.facts, facts)
	}
	return nil
}

// rounds reads what was measured and observed of every step, in the order of the plan.
func (r *reader) rounds(rec *record) error {
	var err error
	name := rec.folder + "/" + stepsFile
	if rec.steps, err = lines[step](r, name); err != nil {
		return err
	}
	if len(rec.steps) > len(rec.plan.Steps) {
		return &FormatError{name, len(rec.plan.Steps) + 1, fmt.Errorf("the scenario has %d steps", len(rec.plan.Steps))}
	}
	list, err := lines[observed](r, rec.folder+"/"+observationsFile)
	if err != nil {
		return err
	}
	at := 0
	for n, st := range rec.steps {
		if st.Step != rec.plan.Steps[n].Name {
			return &FormatError{name, n + 1, fmt.Errorf("step %q, want %q", st.Step, rec.plan.Steps[n].Name)}
		}
		if len(st.Rounds) == 0 {
			return &FormatError{name, n + 1, errors.New("rounds: is empty")}
		}
		var rounds []compare.Round
		for k, after := range st.Rounds {
			round := compare.Round{After: after}
			for _, a := range rec.plan.Attempts {
				where := &FormatError{File: rec.folder + "/" + observationsFile, Line: at + 1}
				if at >= len(list) {
					where.Err = fmt.Errorf("it ends before step %q, round %d, attempt %s", st.Step, k+1, a.ID)
					return where
				}
				if o := list[at]; o.Step != st.Step || o.Round != k+1 || o.Observation.Attempt.ID != a.ID {
					where.Err = fmt.Errorf("step %q, round %d, attempt %s; want step %q, round %d, attempt %s", o.Step, o.Round, o.Observation.Attempt.ID, st.Step, k+1, a.ID)
					return where
				}
				round.Observations = append(round.Observations, list[at].Observation)
				at++
			}
			rounds = append(rounds, round)
		}
		rec.rounds = append(rec.rounds, rounds)
	}
	if at != len(list) {
		return &FormatError{rec.folder + "/" + observationsFile, at + 1, errors.New("no round is left for it")}
	}
	return nil
}

// document reads one JSON object.
func (r *reader) document(name string, v any) error {
	b, err := fs.ReadFile(r.dir, name)
	if err != nil {
		return fmt.Errorf("reading evidence: %w", err)
	}
	if err := strictly(b, v); err != nil {
		return &FormatError{name, lineOf(b, err, int64(len(b))), err}
	}
	var again bytes.Buffer
	if err := writeDocument(&again, v); err != nil || !bytes.Equal(again.Bytes(), b) {
		r.strangeAt(name, firstOther(b, again.Bytes()))
	}
	return nil
}

func (r *reader) strangeAt(name string, line int) {
	if !slices.ContainsFunc(r.strange, func(d Difference) bool { return d.File == name }) {
		r.strange = append(r.strange, Difference{File: name, Line: line, What: strangeWords})
	}
}

// strangeWords are for what a decoder passes over.
const strangeWords = "says something that gapproof does not write: repeated or reordered members, or other spacing"

// firstOther is the first line of b, counted from 1, that is not the same in want.
func firstOther(b, want []byte) int {
	n := 0
	for n < len(b) && n < len(want) && b[n] == want[n] {
		n++
	}
	return 1 + bytes.Count(b[:n], []byte("\n"))
}

// lines reads a file of one JSON object per line.
func lines[T any](r *reader, name string) ([]T, error) {
	b, err := fs.ReadFile(r.dir, name)
	if err != nil {
		return nil, fmt.Errorf("reading evidence: %w", err)
	}
	var out []T
	var again bytes.Buffer
	for n := 1; len(b) > 0; n++ {
		line, rest, ended := bytes.Cut(b, []byte("\n"))
		if !ended {
			return nil, &FormatError{name, n, errors.New("the line does not end")}
		}
		var v T
		if err := strictly(line, &v); err != nil {
			return nil, &FormatError{name, n, err}
		}
		again.Reset()
		if err := writeLine(&again, v); err != nil || !bytes.Equal(bytes.TrimSuffix(again.Bytes(), []byte("\n")), line) {
			r.strangeAt(name, n)
		}
		out, b = append(out, v), rest
	}
	return out, nil
}

// strictly decodes one JSON value without unknown members and with nothing behind it.
func strictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// lineOf is the line of a decoding error in b, or of the offset where the error names none.
func lineOf(b []byte, err error, offset int64) int {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	default: // the decoder names a member that it does not know, and not where it is
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			offset = int64(max(bytes.Index(b, []byte(name+":")), 0))
		}
	}
	return 1 + bytes.Count(b[:min(max(offset, 0), int64(len(b)))], []byte("\n"))
}
