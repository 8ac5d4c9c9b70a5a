// Gapproof-probe is the one program of a probe pod: listeners that answer attempts, and the agent that makes them.
//
// It takes flags, or for each flag an environment variable, GAPPROOF_ and the flag's name in capitals with underscores; a pod spec fills
// them from the downward API:
//
//	--identity NAMESPACE/POD  who this pod is; required
//	--listen TCP/80,UDP/81    the listeners; none when empty
//	--agent-port 4370         the agent's port on the loopback
//	--token-file PATH         the run's bearer token, from a mounted Secret; required
//	--concurrency 64          attempts at once
//	--rate 0                  attempts begun per second; zero for no bound
//	--version                 print the version and exit
//
// "gapproof-probe connect [--agent-port 4370]" instead joins its standard input and output to the agent on the loopback, for a runner
// that reaches the container but not its network: docker exec does what a port-forward does for a pod.
//
// The token file must not be readable by everybody: mount the Secret with defaultMode 0440 and give the pod an fsGroup. A port below 1024
// needs net.ipv4.ip_unprivileged_port_start=0, which container runtimes set by default; where a port cannot be bound the program
// says so on standard error and in its health, and goes on. It ends within a second of SIGTERM or SIGINT.
//
// Exit codes: 0 stopped by a signal, 2 wrong usage, 4 the agent's socket failed. Standard error is a log of JSON lines.
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
	"syscall"

	"github.com/gapproof/gapproof/probes/agent"
	"github.com/gapproof/gapproof/probes/dial"
	"github.com/gapproof/gapproof/probes/internal/program"
	"github.com/gapproof/gapproof/probes/internal/wire"
	"github.com/gapproof/gapproof/probes/listen"
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
		fmt.Fprintln(stderr, "hint: gapproof-probe --help lists the flags")
		return program.ExitUsage
	case c.mode == connectAgent:
		if err := connect(ctx, c.agentPort, os.Stdin, stdout); err != nil {
			fmt.Fprintln(stderr, err)
			return program.ExitInfrastructure
		}
		return program.ExitOK
	case c.mode == printVersion:
		fmt.Fprintf(stdout, "gapproof-probe %s %s/%s %s\n", program.Version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
		return program.ExitOK
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	if err := serve(ctx, c, log); err != nil {
		log.Error("probe ended", "err", err)
		return program.ExitInfrastructure
	}
	return program.ExitOK
}

// serve runs listeners and agent until ctx ends.
func serve(ctx context.Context, c config, log *slog.Logger) error {
	socket, err := agent.Listen(ctx, c.agentPort)
	if err != nil {
		return err
	}
	defer socket.Close()
	listeners, err := listen.Start(ctx, c.identity, c.listen, listen.Options{Log: log})
	if err != nil {
		return err
	}
	defer listeners.Close()
	dialer, err := dial.New(dial.Options{Avoid: append(listeners.Ports(), c.agentPort)})
	if err != nil {
		return err
	}
	served, err := agent.New(c.identity, c.token, dialer, listeners, agent.Options{
		Concurrency: c.concurrency, Rate: c.rate, Version: program.Version(), Log: log,
	})
	if err != nil {
		return err
	}
	log.Info("probe serves", "identity", c.identity, "agent", socket.Addr().String(), "listeners", fmt.Sprint(c.listen), "version", program.Version())
	return served.Serve(ctx, socket)
}

// mode is what the program was asked to do.
type mode int

const (
	serveProbe mode = iota
	printVersion
	connectAgent
)

// connectCommand is the first argument that asks for connectAgent.
const connectCommand = "connect"

// config is what flags and environment said, valid as a whole.
type config struct {
	mode              mode
	identity          string
	listen            []listen.Spec
	agentPort         uint16
	token             string
	concurrency, rate int
}

// parse reads the flags, then the environment for those not given, and reports every fault at once.
func parse(args []string, env func(string) (string, bool), stderr io.Writer) (config, error) {
	var c config
	if len(args) > 0 && args[0] == connectCommand {
		c.mode, args = connectAgent, args[1:]
	}
	flags := flag.NewFlagSet("gapproof-probe", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the caller prints errors; help is printed below
	identity := flags.String("identity", "", "who this pod is, `NAMESPACE/POD`")
	specs := flags.String("listen", "", "the listeners, such as `TCP/80,UDP/81`")
	port := flags.Uint("agent-port", agent.DefaultPort, "the agent's `PORT` on the loopback")
	tokenFile := flags.String("token-file", "", "the `FILE` with the run's bearer token")
	flags.IntVar(&c.concurrency, "concurrency", agent.DefaultConcurrency, "attempts at once, at least `1`")
	flags.IntVar(&c.rate, "rate", 0, "attempts begun per second, `0` for no bound")
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
	if *port == 0 || *port > 65535 {
		faults = append(faults, fmt.Errorf("--agent-port: %d is not from 1 to 65535", *port))
	}
	c.agentPort = uint16(*port)
	if c.mode == connectAgent {
		return c, errors.Join(faults...)
	}
	var err error
	if c.listen, err = listen.ParseSpecs(*specs); err != nil {
		faults = append(faults, fmt.Errorf("--listen: %w", err))
	}
	if err := wire.CheckIdentity(*identity); err != nil {
		faults = append(faults, fmt.Errorf("--identity: %w", err))
	}
	if c.concurrency < 1 || c.rate < 0 {
		faults = append(faults, fmt.Errorf("--concurrency %d is below 1 or --rate %d below 0", c.concurrency, c.rate))
	}
	if c.token, err = program.ReadToken(*tokenFile); err != nil {
		faults = append(faults, fmt.Errorf("--token-file: %w", err))
	}
	c.identity = *identity
	return c, errors.Join(faults...)
}
