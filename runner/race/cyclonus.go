package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

// cyclonus is the other side: its own program, started as its users start it.
type cyclonus struct {
	cluster     *kube.Cluster
	kubeconfig  string
	deadline    time.Duration
	destination Destination
	exclude     []string
	// cache is where its program is built.
	cache    string
	out      string
	progress io.Writer
}

const (
	cyclonusModule  = "github.com/mattfenwick/cyclonus"
	cyclonusPackage = cyclonusModule + "/cmd/cyclonus"
	// cyclonusLog is its output, each line behind the seconds since its start.
	cyclonusLog = "cyclonus.log"
	// agnhostImage and agnhostTag are what cyclonus v0.5.6 runs in its pods (pkg/connectivity/probe/pod.go of its module).
	agnhostImage = "registry.k8s.io/e2e-test-images/agnhost"
	agnhostTag   = "2.43"
)

const (
	// stopLimit is how long cyclonus has to end once the race is interrupted; it holds nothing that it would save.
	stopLimit = 5 * time.Second
	// goneLimit is for namespaces whose pods have a grace period of zero.
	goneLimit    = 2 * time.Minute
	goneInterval = 200 * time.Millisecond
	cleanLimit   = 3 * time.Minute
)

// errNamespaces reports namespaces of the world that exist already. Cyclonus would use them, and delete every policy in them.
var errNamespaces = errors.New("namespaces exist already")

// args are cyclonus' arguments. Without --exclude, even an empty one, its defaults exclude the very tag that is included.
func (c cyclonus) args() []string {
	protocols := make([]string, 0, len(worldProtocols()))
	for _, p := range worldProtocols() {
		protocols = append(protocols, string(p))
	}
	ports := make([]string, 0, len(worldPorts()))
	for _, p := range worldPorts() {
		ports = append(ports, strconv.Itoa(int(p)))
	}
	args := []string{
		"generate", "--include", raceTag, "--exclude=" + strings.Join(c.exclude, ","),
		"--server-protocol", strings.Join(protocols, ","), "--server-port", strings.Join(ports, ","),
		"--retries", "0", "--job-timeout-seconds", strconv.Itoa(int(c.deadline / time.Second)),
	}
	if c.destination != ToServiceName { // its default
		args = append(args, "--destination-type", string(c.destination))
	}
	return args
}

// tries is how often cyclonus is started at most. It ends at the first conflict of its label updates with the kubelet's status updates, which it
// does not repeat; on a busy host that happens within minutes.
const tries = 3

// runToEnd runs the program until a run of it comes to its end. Runs that cyclonus itself broke off are told and are in nobody's time.
func (c cyclonus) runToEnd(ctx context.Context, program string) (*Result, error) {
	for try := 1; ; try++ {
		started := time.Now()
		r, err := c.run(ctx, program)
		var exit *exec.ExitError
		if err == nil || try == tries || ctx.Err() != nil || !errors.As(err, &exit) {
			return r, err
		}
		progress(c.progress, fmt.Sprintf("cyclonus ended early (%s), starting it again, not in its time", exit), time.Since(started))
	}
}

// run runs the program that build built to its end and reads what it printed. The namespaces it made, which it leaves, are removed outside of
// its time.
func (c cyclonus) run(ctx context.Context, program string) (_ *Result, err error) {
	if err := c.refuseExisting(ctx); err != nil {
		return nil, err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
		defer cancel()
		started := time.Now()
		err = errors.Join(err, c.remove(clean))
		progress(c.progress, "cyclonus' namespaces removed for it, not in its time", time.Since(started))
	}()
	path := filepath.Join(c.out, cyclonusLog)
	f, err := os.Create(path) // read back when cyclonus has ended
	if err != nil {
		return nil, fmt.Errorf("writing cyclonus' log: %w", err)
	}
	defer f.Close()
	started := time.Now()
	log := &stampedLog{to: f, started: started, each: c.show()}
	command := exec.CommandContext(ctx, program, c.args()...)
	command.Env = append(os.Environ(), "KUBECONFIG="+c.kubeconfig)
	command.Stdout, command.Stderr = log, log // one writer, one pipe: lines stay in order
	command.Cancel = func() error { return command.Process.Signal(os.Interrupt) }
	command.WaitDelay = stopLimit
	err = command.Run()
	wall := time.Since(started)
	if err := errors.Join(err, log.flush()); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("running cyclonus (its output is in %s): %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading cyclonus' log: %w", err)
	}
	r, err := readTables(f)
	if err != nil {
		return nil, err
	}
	r.Wall = wall
	r.DestinationType = c.destination
	r.Contestant = "cyclonus " + cyclonusVersion()
	r.Config = "cyclonus " + strings.Join(c.args(), " ") + "; its defaults otherwise: 15 workers, 5 s wait after each change"
	return r, nil
}

// cyclonusVersion is the version that this program was linked against, which is the one that build builds.
func cyclonusVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == cyclonusModule {
			return m.Version
		}
	}
	return ""
}

// build compiles cyclonus as this module's go.mod pins it, and returns the program's path.
func (c cyclonus) build(ctx context.Context) (string, error) {
	started := time.Now()
	program := filepath.Join(c.cache, "cyclonus")
	command := exec.CommandContext(ctx, "go", "build", "-o", program, cyclonusPackage)
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("building %s (the race is started in its own module): %w\n%s", cyclonusPackage, err, output.Bytes())
	}
	progress(c.progress, "cyclonus built, not in its time", time.Since(started))
	return program, nil
}

// refuseExisting names every namespace of the world that exists.
func (c cyclonus) refuseExisting(ctx context.Context) error {
	there, err := c.existing(ctx)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return fmt.Errorf("making room for cyclonus: %w: %s", errNamespaces, strings.Join(there, ", "))
	}
	return nil
}

func (c cyclonus) existing(ctx context.Context) ([]string, error) {
	var there []string
	for _, name := range worldNamespaces() {
		_, err := c.cluster.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			there = append(there, name)
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("looking for namespace %s: %w", name, err)
		}
	}
	return there, nil
}

// remove deletes the namespaces that cyclonus made and waits until they are gone. It is called only after refuseExisting.
func (c cyclonus) remove(ctx context.Context) error {
	for _, name := range worldNamespaces() {
		err := c.cluster.Client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("removing namespace %s: %w", name, err)
		}
	}
	_, err := kube.Poll(ctx, "cyclonus' namespaces to be gone", goneInterval, goneLimit, func(ctx context.Context) (bool, string, error) {
		there, err := c.existing(ctx)
		if err != nil {
			return false, err.Error(), nil // a passing API error must not end the clean-up
		}
		return len(there) == 0, strings.Join(there, ", ") + " still there", nil
	})
	return err
}

// shownWidth cuts the traces that cyclonus puts into one line; they are whole in its log.
const shownWidth = 160

var shownLine = regexp.MustCompile(`^starting test case #\d+$|^testing \d+ cases$|level=(error|fatal|warning)`)

// show passes the few lines of cyclonus' output that tell how far it is.
func (c cyclonus) show() func(at time.Duration, line string) {
	return func(at time.Duration, line string) {
		if shownLine.MatchString(line) {
			fmt.Fprintf(c.progress, "  cyclonus %6.1f s: %.*s\n", at.Seconds(), shownWidth, line)
		}
	}
}

// stampedLog writes lines, each behind the seconds since a start. Not for concurrent use.
type stampedLog struct {
	to      io.Writer
	started time.Time
	each    func(at time.Duration, line string)
	rest    []byte
}

// Write takes any piece of the stream; a line is written when its end has come.
func (l *stampedLog) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, after, whole := bytes.Cut(l.rest, []byte{'\n'})
		if !whole {
			return len(p), nil
		}
		if err := l.line(string(line)); err != nil {
			return 0, err
		}
		l.rest = after
	}
}

// flush writes a last line that had no end.
func (l *stampedLog) flush() error {
	if len(l.rest) == 0 {
		return nil
	}
	err := l.line(string(l.rest))
	l.rest = nil
	return err
}

func (l *stampedLog) line(text string) error {
	at := time.Since(l.started)
	l.each(at, text)
	_, err := fmt.Fprintf(l.to, "%9.3f %s\n", at.Seconds(), text)
	return err
}
