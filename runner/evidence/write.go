package evidence

import (
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/hubble"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal"
)

// ErrNotEmpty reports a directory that holds something already: evidence of two runs in one place would be evidence of neither.
var ErrNotEmpty = errors.New("directory is not empty")

// Writer writes the evidence of one run into a directory. Its methods are called from one goroutine at a time, in the order of the run:
// Planned once per scenario, then Accepted and Observed for its steps, Sealed if its cluster is, Corroborated if
// Hubble was asked, Close at the end.
type Writer struct {
	dir     string
	options Options
	files   []File
	// The scenario that is being written.
	count  int
	folder string
	plan   *plan.Plan
	step   int
	open   map[string]*output
}

// New makes the directory, or takes an empty one. Any other is [ErrNotEmpty].
func New(dir string, o Options) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the evidence directory: %w", err)
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the evidence directory: %w", err)
	}
	if len(there) > 0 {
		return nil, fmt.Errorf("using %s for evidence: %w", dir, ErrNotEmpty)
	}
	return &Writer{dir: dir, options: o, open: map[string]*output{}}, nil
}

// Planned begins a scenario: its own words, the facts, the plan and the baseline, with one observation per attempt.
func (w *Writer) Planned(p *plan.Plan, f plan.Facts, baseline []probes.Observation) error {
	if err := w.end(); err != nil {
		return err
	}
	w.plan, w.step = p, 0
	dir := folder(w.count, p.Name)
	w.folder = dir
	w.count++
	for name, v := range map[string]any{scenarioFile: load(p.Scenario), factsFile: f, planFile: p} {
		if err := w.document(dir+"/"+name, v); err != nil {
			return err
		}
	}
	for _, name := range []string{baselineFile, policiesFile, clusterPoliciesFile, stepsFile, observationsFile, attemptsFile} {
		out, err := w.create(dir + "/" + name)
		if err != nil {
			return err
		}
		w.open[name] = out
	}
	for _, o := range baseline {
		if err := writeLine(w.open[baselineFile], o); err != nil {
			return fmt.Errorf("writing evidence: %w", err)
		}
	}
	return w.flush()
}

// Held are the policies of a run that the API server holds, as it returned them, each kind in the order of namespaces and names.
type Held struct {
	Policies []networkingv1.NetworkPolicy
	Cluster  []unstructured.Unstructured
}

// Accepted keeps the policies that the API server holds after it took the changes of the step of this index; and of a step that made pods
// again the plan and the facts since.
func (w *Writer) Accepted(p *plan.Plan, step int, f plan.Facts, h Held) error {
	w.plan = p
	if len(p.Remade(step)) > 0 {
		if err := w.document(w.folder+"/"+factsSince(step), f); err != nil {
			return err
		}
		if err := w.document(w.folder+"/"+planSince(step), p); err != nil {
			return err
		}
	}
	name := p.Steps[step].Name
	for _, held := range h.Policies {
		held.APIVersion, held.Kind = networkingv1.SchemeGroupVersion.String(), policyKind // a typed client leaves them out of lists
		if err := writeLine(w.open[policiesFile], stored{name, held}); err != nil {
			return fmt.Errorf("writing evidence: %w", err)
		}
	}
	for _, held := range h.Cluster {
		if err := writeLine(w.open[clusterPoliciesFile], storedCluster{name, held.Object}); err != nil {
			return fmt.Errorf("writing evidence: %w", err)
		}
	}
	return w.flush()
}

// Observed keeps every round of a step that has settled.
func (w *Writer) Observed(s report.Step, rounds []compare.Round) error {
	measured := step{Step: s.Name, Enforced: s.Enforced, Decided: s.Decided, Confirm: s.Confirm, Rounds: []time.Duration{}}
	for n, r := range rounds {
		measured.Rounds = append(measured.Rounds, r.After)
		for _, o := range r.Observations {
			if err := writeLine(w.open[observationsFile], observed{s.Name, n + 1, o}); err != nil {
				return fmt.Errorf("writing evidence: %w", err)
			}
		}
	}
	if err := writeLine(w.open[stepsFile], measured); err != nil {
		return fmt.Errorf("writing evidence: %w", err)
	}
	writeAttempts(w.open[attemptsFile], w.plan.Name, w.plan, w.step, s.Judgements, rounds)
	w.step++
	return w.flush()
}

// Sealed keeps what the seal of the run's cluster was put to the proof with, at most once. The report that Close takes must have what it comes to.
func (w *Writer) Sealed(s seal.Spec, f seal.Facts) error {
	return w.document(sealFile, Seal{APIVersion, SealKind, s, f})
}

// Corroborated keeps how Hubble's flows were read and those of every judgement of r, which is corroborated by them, at most once. Flows are by the indexes of
// scenario, step and judgement.
func (w *Writer) Corroborated(r *report.Report, flows func(scenario, step, judgement int) []hubble.Flow) error {
	if err := w.document(hubbleFile, Hubble{APIVersion, HubbleKind, r.Hubble.Reading}); err != nil {
		return err
	}
	return w.whole(flowsFile, func(out io.Writer) error {
		number := 0
		for i, sc := range r.Scenarios {
			if sc.Skipped != "" {
				continue
			}
			number++
			for k, st := range sc.Steps {
				for n, c := range st.Hubble {
					for _, f := range flows(i, k, n) {
						if err := writeLine(out, sawFlow{number, st.Name, c.AttemptID, f}); err != nil {
							return err
						}
					}
				}
			}
		}
		return nil
	})
}

// Close writes what is known at the end, r among it, and the manifest, whose SHA-256 it returns in hexadecimal. The scenarios of r are
// those that were planned, in the same order, after those that were skipped.
func (w *Writer) Close(r *report.Report) (digest string, err error) {
	if err := w.end(); err != nil {
		return "", err
	}
	run := Run{
		APIVersion: APIVersion, Kind: RunKind, Run: r.Run, Started: r.Started, Took: r.Took, Level: r.Level, LevelReason: r.LevelReason, Versions: r.Versions,
		Options: w.options, Baseline: r.Baseline, Scenarios: []Ended{},
	}
	for _, s := range r.Scenarios {
		if s.Skipped != "" {
			run.Skipped = append(run.Skipped, s)
			continue
		}
		e := Ended{Name: s.Name, Took: s.Took, Fault: s.Fault, Steps: []time.Duration{}}
		for _, st := range s.Steps {
			e.Steps = append(e.Steps, st.Took)
		}
		run.Scenarios = append(run.Scenarios, e)
	}
	if err := w.document(runFile, run); err != nil {
		return "", err
	}
	if err := w.document(notesFile, notesOf(r)); err != nil {
		return "", err
	}
	err = w.whole(reportFile, func(out io.Writer) error { return report.RenderJSON(out, r, report.Options{}) })
	if err != nil {
		return "", err
	}
	slices.SortFunc(w.files, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	if err := w.document(manifestFile, Manifest{APIVersion, ManifestKind, w.files}); err != nil {
		return "", err
	}
	return w.files[len(w.files)-1].SHA256, nil
}

// end closes the files of a scenario.
func (w *Writer) end() error {
	var errs []error
	for _, out := range w.open {
		errs = append(errs, w.finish(out))
	}
	clear(w.open)
	return errors.Join(errs...)
}

// flush brings everything to the file system, so that a killed run loses nothing that was told.
func (w *Writer) flush() error {
	for name, out := range w.open {
		if err := out.buffered.Flush(); err != nil {
			return fmt.Errorf("writing evidence %s: %w", name, err)
		}
	}
	return nil
}

// output is one file being written and hashed.
type output struct {
	name     string
	file     *os.File
	buffered *bufio.Writer
	sum      hash.Hash
	size     int64
}

// Write fails only when a flush does.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.buffered.Write(b)
	o.sum.Write(b[:n]) // never fails
	o.size += int64(n)
	return n, err
}

func (w *Writer) create(name string) (*output, error) {
	path := filepath.Join(w.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("writing evidence: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(0o644))
	if err != nil {
		return nil, fmt.Errorf("writing evidence: %w", err)
	}
	return &output{name: name, file: f, buffered: bufio.NewWriter(f), sum: sha256.New()}, nil
}

// finish closes a file and lists it.
func (w *Writer) finish(o *output) error {
	if err := errors.Join(o.buffered.Flush(), o.file.Close()); err != nil {
		return fmt.Errorf("writing evidence: %w", err)
	}
	w.files = append(w.files, File{o.name, o.size, hex.EncodeToString(o.sum.Sum(nil))})
	return nil
}

func (w *Writer) whole(name string, write func(io.Writer) error) error {
	out, err := w.create(name)
	if err != nil {
		return err
	}
	if err := write(out); err != nil {
		return errors.Join(fmt.Errorf("writing evidence %s: %w", name, err), out.file.Close())
	}
	return w.finish(out)
}

func (w *Writer) document(name string, v any) error {
	return w.whole(name, func(out io.Writer) error { return writeDocument(out, v) })
}
