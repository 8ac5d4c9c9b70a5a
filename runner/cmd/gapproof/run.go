package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/dynamic"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/cni"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/hubble/observer"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/internal/wholefile"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/runner/seal/gate"
	"github.com/gapproof/gapproof/runner/suite"
	"github.com/gapproof/gapproof/runner/worlds"
	"github.com/gapproof/gapproof/scenarios"
	"github.com/gapproof/gapproof/scenarios/catalogue"
)

// target says which cluster, and what may be put there.
type target struct {
	cluster    string // lab
	kubeconfig string
	context    string
	image      string
	// witness is the mode, witnessImage the image outside the lab.
	witness, witnessImage string
}

func (t *target) flags(c *cobra.Command) {
	c.Flags().StringVar(&t.cluster, "cluster", defaultCluster, "lab cluster made by gapproof up")
	c.Flags().StringVar(&t.kubeconfig, "kubeconfig", "", "another cluster's kubeconfig; a run's namespaces there have its prefix")
	c.Flags().StringVar(&t.context, "context", "", "context of that kubeconfig")
	exclusive(c, "cluster", "kubeconfig")
}

// runOptions are the flags of run.
type runOptions struct {
	target
	output   string
	report   string
	evidence string
	show     string
	color    string
	attempt  string
	baseline string
	seal     string
	hubble   string
	// statement says how the proof of the seal is signed.
	statement statementOptions
	deadline  time.Duration
	dryRun    bool
}

func (a *app) run() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run [FILE|DIR ...]",
		Short: "Run scenarios against a cluster and judge every attempt",
		Long: `run carries out scenarios (the shipped catalogue when no file is named) and prints a report.

Before any policy every attempt must be delivered; a deny passes only when both ends are proven alive and nothing arrived.
What could not be told is inconclusive, never green.

On a lab that was brought up with --sealed the seal is put to the proof after the last scenario, as by gapproof seal check, and the report says
SEALED, LEAKED (exit code 1) or SEAL_NOT_PROVEN (3, when nothing is worse), with what was dropped since the run began and whose it was. That
needs root: without it, and when the run is interrupted, the seal is SEAL_NOT_PROVEN. --seal require refuses to run where it could not be
proven, --seal off says nothing of it. With --evidence its facts are kept too, and --statement signs the proof together with the digest of
the evidence's manifest. The report of a run on any other cluster says nothing of a seal.

On Cilium the flows of Hubble are read beside the attempts, from hubble-relay or else from every agent, as long as they serve them without TLS.
The report says to how many attempts Hubble agrees or is silent, and what it contradicts. No verdict, no result and no exit code rests on it;
--hubble off leaves it out. Beside what a run needs anyway it takes this, and without it Hubble is silent:

` + observer.Role,
		Example: `  gapproof run                                   # the whole catalogue on the lab
  gapproof run catalogue:ipBlock                 # a folder of it
  gapproof run scenarios/examples -o junit
  gapproof run my.yaml --attempt 'x/a>y/b:TCP/80'  # repeat one attempt
  gapproof run --seal require --evidence evidence --statement seal.dsse.json --key release.key
  gapproof run my.yaml --kubeconfig prod.yaml --probe-image registry.example/gapproof-probe@sha256:…`,
		RunE: func(c *cobra.Command, args []string) error { return a.runScenarios(c.Context(), args, o) },
	}
	o.flags(c)
	c.Flags().StringVar(&o.image, "probe-image", "", "probe image by digest; needed with --kubeconfig, the lab's own otherwise")
	c.Flags().StringVar(&o.witness, "witness", string(witnessAuto), "watch packets in the nodes' kernels: auto, require (no deny without, to the end of the run) or off")
	c.Flags().StringVar(&o.witnessImage, "witness-image", "", "witness image by digest, for --kubeconfig; the lab's own otherwise")
	c.Flags().StringVarP(&o.output, "output", "o", "table", "table, json, junit or markdown")
	c.Flags().StringVar(&o.report, "report", "", "also write the report in every format into this directory")
	c.Flags().StringVar(&o.evidence, "evidence", "", "keep plan, policies, observations and report in this new directory, for gapproof report verify")
	c.Flags().StringVar(&o.show, "show", "failures", "matrices and attempts in the table: failures or all")
	c.Flags().StringVar(&o.color, "color", "auto", "auto, always or never")
	c.Flags().StringVar(&o.attempt, "attempt", "", "make only this attempt, named as reports name it")
	c.Flags().StringVar(&o.baseline, "baseline", baselineAuto, "known differences: auto for those of the cluster's CNI, none, or a file of your own")
	c.Flags().StringVar(&o.seal, "seal", string(sealAuto), "prove a sealed lab's seal after the run: auto, require (no run without) or off")
	c.Flags().StringVar(&o.hubble, "hubble", string(hubbleAuto), "hold Cilium's Hubble flows against what was observed: auto or off")
	o.statement.flags(c)
	c.Flags().DurationVar(&o.deadline, "deadline", suite.DefaultDeadline, "deadline of one attempt")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "print what would be created and attempted, touch nothing")
	return c
}

// defaultCluster is the name of the lab cluster when none is given.
const defaultCluster = cluster.DefaultName

func (a *app) runScenarios(ctx context.Context, args []string, o runOptions) error {
	render, err := newRendering(a.out, o)
	if err != nil {
		return err
	}
	if o.deadline < 10*time.Millisecond || o.deadline > 30*time.Second {
		return usageError{fmt.Errorf("--deadline: %s is not between 10ms and 30s", o.deadline)}
	}
	mode, err := parseWitnessMode(o.witness)
	if err != nil {
		return usageError{err}
	}
	sealing, err := parseSealMode(o.seal)
	if err != nil {
		return err
	}
	flows, err := parseHubbleMode(o.hubble)
	if err != nil {
		return err
	}
	own, err := ownBaseline(o.baseline)
	if err != nil {
		return err
	}
	all, err := a.load(args)
	if err != nil {
		return err
	}
	if o.dryRun {
		return a.dryRun(all, o)
	}
	signs, err := a.signer(o.statement)
	if err != nil {
		return err
	}
	if signs != nil && sealing == sealOff {
		return usageError{errors.New("--statement: with --seal off there is no proof to be signed")}
	}
	if o.report != "" {
		if err := os.MkdirAll(o.report, 0o755); err != nil {
			return usageError{fmt.Errorf("--report: %w", err)}
		}
	}
	keep, err := newRecorder(o)
	if err != nil {
		return err
	}
	run := newRun()
	at, err := a.connect(ctx, o.target, run)
	if err != nil {
		return err
	}
	sealed, err := a.beginSeal(ctx, at, sealing, signs, gate.Check)
	if err != nil {
		return err
	}
	defer sealed.close()
	made := a.worldsOf(at, o.target, run)
	objects, err := dynamic.NewForConfig(at.Config)
	if err != nil {
		return err
	}
	watching, unwitnessed, err := a.witnesses(made, at.witness, mode)
	if err != nil {
		return err
	}
	relabelled, err := cni.Relabelled(at.cni)
	if err != nil {
		return err
	}
	corroborating := beginHubble(ctx, at, flows, all)
	applier, clusterApplier := apply.New(at.Client, run), apply.NewCluster(objects, at.Client.Discovery(), run)
	s := suite.New(made, applier, suite.Options{
		Cluster: clusterApplier, Witnesses: watching, Unwitnessed: unwitnessed, Least: mode.least(),
		NoOutside: at.noOutside, Run: run, Deadline: o.deadline, Relabelled: relabelled, Attempt: o.attempt, Log: a.log, Progress: a.done,
		Record: corroborating.of(keep.of(applier, clusterApplier)),
		Replay: func(file, attempt string) string { return replay(file, attempt, o.target) },
	})
	fmt.Fprintf(a.err, "run %s on %s (Kubernetes %s)\n", run, at.Context, at.Version)
	rep, err := s.Run(ctx, all)
	if e := corroborating.conclude(rep, keep); e != nil {
		return errors.Join(err, e)
	}
	rep.Versions = a.versions(ctx, at)
	if own == nil && o.baseline == baselineAuto {
		own = a.cniBaseline(at)
	}
	rep.Explain(own)
	if e := a.conclude(rep, sealed.prove(ctx, a), keep, signs, func() error { return a.write(rep, render, o.report) }); e != nil {
		return errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	if code := rep.Summary().ExitCode; code != exitPass {
		return exitError(code)
	}
	return nil
}

// conclude keeps and tells what the run came to: its evidence, the report, and the statement of the seal. proof is nil for a run that tells of none.
func (a *app) conclude(rep *report.Report, proof *sealReport, keep *recorder, signs *signer, write func() error) error {
	if proof != nil {
		rep.Seal = report.NewSeal(proof.Proof)
	}
	digest, err := a.closeEvidence(keep, rep, proof)
	if err != nil {
		return err
	}
	if len(rep.Scenarios) > 0 || rep.Seal != nil {
		if err := write(); err != nil {
			return err
		}
	}
	if proof == nil {
		return nil
	}
	return signs.write(a.err, proof, rep.Run, digest)
}

// newRun is a fresh run identifier: short enough for a namespace prefix, random enough for a team's parallel runs.
func newRun() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// newToken is the run's bearer token: 32 random bytes in hexadecimal.
func newToken() string {
	var b [32]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// shipped is how the embedded catalogue is named on the command line: "catalogue:" and a path in it.
const shipped = "catalogue:"

// load reads the named scenarios, or the shipped catalogue when none is named. Arguments that begin with "catalogue:" are read from
// the catalogue in the binary, so that a scenario can be repeated where there is no checkout.
func (a *app) load(args []string) ([]*scenarios.Scenario, error) {
	if len(args) == 0 {
		args = []string{shipped + "."}
	}
	var files, inside []string
	for _, arg := range args {
		if path, ok := strings.CutPrefix(arg, shipped); ok {
			inside = append(inside, path)
		} else {
			files = append(files, arg)
		}
	}
	var all []*scenarios.Scenario
	var faults scenarios.Faults
	read := func(paths []string, load func(...string) ([]*scenarios.Scenario, error)) ([]*scenarios.Scenario, error) {
		if len(paths) == 0 {
			return nil, nil
		}
		got, err := load(paths...)
		var some scenarios.Faults
		if errors.As(err, &some) {
			faults = append(faults, some...)
			return nil, nil
		}
		return got, err
	}
	own, err := read(inside, func(paths ...string) ([]*scenarios.Scenario, error) { return scenarios.LoadFS(catalogue.FS, paths...) })
	if err != nil {
		return nil, err
	}
	for _, s := range own {
		s.File = shipped + s.File
	}
	all, err = read(files, scenarios.Load)
	if err != nil {
		return nil, err
	}
	if len(faults) > 0 {
		return nil, faults
	}
	all = append(own, all...)
	for _, s := range all {
		a.omissions(s.Omissions)
		for _, kind := range slices.Sorted(maps.Keys(s.Ignored)) {
			fmt.Fprintf(a.err, "%s: passed over %d of kind %s\n", s.Metadata.Name, s.Ignored[kind], kind)
		}
	}
	return all, nil
}

// place is a cluster to run on and what goes there.
type place struct {
	*kube.Cluster
	// image is the probe's; images are all that are known by digest.
	image  string
	images []string
	// witness is the witness's image; empty where there is none.
	witness string
	// lab is the cluster in the lab, nil elsewhere.
	lab *cluster.Cluster
	// prefix goes before every namespace; empty in the lab.
	prefix string
	// noOutside says why no host outside can be started; empty in the lab.
	noOutside string
	// cni and cniVersion are what was detected; empty where nothing known was.
	cni, cniVersion string
}

// worldsOf are a run's worlds at the place.
func (a *app) worldsOf(at *place, t target, run string) *worlds.Worlds {
	w := &worlds.Worlds{Cluster: at.Cluster, Options: fixture.Options{Run: run, Image: at.image, Prefix: at.prefix, Token: newToken(), Log: a.log}}
	if at.noOutside == "" {
		w.Options.Outside = outside{cluster: t.cluster, stateDir: a.clustersDir(), run: run, token: w.Options.Token}
	}
	return w
}

// connect loads the target and finds out which image and namespace prefix to use there.
func (a *app) connect(ctx context.Context, t target, run string) (*place, error) {
	path, p := t.kubeconfig, &place{image: t.image, witness: t.witnessImage}
	lab := path == "" && t.context == ""
	if lab {
		c, err := cluster.Find(a.clustersDir(), t.cluster)
		if err != nil {
			return nil, clusterError(err)
		}
		path, p.lab = c.Kubeconfig, c
		for _, i := range c.Images {
			p.images = append(p.images, i.Reference())
			if i.Name == images.ProbeImage && p.image == "" {
				p.image = i.Reference()
			}
			if i.Name == images.WitnessImage && p.witness == "" {
				p.witness = i.Reference()
			}
		}
	} else {
		switch {
		case p.image == "":
			return nil, hinted{usageError{errors.New("--probe-image: is needed outside the lab, by digest")}, "gapproof run --help"}
		case !strings.Contains(p.image, "@sha256:"):
			return nil, usageError{fmt.Errorf("--probe-image: %q is not pinned by digest", p.image)}
		case p.witness != "" && !strings.Contains(p.witness, "@sha256:"):
			return nil, usageError{fmt.Errorf("--witness-image: %q is not pinned by digest", p.witness)}
		}
		p.images = []string{p.image}
		if p.witness != "" {
			p.images = append(p.images, p.witness)
		}
		p.prefix = "gapproof-" + run + "-"
		p.noOutside = "hosts outside the cluster are containers on the lab's network, and this cluster is not the lab's"
	}
	var err error
	if p.Cluster, err = kube.Load(ctx, path, t.context); err != nil {
		return nil, err
	}
	if p.cni, p.cniVersion, err = cni.Detect(ctx, p.Client); err != nil {
		a.log.Warn("detecting the CNI", "err", err) // no verdict depends on it
	}
	return p, nil
}

// labDir is where the lab's images and lock are.
func (a *app) labDir() string { return filepath.Join(a.cacheDir, "lab") }

// replay is the command that repeats one attempt on the same target.
func replay(file, attempt string, t target) string {
	return compare.Replay(file, attempt, replayFlags(t)...)
}

// replayFlags lead a replay to the same target.
func replayFlags(t target) []string {
	var flags []string
	for _, f := range []struct{ name, value, usual string }{
		{"--cluster", t.cluster, defaultCluster}, {"--kubeconfig", t.kubeconfig, ""}, {"--context", t.context, ""}, {"--probe-image", t.image, ""},
		{"--witness", t.witness, string(witnessAuto)}, {"--witness-image", t.witnessImage, ""},
	} {
		if f.value != f.usual {
			flags = append(flags, f.name, f.value)
		}
	}
	return flags
}

// versions asks what was tested with what. What cannot be asked is left empty: the run's verdicts do not depend on it.
func (a *app) versions(ctx context.Context, p *place) report.Versions {
	v := report.Versions{Gapproof: version, Kubernetes: p.Version, Images: p.images, CNI: strings.TrimSpace(p.cni + " " + p.cniVersion)}
	nodes, err := kube.Nodes(ctx, p.Client)
	if err != nil {
		a.log.Warn("listing nodes", "err", err)
	}
	for _, n := range nodes {
		v.Nodes = append(v.Nodes, n.Name)
		v.Kernel = n.Kernel
	}
	return v
}

// rendering is how the report goes to stdout.
type rendering struct {
	format  report.Format
	options report.Options
}

// newRendering checks the output flags.
func newRendering(out io.Writer, o runOptions) (rendering, error) {
	format, err := report.ParseFormat(o.output)
	if err != nil {
		return rendering{}, usageError{fmt.Errorf("--output: %w", err)}
	}
	r := rendering{format: format}
	isTerminal, width := terminal(out)
	r.options.Width = width
	switch o.color {
	case "auto":
		if isTerminal && os.Getenv("NO_COLOR") == "" {
			r.options.Colour = report.ANSI
		}
	case "always":
		r.options.Colour = report.ANSI
	case "never":
	default:
		return r, usageError{fmt.Errorf("--color: %q is not auto, always or never", o.color)}
	}
	if locale := os.Getenv("LC_ALL") + os.Getenv("LC_CTYPE") + os.Getenv("LANG"); isTerminal && !strings.Contains(strings.ToUpper(locale), "UTF") {
		r.options.Glyphs = report.ASCII
	}
	switch o.show {
	case "failures":
	case "all":
		r.options.Detail = report.Everything
	default:
		return r, usageError{fmt.Errorf("--show: %q is not failures or all", o.show)}
	}
	return r, nil
}

// write renders to stdout and, with --report, every format into its directory.
func (a *app) write(rep *report.Report, r rendering, dir string) error {
	if err := report.Render(a.out, rep, r.format, r.options); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if dir == "" {
		return nil
	}
	for _, format := range report.Formats() {
		err := writeFile(filepath.Join(dir, format.FileName()), func(w io.Writer) error {
			return report.Render(w, rep, format, report.Options{Detail: report.Everything})
		})
		if err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	fmt.Fprintf(a.err, "report written to %s\n", dir)
	return nil
}

// writeFile writes a file that everybody may read, whole or not at all.
func writeFile(path string, write func(io.Writer) error) error {
	return wholefile.Replace(path, 0o644, write)
}
