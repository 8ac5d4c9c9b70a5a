//go:build unix

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReadingWhatNeverEndsEndsWithTheContext(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"lint", pipe}, {"explain", "x/a", "x/b", "80", "-f", pipe}} {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("interrupted"))
		ended := make(chan int)
		var said strings.Builder
		go func() { ended <- run(ctx, args, streams{out: &said, err: &said}) }()
		select {
		case code := <-ended:
			if code != exitInfrastructure || !strings.Contains(said.String(), "interrupted") {
				t.Errorf("%s: exit code %d and %q, want %d and the cause", args[0], code, &said, exitInfrastructure)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s reads on", args[0])
		}
		// Whoever still waits for the pipe to open is let go.
		if f, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
			f.Close()
		}
	}
}
