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

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
)

// Difference is one thing in a directory that is not as the rest of it says.
type Difference struct {
	File string
	// Attempt is the ID of the attempt it concerns; empty when it concerns none or more than one.
	Attempt string
	// What says what differs.
	What string
}

// String is "file: attempt: what".
func (d Difference) String() string {
	if d.Attempt == "" {
		return d.File + ": " + d.What
	}
	return d.File + ": " + d.Attempt + ": " + d.What
}

// Verification is what verifying a directory found.
type Verification struct {
	// Digest is the SHA-256 of the manifest in hexadecimal. A copy of it that is kept elsewhere shows that nobody wrote everything anew.
	Digest string
	// WrittenBy is the version of gapproof that made the run: another one may word its reasons differently.
	WrittenBy string
	// Files, Scenarios and Judgements count what was held against each other.
	Files, Scenarios, Judgements int
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
	run, all, err := r.all()
	for _, name := range r.strange {
		v.add(name, "", "says something that gapproof does not write: repeated or reordered members, or other spacing")
	}
	v.WrittenBy = run.Versions.Gapproof
	var missing *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &missing):
		v.missing(missing.Path)
		return &v.Verification, nil
	case err != nil:
		return &v.Verification, err
	}
	v.unknown(all)
	for _, rec := range all {
		v.facts(rec)
		v.policies(rec)
	}
	if err := v.conclusions(run, all); err != nil {
		return &v.Verification, err
	}
	return &v.Verification, nil
}

type verifier struct {
	dir    fs.FS
	listed []File
	Verification
}

func (v *verifier) add(file, attempt, format string, args ...any) {
	v.Differences = append(v.Differences, Difference{file, attempt, fmt.Sprintf(format, args...)})
}

// manifest holds every file against its entry.
func (v *verifier) manifest() error {
	b, err := fs.ReadFile(v.dir, manifestFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := fs.Stat(v.dir, runFile); errors.Is(err, fs.ErrNotExist) {
			return ErrNone
		}
		v.add(manifestFile, "", "is missing: the run did not end, or somebody removed it")
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
	if len(r.strange) > 0 {
		v.add(manifestFile, "", "says something that gapproof does not write: repeated or reordered members, or other spacing")
	}
	v.listed = m.Files
	listed := map[string]File{}
	for _, f := range m.Files {
		if _, twice := listed[f.Name]; twice {
			v.add(f.Name, "", "is listed twice in the manifest")
		}
		listed[f.Name] = f
	}
	v.Files = len(listed)
	if err := v.walk(listed); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		v.add(name, "", "is missing")
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
			v.add(name, "", "is not a regular file")
			delete(listed, name)
			return nil
		}
		want, ok := listed[name]
		delete(listed, name)
		if !ok {
			v.add(name, "", "is not listed in the manifest")
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
			v.add(name, "", "has %d bytes and SHA-256 %s; the manifest says %d and %s", size, got, want.Size, want.SHA256)
		}
		return nil
	})
}

// missing tells of a file that is not there, once.
func (v *verifier) missing(name string) {
	if !slices.ContainsFunc(v.Differences, func(d Difference) bool { return d.File == name }) {
		v.add(name, "", "is missing")
	}
}

// unknown tells of listed files that nothing is read from: they would be evidence of nothing under a good manifest.
func (v *verifier) unknown(all []record) {
	known := []string{runFile, notesFile, reportFile}
	for _, rec := range all {
		for _, name := range []string{scenarioFile, factsFile, baselineFile, policiesFile, stepsFile, observationsFile, planFile, attemptsFile} {
			known = append(known, rec.folder+"/"+name)
		}
	}
	for _, f := range v.listed {
		if !slices.Contains(known, f.Name) {
			v.add(f.Name, "", "belongs to no scenario of the run")
		}
	}
}

// facts holds the observations of one scenario against its plan and its baseline.
func (v *verifier) facts(rec record) {
	for i, o := range rec.baseline {
		a := rec.plan.Attempts[i]
		v.attempt(rec.folder+"/"+baselineFile, a, o)
		bare := o
		bare.Control.BaselineFault = ""
		if want := compare.BaselineFault(bare, a); o.Control.BaselineFault != want {
			v.add(rec.folder+"/"+baselineFile, a.ID, "baselineFault: stored %q, derived %q", o.Control.BaselineFault, want)
		}
	}
	file := rec.folder + "/" + observationsFile
	ground := compare.NewGround(rec.baseline)
	for n, rounds := range rec.rounds {
		promises := rec.plan.Steps[n].Promises
		derived := make([]compare.Round, len(rounds))
		for k, r := range rounds {
			derived[k].Observations = slices.Clone(r.Observations)
			for i := range derived[k].Observations {
				c, base := &derived[k].Observations[i].Control, ground.Base[i]
				c.Baseline, c.BaselineFault, c.Instead = base.Outcome.Kind, base.Control.BaselineFault, ""
			}
		}
		if len(rounds) > 0 {
			ground.Hold(compare.Backends(rec.plan.Attempts, promises), promises, derived)
		}
		for k, r := range rounds {
			for i, o := range r.Observations {
				v.attempt(file, rec.plan.Attempts[i], o)
				got, want := o.Control, derived[k].Observations[i].Control
				if got != want {
					v.add(file, o.Attempt.ID, "control: the baseline is %s %q %q, derived is %s %q %q", got.Baseline, got.BaselineFault, got.Instead,
						want.Baseline, want.BaselineFault, want.Instead)
				}
			}
		}
	}
}

// attempt holds what was sent against what was planned, and the outcome against what was sent.
func (v *verifier) attempt(file string, a plan.Planned, o probes.Observation) {
	if got := o.Attempt; got.ID != a.ID || got.Protocol != a.Protocol || got.Destination != a.Address || got.Name != a.Name {
		v.add(file, a.ID, "attempt: sent %s %s to %s%s, planned %s to %s%s", got.ID, got.Protocol, valid(got.Destination), got.Name, a.Protocol, valid(a.Address), a.Name)
	}
	if got := o.Attempt.Family; a.Kind == plan.Lookup && got != a.Family {
		v.add(file, a.ID, "attempt: asked for records of %s, planned %s", got, a.Family)
	}
	if id := o.Outcome.AttemptID; id != o.Attempt.ID && (id != "" || o.Outcome.Kind != probes.OutcomeUnknown) {
		v.add(file, a.ID, "outcome: is of attempt %q", id)
	}
}

// policies holds what the API server returned after every step against the policies that the plan has in effect then.
func (v *verifier) policies(rec record) {
	file := rec.folder + "/" + policiesFile
	held := map[string]map[string]networkingv1.NetworkPolicy{}
	for _, s := range rec.policies {
		if !slices.ContainsFunc(rec.plan.Steps, func(st plan.Step) bool { return st.Name == s.Step }) {
			v.add(file, "", "step %q: the scenario has none of that name", s.Step)
		}
		if held[s.Step] == nil {
			held[s.Step] = map[string]networkingv1.NetworkPolicy{}
		}
		key := s.Policy.Namespace + "/" + s.Policy.Name
		if s.Policy.APIVersion != networkingv1.SchemeGroupVersion.String() || s.Policy.Kind != policyKind {
			v.add(file, "", "step %q: policy %s is of %s %s", s.Step, key, s.Policy.APIVersion, s.Policy.Kind)
		}
		if _, twice := held[s.Step][key]; twice {
			v.add(file, "", "step %q: policy %s is there twice", s.Step, key)
		}
		held[s.Step][key] = s.Policy
	}
	for n, st := range rec.plan.Steps {
		if n >= len(rec.steps) && held[st.Name] == nil {
			continue // the run ended before it
		}
		for _, p := range st.Policies {
			key := p.Spec.Namespace + "/" + p.Spec.Name
			got, ok := held[st.Name][key]
			delete(held[st.Name], key)
			if !ok {
				v.add(file, "", "step %q: policy %s is planned and the API server did not hold it", st.Name, key)
				continue
			}
			want, err1 := json.Marshal(defaulted(p.Spec.Spec))
			have, err2 := json.Marshal(got.Spec)
			if err := errors.Join(err1, err2); err != nil {
				v.add(file, "", "step %q: policy %s: %v", st.Name, key, err)
			} else if !bytes.Equal(want, have) {
				v.add(file, "", "step %q: policy %s: the API server held %s, planned is %s", st.Name, key, have, want)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(held[st.Name])) {
			v.add(file, "", "step %q: policy %s: the API server held it and it is not planned", st.Name, key)
		}
	}
}

// defaulted is a spec as the API server stores it: SetDefaults_NetworkPolicy and SetDefaults_NetworkPolicyPort in
// https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/networking/v1/defaults.go.
func defaulted(spec networkingv1.NetworkPolicySpec) networkingv1.NetworkPolicySpec {
	spec = *spec.DeepCopy()
	if len(spec.PolicyTypes) == 0 {
		spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	tcp := corev1.ProtocolTCP
	protocols := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = &tcp
			}
		}
	}
	for i := range spec.Ingress {
		protocols(spec.Ingress[i].Ports)
	}
	for i := range spec.Egress {
		protocols(spec.Egress[i].Ports)
	}
	return spec
}

// conclusions makes every derived file again and holds the stored one against it.
func (v *verifier) conclusions(run Run, all []record) error {
	rep := rebuild(run, all)
	v.Scenarios = len(rep.Scenarios)
	for i, rec := range all {
		var planned, log bytes.Buffer
		if err := writeDocument(&planned, rec.plan); err != nil {
			return fmt.Errorf("writing the plan of %s: %w", rec.plan.Name, err)
		}
		if err := v.same(rec.folder+"/"+planFile, planned.Bytes()); err != nil {
			return err
		}
		for n, st := range rep.Scenarios[len(run.Skipped)+i].Steps {
			v.Judgements += len(st.Judgements)
			writeAttempts(&log, rec.plan.Name, rec.plan, n, st.Judgements, rec.rounds[n])
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
	(&contrast{v: v, file: name, root: should}).value("", "", is, should)
	if len(v.Differences) == before {
		v.add(name, "", "says something that gapproof does not write: repeated or reordered members, or other spacing")
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
			v.add(name, attemptOfLine(d), "line %d: stored %q, derived %q", i+1, a, d)
			break // what follows is often only shifted
		}
	}
	return nil
}
