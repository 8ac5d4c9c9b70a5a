package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/gapproof/gapproof/images"
	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/cni"
	"github.com/gapproof/gapproof/runner/fixture"
	"github.com/gapproof/gapproof/runner/host"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

// Exit codes, as gapproof's.
const (
	exitPass           = 0 // every verdict is equal or explained
	exitFail           = 1 // a verdict differs and nothing known explains it
	exitUsage          = 2 // nothing was created
	exitInconclusive   = 3 // gapproof could not tell a verdict
	exitInfrastructure = 4
)

// errUsage reports a flag or file that the user can mend.
var errUsage = errors.New("wrong usage")

// streams are the process's, or a test's.
type streams struct{ out, err io.Writer }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	klog.SetOutput(io.Discard) // client-go's own chatter; its errors reach us as values
	klog.LogToStderr(false)
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr}))
}

// who races.
type who string

const (
	ours   who = "ours"
	theirs who = "cyclonus"
	both   who = "both"
)

// options are the flags.
type options struct {
	cluster     string
	only        who
	deadline    time.Duration
	destination Destination
	out         string
	reuse       string
	exclude     []string
}

// runsCyclonus tells whether cyclonus is run, and not left out or replaced by what an earlier race left.
func (o options) runsCyclonus() bool { return o.only != ours && o.reuse == "" }

func parse(args []string, s streams) (options, error) {
	o := options{only: both, destination: ToServiceName}
	f := flag.NewFlagSet("race", flag.ContinueOnError)
	f.SetOutput(io.Discard) // faults are told once, by run
	f.StringVar(&o.cluster, "cluster", cluster.DefaultName, "lab cluster made by `gapproof up`")
	f.Func("only", "ours, cyclonus or both (default both)", func(v string) error {
		switch o.only = who(v); o.only {
		case ours, theirs, both:
			return nil
		}
		return fmt.Errorf("%q is not ours, cyclonus or both", v)
	})
	f.DurationVar(&o.deadline, "deadline", time.Second, "deadline of one attempt, for both; whole seconds, as cyclonus takes no others")
	f.Func("destination-type", "what cyclonus attempts: service-name (default, as is cyclonus' own), service-ip or pod-ip", func(v string) (err error) {
		o.destination, err = parseDestination(v)
		return err
	})
	exclude := f.String("exclude", raceExclude, "leave out cases with one of these tags of cyclonus; empty for all 23 steps")
	f.StringVar(&o.out, "out", "", "directory for scenarios, logs and results (default: race below gapproof's cache directory)")
	f.StringVar(&o.reuse, "reuse", "", "do not run cyclonus; compare with the result an earlier race left in this directory")
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		f.SetOutput(s.out)
		f.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w: %w", errUsage, err)
	case f.NArg() > 0:
		return o, fmt.Errorf("%w: %q is no flag", errUsage, f.Arg(0))
	case o.deadline < time.Second || o.deadline%time.Second != 0:
		return o, fmt.Errorf("%w: -deadline: %s is not whole seconds", errUsage, o.deadline)
	case o.reuse != "" && o.only != both:
		return o, fmt.Errorf("%w: -reuse stands for cyclonus' side, -only leaves one side out", errUsage)
	}
	if *exclude != "" {
		o.exclude = strings.Split(*exclude, ",")
	}
	return o, nil
}

func run(ctx context.Context, args []string, s streams) int {
	o, err := parse(args, s)
	if err == nil {
		var code int
		if code, err = race(ctx, o, s); err == nil {
			return code
		}
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitPass
	case errors.Is(err, errUsage), errors.Is(err, errNamespaces), errors.Is(err, fixture.ErrNamespaceExists), errors.Is(err, kube.ErrConfig):
		fmt.Fprintf(s.err, "race: %v\n", err)
		return exitUsage
	}
	fmt.Fprintf(s.err, "race: %v\n", err)
	return exitInfrastructure
}

// The results, in the out directory.
const (
	ourFile       = "gapproof.json"
	theirFile     = "cyclonus.json"
	scenariosName = "cyclonus-cases"
)

// race runs the sides that o names, prints, and returns the exit code.
func race(ctx context.Context, o options, s streams) (int, error) {
	cache, err := host.DefaultCacheDir()
	if err != nil {
		return 0, err
	}
	if o.out == "" {
		o.out = filepath.Join(cache, "race")
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return 0, fmt.Errorf("%w: -out: %w", errUsage, err)
	}
	var reused *Result
	if o.reuse != "" {
		if reused, err = readResult(filepath.Join(o.reuse, theirFile)); err != nil {
			return 0, fmt.Errorf("%w: -reuse: %w", errUsage, err)
		}
	}
	all, err := cases(filepath.Join(o.out, scenariosName), o.exclude)
	if err != nil {
		return 0, err
	}
	l, err := findLab(ctx, o, filepath.Join(cache, "lab"))
	if err != nil {
		return 0, err
	}
	c := cyclonus{
		cluster: l.cluster, kubeconfig: l.kubeconfig, deadline: o.deadline, destination: o.destination, exclude: o.exclude,
		cache: cache, out: o.out, progress: s.err,
	}
	program := ""
	if o.runsCyclonus() { // a build that breaks should do so before our side has run
		if program, err = c.build(ctx); err != nil {
			return 0, err
		}
	}
	page := page{to: s.out}
	page.head(l, all, o)

	our, their := (*Result)(nil), reused
	if o.only != theirs {
		g := gapproof{cluster: l.cluster, probe: l.probe, deadline: o.deadline, out: o.out, progress: s.err}
		if our, err = g.run(ctx, all); err != nil {
			return 0, err
		}
		if err := our.write(filepath.Join(o.out, ourFile)); err != nil {
			return 0, err
		}
	}
	if o.runsCyclonus() {
		if their, err = c.runToEnd(ctx, program); err != nil {
			return 0, err
		}
		if err := their.write(filepath.Join(o.out, theirFile)); err != nil {
			return 0, err
		}
	}
	var comparison *Comparison
	if our != nil && their != nil {
		if comparison, err = compareResults(all, our, their); err != nil {
			return 0, err
		}
	}
	page.configs(our, their, o)
	page.steps(all, our, their, comparison)
	page.walls(our, their, o)
	page.differences(comparison)
	fmt.Fprintf(s.err, "scenarios, logs and results are in %s\n", o.out)
	return page.err(exitCode(our, comparison))
}

// exitCode is the worst of what was found.
func exitCode(our *Result, c *Comparison) int {
	code := exitPass
	if our != nil && count(our, undecided) > 0 {
		code = exitInconclusive
	}
	if c != nil && len(c.unexplained()) > 0 {
		code = exitFail
	}
	return code
}

// lab is the cluster to race on.
type lab struct {
	cluster    *kube.Cluster
	kubeconfig string
	probe      images.Image
	cni        string
	nodes      []kube.Node
}

// findLab connects to the cluster and checks that its lock has what both sides run.
func findLab(ctx context.Context, o options, labDir string) (*lab, error) {
	state, err := host.DefaultStateDir()
	if err != nil {
		return nil, err
	}
	l := &lab{kubeconfig: filepath.Join(state, "clusters", o.cluster, kubeconfigName)}
	if _, err := os.Stat(l.kubeconfig); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: -cluster: lab cluster %q is not up (gapproof up --cluster %s)", errUsage, o.cluster, o.cluster)
	}
	lock, err := images.ReadLock(labDir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if l.probe, err = lock.Find(images.ProbeImage); err != nil {
		return nil, err
	}
	if o.runsCyclonus() {
		if agnhost, err := lock.Find(agnhostImage); err != nil || agnhost.Tag != agnhostTag {
			return nil, fmt.Errorf("%w: the lab's lock has no %s:%s, which cyclonus runs in its pods (gapproof bundle create --race)", errUsage, agnhostImage, agnhostTag)
		}
	}
	if l.cluster, err = kube.Load(ctx, l.kubeconfig, ""); err != nil {
		return nil, err
	}
	name, version, err := cni.Detect(ctx, l.cluster.Client)
	if err != nil {
		return nil, err
	}
	l.cni = name + " " + version
	l.nodes, err = kube.Nodes(ctx, l.cluster.Client)
	return l, err
}

// progress tells on stderr what has been finished.
func progress(to io.Writer, what string, took time.Duration) {
	fmt.Fprintf(to, "  %-62s %7.1f s\n", what, took.Seconds())
}

// kubeconfigName is the file below a cluster's state directory.
const kubeconfigName = "kubeconfig"
