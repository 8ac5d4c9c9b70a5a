// Gapproof-witness is the one program of a witness pod: it watches, in the kernel of its node, the packets of a run's attempts.
//
// It takes flags, or for each flag an environment variable, GAPPROOF_ and the flag's name in capitals with underscores; a pod spec fills
// them from the downward API:
//
//	--node NAME          the node that it speaks for; required
//	--port 4371          its port on the loopback
//	--token-file PATH    the run's bearer token, from a mounted Secret; required
//	--proc /proc         where the node's processes are seen: the pod needs hostPID
//	--version            print the version and exit
//
// Where the kernel takes none of its programs it serves all the same, at the level unwitnessed and with the kernel's reason in its health:
// a run is told at once and need not find out from a pod that does not start. It ends within a second of SIGTERM or SIGINT.
//
// Exit codes: 0 stopped by a signal, 2 wrong usage, 4 the socket failed. Standard error is a log of JSON lines.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/probes/internal/program"
	"github.com/gapproof/gapproof/probes/witness"
	"github.com/gapproof/gapproof/probes/witness/serve"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program without its process: it returns the exit code when ctx ends.
func run(ctx context.Context, args []string, env func(string) (string, bool), stdout, stderr io.Writer) int {
	c, err := parse(args, env, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return program.ExitOK
	case err != nil:
		fmt.Fprintln(stderr, err)
		fmt.Fprintln(stderr, "hint: gapproof-witness --help lists the flags")
		return program.ExitUsage
	case c.mode == printVersion:
		fmt.Fprintf(stdout, "gapproof-witness %s %s/%s %s\n", program.Version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
		return program.ExitOK
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	if err := watch(ctx, c, log); err != nil {
		log.Error("witness ended", "err", err)
		return program.ExitInfrastructure
	}
	return program.ExitOK
}

// watch opens the kernel and serves until ctx ends.
func watch(ctx context.Context, c config, log *slog.Logger) (err error) {
	socket, err := serve.Listen(ctx, c.port)
	if err != nil {
		return err
	}
	defer socket.Close()
	o := serve.Options{Release: release(c.proc), Version: program.Version(), Log: log}
	var kernel serve.Kernel
	w, err := witness.Open(witness.Options{Node: c.node, Proc: c.proc, Log: log})
	if err != nil {
		log.Error("kernel is not watched", "node", c.node, "err", err)
		o.Fault, kernel = err.Error(), blind{err}
	} else {
		kernel = w
		defer func() { err = errors.Join(err, w.Close()) }()
	}
	served, err := serve.New(c.node, c.token, kernel, o)
	if err != nil {
		return err
	}
	log.Info("witness serves", "node", c.node, "address", socket.Addr().String(), "level", kernel.Level().String(), "version", o.Version)
	return served.Serve(ctx, socket)
}

// release is the running kernel's, empty where it cannot be read.
func release(proc string) string {
	text, err := os.ReadFile(proc + "/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// blind stands in for a kernel that takes none of our programs.
type blind struct{ why error }

func (blind) Level() probes.Level                             { return probes.Unwitnessed }
func (b blind) Adopt([]witness.Pod) error                     { return b.why }
func (b blind) Watch([]probes.Flow) error                     { return b.why }
func (b blind) Sightings([]string) ([]probes.Sighting, error) { return nil, b.why }
func (blind) Forget([]string)                                 {}

func (b blind) Follow(context.Context, func([]string) error) error { return b.why }

// mode is what the program was asked to do.
type mode int

const (
	watchKernel mode = iota
	printVersion
)

// config is what flags and environment said, valid as a whole.
type config struct {
	mode  mode
	node  string
	port  uint16
	token string
	proc  string
}

// parse reads the flags, then the environment for those not given, and reports every fault at once.
func parse(args []string, env func(string) (string, bool), stderr io.Writer) (config, error) {
	var c config
	flags := flag.NewFlagSet("gapproof-witness", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints errors; help is printed below
	flags.StringVar(&c.node, "node", "", "the `NAME` of the node that it speaks for")
	port := flags.Uint("port", serve.DefaultPort, "its `PORT` on the loopback")
	tokenFile := flags.String("token-file", "", "the `FILE` with the run's bearer token")
	flags.StringVar(&c.proc, "proc", "/proc", "the `DIRECTORY` where the node's processes are seen")
	show := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			flags.SetOutput(stderr)
			flags.Usage()
		}
		return c, err
	}
	if *show {
		c.mode = printVersion
		return c, nil
	}
	faults := []error{program.FromEnvironment(flags, env)}
	if flags.NArg() > 0 {
		faults = append(faults, fmt.Errorf("arguments: %q are not flags", flags.Args()))
	}
	if c.node == "" {
		faults = append(faults, errors.New("--node: is required"))
	}
	if *port == 0 || *port > 65535 {
		faults = append(faults, fmt.Errorf("--port: %d is not from 1 to 65535", *port))
	}
	var err error
	if c.token, err = program.ReadToken(*tokenFile); err != nil {
		faults = append(faults, fmt.Errorf("--token-file: %w", err))
	}
	c.port = uint16(*port)
	return c, errors.Join(faults...)
}
