// Command gapproof proves on a live cluster that NetworkPolicies do what they promise.
//
// Each subcommand has a file: it parses, calls one thing and renders. Everything that prints or exits is in this package. Started
// under the name gapproof-oci it is the OCI runtime front of runner/host/ocifront instead.
//
// The trap: stdout is the report and nothing else; progress, logs and errors go to stderr.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/gapproof/gapproof/runner/host/ocifront"
)

// version is set by the build; "dev" for a plain go build.
var version = "dev"

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// streams are the process's, or a test's.
type streams struct {
	out, err io.Writer
}

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		cancel(fmt.Errorf("%w by %s", errInterrupted, s))
		signal.Stop(signals) // a second one ends the process at once
	}()
	klog.SetOutput(io.Discard) // client-go's own chatter; its errors reach us as values
	klog.LogToStderr(false)
	if filepath.Base(os.Args[0]) == ocifront.Name {
		os.Exit(ocifront.Main(ctx, os.Args[1:], os.Stderr))
	}
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdout, os.Stderr}))
}
