package witness

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestEveryProgramIsTriedOnceAndInOrder(t *testing.T) {
	var got []Program
	for _, candidate := range minimals() {
		got = append(got, candidate.program)
	}
	if diff := cmp.Diff(Programs(), got); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
	names := map[string]bool{}
	for _, program := range Programs() {
		if names[program.String()] || program.String() == ProgramUnknown.String() {
			t.Errorf("program %d: name %q is not its own", program, program)
		}
		names[program.String()] = true
	}
}

func TestACancelledTrialIsNotARefusal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, trial := range TryPrograms(ctx) {
		var refused *RefusedError
		if !errors.Is(trial.Err, context.Canceled) || errors.As(trial.Err, &refused) {
			t.Errorf("%s: want context.Canceled, got %v", trial.Program, trial.Err)
		}
	}
}

func TestAProgramThatTheVerifierRefusesNamesItsStage(t *testing.T) {
	needRoot(t)
	err := minimal{program: ProgramTPBTF, kind: ebpf.Tracing, attachType: ebpf.AttachTraceRawTp, attachTo: "no_such_tracepoint"}.try()
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Stage != "loading" || !strings.Contains(err.Error(), "tp_btf") {
		t.Errorf("want a RefusedError at loading that names tp_btf, got %v", err)
	}
}

func TestSocketFiltersLoadOnEveryKernelWithTheSyscall(t *testing.T) {
	needRoot(t)
	for _, trial := range TryPrograms(t.Context()) {
		if trial.Program == ProgramSocketFilter && trial.Err != nil && !errors.Is(trial.Err, unix.ENOSYS) {
			t.Errorf("socket filter: %v", trial.Err)
		}
	}
}

func TestTryingLeavesNoFileOpen(t *testing.T) {
	needRoot(t)
	TryPrograms(t.Context()) // the library opens what it caches for good on first use
	before := openFiles(t)
	TryPrograms(t.Context())
	if after := openFiles(t); after != before {
		t.Errorf("open files: want %d as before, got %d", before, after)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("loading programs needs root, which CI has")
	}
	t.Skip("loading programs needs root: run the test with sudo")
}
