package evidence

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal"
)

// Difference is one thing in a directory that is not as the rest of it says.
type Difference struct {
	File string
	// Line is counted from 1; zero where only the whole file can be named, as by a digest.
	Line int
	// Attempt is the ID of the attempt it concerns; empty when it concerns none or more than one.
	Attempt string
	// What says what differs.
	What string
}

// String is "file:line: attempt: what", without the parts that are not known.
func (d Difference) String() string {
	words := d.File
	if d.Line > 0 {
		words += ":" + strconv.Itoa(d.Line)
	}
	if d.Attempt != "" {
		words += ": " + d.Attempt
	}
	return words + ": " + d.What
}

// Verification is what verifying a directory found.
type Verification struct {
	// Digest is the SHA-256 of the manifest in hexadecimal. A copy of it that is kept elsewhere shows that nobody wrote everything anew.
	Digest string
	// WrittenBy is the version of gapproof that made the run: another one may word its reasons differently.
	WrittenBy string
	// Files, Scenarios and Judgements count what was held against each other.
	Files, Scenarios, Judgements int
	// Seal is the verdict that follows from what was found of the seal; empty where there is none.
	Seal seal.Verdict
	// Differences are all that were found; none means that every conclusion follows from the evidence.
	Differences []Difference
}

// Verify holds everything in dir against the rest of it: files against the manifest; verdicts, results, the plan, the notes and the log against what
// follows from the raw files; the API server's policies against the planned ones. It returns [ErrNone] for a directory without evidence and a
// [*FormatError] for a file that cannot be read; the verification then holds what was found so far.
func Verify(dir fs.FS) (*Verification, error) {
	v := &verifier{dir: dir}
	if err := v.manifest(); err != nil {
		return &v.Verification, err
	}
	r := reader{dir: dir}
	w, err := r.all()
	v.Differences = append(v.Differences, r.strange...)
	v.WrittenBy = w.run.Versions.Gapproof
	var missing *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &missing):
		v.missing(missing.Path)
		return &v.Verification, nil
	case err != nil:
		return &v.Verification, err
	}
	v.unknown(w)
	for _, rec := range w.all {
		v.facts(rec)
		v.policies(rec)
		v.clusterPolicies(rec)
	}
	if err := v.conclusions(w); err != nil {
		return &v.Verification, err
	}
	return &v.Verification, nil
}

type verifier struct {
	dir    fs.FS
	listed []File
	Verification
}

// add tells of a line of a file, or with line 0 of all of it.
func (v *verifier) add(file string, line int, attempt, format string, args ...any) {
	v.Differences = append(v.Differences, Difference{file, line, attempt, fmt.Sprintf(format, args...)})
}

// manifest holds every file against its entry.
func (v *verifier) manifest() error {
	b, err := fs.ReadFile(v.dir, manifestFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := fs.Stat(v.dir, runFile); errors.Is(err, fs.ErrNotExist) {
			return ErrNone
		}
		v.add(manifestFile, 0, "", "is missing: the run did not end, or somebody removed it")
		return nil
	case err != nil:
		return fmt.Errorf("reading evidence: %w", err)
	}
	sum := sha256.Sum256(b)
	v.Digest = hex.EncodeToString(sum[:])
	var m Manifest
	r := reader{dir: v.dir}
	if err := r.document(manifestFile, &m); err != nil {
		return err
	}
	if m.APIVersion != APIVersion || m.Kind != ManifestKind {
		return &FormatError{manifestFile, 1, fmt.Errorf("it is %s %s, want %s %s", m.APIVersion, m.Kind, APIVersion, ManifestKind)}
	}
	v.Differences = append(v.Differences, r.strange...)
	v.listed = m.Files
	listed := map[string]File{}
	at := linesOf(b)
	for i, f := range m.Files {
		line := at[fmt.Sprintf("files[%d]", i)]
		if _, twice := listed[f.Name]; twice {
			v.add(manifestFile, line, "", "lists %s twice", f.Name)
		}
		if i > 0 && f.Name < m.Files[i-1].Name {
			v.add(manifestFile, line, "", "lists %s behind %s", f.Name, m.Files[i-1].Name)
		}
		listed[f.Name] = f
	}
	v.Files = len(listed)
	if err := v.walk(listed); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		v.add(name, 0, "", "is missing")
	}
	return nil
}

// walk hashes what is there and takes it out of listed.
func (v *verifier) walk(listed map[string]File) error {
	return fs.WalkDir(v.dir, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("reading evidence: %w", err)
		case d.IsDir(), name == manifestFile:
			return nil
		case !d.Type().IsRegular():
			v.add(name, 0, "", "is not a regular file")
			delete(listed, name)
			return nil
		}
		want, ok := listed[name]
		delete(listed, name)
		if !ok {
			v.add(name, 0, "", "is not listed in the manifest")
			return nil
		}
		f, err := v.dir.Open(name)
		if err != nil {
			return fmt.Errorf("reading evidence: %w", err)
		}
		sum := sha256.New()
		size, err := io.Copy(sum, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("reading evidence %s: %w", name, err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); size != want.Size || got != want.SHA256 {
			v.add(name, 0, "", "has %d bytes and SHA-256 %s; the manifest says %d and %s", size, got, want.Size, want.SHA256)
		}
		return nil
	})
}

// missing tells of a file that is not there, once.
func (v *verifier) missing(name string) {
	if !slices.ContainsFunc(v.Differences, func(d Difference) bool { return d.File == name }) {
		v.add(name, 0, "", "is missing")
	}
}

// unknown tells of listed files that nothing is read from: they would be evidence of nothing under a good manifest.
func (v *verifier) unknown(w kept) {
	known := []string{runFile, notesFile, reportFile}
	if w.seal != nil {
		known = append(known, sealFile)
	}
	if w.hubble != nil {
		known = append(known, hubbleFile, flowsFile)
	}
	for _, rec := range w.all {
		for _, name := range []string{
			scenarioFile, factsFile, baselineFile, policiesFile, clusterPoliciesFile, stepsFile, observationsFile, planFile, attemptsFile,
		} {
			known = append(known, rec.folder+"/"+name)
		}
		for n, p := range rec.plans {
			if len(p.Remade(n)) > 0 {
				known = append(known, rec.folder+"/"+factsSince(n), rec.folder+"/"+planSince(n))
			}
		}
	}
	for _, f := range v.listed {
		if !slices.Contains(known, f.Name) {
			v.add(f.Name, 0, "", "belongs to no scenario of the run")
		}
	}
}

// facts holds the observations of one scenario against its plan and its baseline.
func (v *verifier) facts(rec record) {
	for i, o := range rec.baseline {
		a := rec.plan.Attempts[i]
		v.attempt(rec.folder+"/"+baselineFile, i+1, a, o)
		bare := o
		bare.Control.BaselineFault = ""
		if want := compare.BaselineFault(bare, a); o.Control.BaselineFault != want {
			v.add(rec.folder+"/"+baselineFile, i+1, a.ID, "baselineFault: stored %q, derived %q", o.Control.BaselineFault, want)
		}
	}
	file := rec.folder + "/" + observationsFile
	ground := compare.NewGround(rec.baseline)
	line := 0
	for n, rounds := range rec.rounds {
		p := rec.plans[n]
		promises := p.Steps[n].Promises
		ground.Remake(p.Attempts, p.Remade(n))
		derived := make([]compare.Round, len(rounds))
		for k, r := range rounds {
			derived[k].Observations = slices.Clone(r.Observations)
			for i := range derived[k].Observations {
				c, base := &derived[k].Observations[i].Control, ground.Base[i]
				c.Baseline, c.BaselineFault, c.Instead = base.Outcome.Kind, base.Control.BaselineFault, ""
			}
		}
		if len(rounds) > 0 {
			ground.Hold(compare.Backends(p.Attempts, promises), promises, derived)
		}
		for k, r := range rounds {
			for i, o := range r.Observations {
				line++
				v.attempt(file, line, p.Attempts[i], o)
				got, want := o.Control, derived[k].Observations[i].Control
				if got != want {
					v.add(file, line, o.Attempt.ID, "control: the baseline is %s %q %q, derived is %s %q %q", got.Baseline, got.BaselineFault, got.Instead,
						want.Baseline, want.BaselineFault, want.Instead)
				}
			}
		}
	}
}

// attempt holds what was sent against what was planned, and the outcome against what was sent.
func (v *verifier) attempt(file string, line int, a plan.Planned, o probes.Observation) {
	if got := o.Attempt; got.ID != a.ID || got.Protocol != a.Protocol || got.Destination != a.Address || got.Name != a.Name {
		v.add(file, line, a.ID, "attempt: sent %s %s to %s%s, planned %s to %s%s", got.ID, got.Protocol, valid(got.Destination), got.Name, a.Protocol, valid(a.Address), a.Name)
	}
	if got := o.Attempt.Family; a.Kind == plan.Lookup && got != a.Records() {
		v.add(file, line, a.ID, "attempt: asked for records of %s, planned %s", got, a.Records())
	}
	if id := o.Outcome.AttemptID; id != o.Attempt.ID && (id != "" || o.Outcome.Kind != probes.OutcomeUnknown) {
		v.add(file, line, a.ID, "outcome: is of attempt %q", id)
	}
}

// conclusions makes every derived file again and holds the stored one against it.
func (v *verifier) conclusions(w kept) error {
	rep := w.rebuild()
	v.flows(w, rep)
	if rep.Seal != nil {
		v.Seal = rep.Seal.Verdict
	}
	v.Scenarios = len(rep.Scenarios)
	for i, rec := range w.all {
		var log bytes.Buffer
		if err := v.samePlan(rec.folder+"/"+planFile, rec.plan); err != nil {
			return err
		}
		for n, p := range rec.plans {
			if len(p.Remade(n)) == 0 {
				continue
			}
			if err := v.samePlan(rec.folder+"/"+planSince(n), p); err != nil {
				return err
			}
		}
		for n, st := range rep.Scenarios[len(w.run.Skipped)+i].Steps {
			v.Judgements += len(st.Judgements)
			writeAttempts(&log, rec.plan.Name, rec.plans[n], n, st.Judgements, rec.rounds[n])
		}
		if err := v.sameLog(rec.folder+"/"+attemptsFile, log.Bytes()); err != nil {
			return err
		}
	}
	var notes, whole bytes.Buffer
	if err := writeDocument(&notes, notesOf(rep)); err != nil {
		return fmt.Errorf("writing the notes: %w", err)
	}
	if err := v.same(notesFile, notes.Bytes()); err != nil {
		return err
	}
	if err := report.RenderJSON(&whole, rep, report.Options{}); err != nil {
		return err
	}
	return v.same(reportFile, whole.Bytes())
}

// stored is a file's content; false when it is missing, which the manifest told, or tells here.
func (v *verifier) stored(name string) ([]byte, bool, error) {
	b, err := fs.ReadFile(v.dir, name)
	if errors.Is(err, fs.ErrNotExist) {
		v.missing(name)
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading evidence: %w", err)
	}
	return b, true, nil
}

func (v *verifier) samePlan(name string, p *plan.Plan) error {
	var planned bytes.Buffer
	if err := writeDocument(&planned, p); err != nil {
		return fmt.Errorf("writing the plan of %s: %w", p.Name, err)
	}
	return v.same(name, planned.Bytes())
}

// same holds a stored JSON document against the derived one.
func (v *verifier) same(name string, derived []byte) error {
	b, ok, err := v.stored(name)
	if err != nil || !ok || bytes.Equal(b, derived) {
		return err
	}
	var is, should any
	if err := json.Unmarshal(b, &is); err != nil {
		return &FormatError{name, lineOf(b, err, int64(len(b))), err}
	}
	if err := json.Unmarshal(derived, &should); err != nil {
		return fmt.Errorf("reading what was just written: %w", err)
	}
	before := len(v.Differences)
	(&contrast{v: v, file: name, lines: linesOf(b), root: should}).value("", "", is, should)
	if len(v.Differences) == before {
		v.add(name, firstOther(b, derived), "", strangeWords)
	}
	return nil
}

// sameLog holds a stored log against the derived one, line by line.
func (v *verifier) sameLog(name string, derived []byte) error {
	b, ok, err := v.stored(name)
	if err != nil || !ok || bytes.Equal(b, derived) {
		return err
	}
	is, should := bytes.SplitAfter(b, []byte("\n")), bytes.SplitAfter(derived, []byte("\n"))
	for i := range max(len(is), len(should)) {
		var a, d []byte
		if i < len(is) {
			a = is[i]
		}
		if i < len(should) {
			d = should[i]
		}
		if !bytes.Equal(a, d) {
			v.add(name, i+1, attemptOfLine(d), "stored %q, derived %q", a, d)
			break // what follows is often only shifted
		}
	}
	return nil
}
