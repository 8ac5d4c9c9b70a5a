package kernelnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestTryUsesEveryFeatureAndLeavesTheHostAlone(t *testing.T) {
	needRoot(t)
	before := hostNetwork(t)
	trials, err := Try(t.Context(), exec.LookPath)
	if err != nil {
		t.Fatal(err)
	}
	for i, trial := range trials {
		t.Logf("%s: %v", trial.Feature, trial.Err)
		if want := Feature(i + 1); trial.Feature != want {
			t.Errorf("trial %d: want %s, got %s", i, want, trial.Feature)
		}
	}
	if want := int(FeatureSCTP); len(trials) != want {
		t.Errorf("trials: want %d, got %d", want, len(trials))
	}
	if diff := cmp.Diff(before, hostNetwork(t)); diff != "" {
		t.Errorf("host's network (-before +after):\n%s", diff)
	}
}

func TestAKindOfLinkThatNobodyKnowsIsRefused(t *testing.T) {
	needRoot(t)
	// In the host's namespace: a kind that does not exist cannot be made anywhere.
	if err := addLink("gptry-none", "gapproof-no-such"); !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("want EOPNOTSUPP, got %v", err)
	}
}

func TestAMissingToolSaysNothingAboutTheKernel(t *testing.T) {
	nothing := func(name string) (string, error) { return "", exec.ErrNotFound }
	if err := addRules(nothing, "iptables-nft")(t.Context()); !errors.Is(err, ErrNoTool) {
		t.Errorf("want ErrNoTool, got %v", err)
	}
}

func TestACancelledTrialIsNotAnAnswerOfTheKernel(t *testing.T) {
	needRoot(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	trials, err := Try(ctx, exec.LookPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, trial := range trials {
		if !errors.Is(trial.Err, context.Canceled) {
			t.Errorf("%s: want context.Canceled, got %v", trial.Feature, trial.Err)
		}
	}
}

func TestEncodeAttributesPadsEachToFourBytes(t *testing.T) {
	got := encodeAttributes([]attribute{byteAttribute(1, 0xaa), stringAttribute(2, "abc")})
	want := binary.NativeEndian.AppendUint16(nil, 5)
	want = binary.NativeEndian.AppendUint16(want, 1)
	want = append(want, 0xaa, 0, 0, 0)
	want = binary.NativeEndian.AppendUint16(want, 8)
	want = binary.NativeEndian.AppendUint16(want, 2)
	want = append(want, 'a', 'b', 'c', 0)
	if !bytes.Equal(want, got) {
		t.Errorf("want % x\ngot  % x", want, got)
	}
}

func TestReadAnswer(t *testing.T) {
	ack := func(sequence uint32, code int32) []byte {
		return encodeMessage(unix.NLMSG_ERROR, 0, sequence, binary.NativeEndian.AppendUint32(nil, uint32(code)))
	}
	tests := []struct {
		name     string
		text     []byte
		answered bool
		err      error
	}{
		{"the acknowledgement waited for answers", ack(2, 0), true, nil},
		{"an acknowledgement of another message does not", ack(1, 0), false, nil},
		{"an error counts whatever message it is for", ack(1, -int32(unix.EPERM)), false, unix.EPERM},
		{"messages in one read are all looked at", append(ack(1, 0), ack(2, 0)...), true, nil},
		{"a message cut short is an error", ack(2, 0)[:18], false, errShortAnswer},
		{"a header cut short is an error", ack(2, 0)[:7], false, errShortAnswer},
		{"nothing answers nothing", nil, false, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answered, err := readAnswer(test.text, 2)
			if answered != test.answered || !errors.Is(err, test.err) {
				t.Errorf("want %v, %v; got %v, %v", test.answered, test.err, answered, err)
			}
		})
	}
}

func FuzzReadAnswer(f *testing.F) {
	f.Add(encodeMessage(unix.NLMSG_ERROR, 0, 1, make([]byte, 4)))
	f.Add([]byte{16, 0, 0, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		if answered, err := readAnswer(text, 1); answered && err != nil {
			t.Errorf("answered with %v", err)
		}
	})
}

// hostNetwork is what Try must leave as it is: links, and the thread's namespace.
func hostNetwork(t *testing.T) []string {
	t.Helper()
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	namespace, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	found := []string{namespace}
	for _, link := range links {
		// Containers of others come and go while the test runs; only what Try could have made counts.
		if name := link.Name(); strings.HasPrefix(name, "gptry-") {
			found = append(found, name)
		}
	}
	return found
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root: run the test with sudo")
	}
}
