package cluster

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kindexec "sigs.k8s.io/kind/pkg/exec"
)

func TestFindTellsOwnFromForeign(t *testing.T) {
	for name, tc := range map[string]struct {
		set     func(*fakeEngine)
		nodes   int
		foreign []string
	}{
		"nothing": {func(*fakeEngine) {}, 0, nil},
		"nodes on our network": {func(f *fakeEngine) {
			f.networks = []*fakeNetwork{{name: "gapproof-a", label: "a"}}
			f.node("gapproof-a", "control-plane", "gapproof-a")
			f.node("gapproof-a", "worker", "gapproof-a")
			f.node("gapproof-ab", "control-plane", "gapproof-ab")
		}, 2, nil},
		"a node whose network is gone, which a cancelled Up may leave": {func(f *fakeEngine) {
			f.node("gapproof-a", "control-plane", "gapproof-a")
		}, 1, nil},
		"somebody's kind cluster of our name on kind's network": {func(f *fakeEngine) {
			f.node("gapproof-a", "control-plane", "kind")
		}, 0, []string{"container gapproof-a-control-plane"}},
		"somebody's network of our name, with nodes on it": {func(f *fakeEngine) {
			f.networks = []*fakeNetwork{{name: "gapproof-a"}}
			f.node("gapproof-a", "control-plane", "gapproof-a")
		}, 0, []string{"network gapproof-a", "container gapproof-a-control-plane"}},
		"a stopped node without any network": {func(f *fakeEngine) {
			f.node("gapproof-a", "control-plane")
		}, 0, []string{"container gapproof-a-control-plane"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			tc.set(f)
			own, foreign, err := f.engine().find(t.Context(), "a")
			if err != nil {
				t.Fatal(err)
			}
			if len(own.nodes) != tc.nodes {
				t.Errorf("own nodes: %v, want %d", own.nodes, tc.nodes)
			}
			if diff := cmp.Diff(tc.foreign, foreign); diff != "" {
				t.Errorf("foreign (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRemoveTakesWhatIsOursAndNothingElse(t *testing.T) {
	f := newFake(t)
	f.networks = []*fakeNetwork{{name: "bridge"}, {name: "gapproof-a", label: "a"}, {name: "gapproof-b", label: "b"}}
	f.node("gapproof-a", "control-plane", "gapproof-a")
	f.node("gapproof-b", "control-plane", "gapproof-b")
	f.node("kind", "control-plane", "kind")
	f.containers = append(f.containers,
		&fakeContainer{id: "m", name: "gapproof-a-mirror", state: "running", image: mirrorRepository + ":1", labels: map[string]string{Label: "a"}},
		&fakeContainer{id: "o", name: "outside-host", state: "created", image: "gapproof.dev/probe:lab", labels: map[string]string{Label: "a"}})
	f.images[mirrorRepository+":1"] = fakeImage{}
	f.images["gapproof.dev/probe:lab"] = fakeImage{}
	got, err := remove(t.Context(), f.engine(), "a", filesOf(t.TempDir(), "a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"container gapproof-a-control-plane", "container gapproof-a-mirror", "container outside-host", "network gapproof-a", "image gapproof.dev/mirror:1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	left := []string{"container gapproof-b-control-plane", "container kind-control-plane", "image gapproof.dev/probe:lab", "network bridge", "network gapproof-b"}
	if diff := cmp.Diff(left, f.names()); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestRemoveLooksAgainForWhatAppearedMeanwhile(t *testing.T) {
	f := newFake(t)
	f.networks = []*fakeNetwork{{name: "gapproof-a", label: "a"}}
	late := true
	f.before = func(line string) {
		if late && strings.HasPrefix(line, "network rm") {
			late = false
			f.node("gapproof-a", "worker", "gapproof-a")
		}
	}
	if _, err := remove(t.Context(), f.engine(), "a", filesOf(t.TempDir(), "a"), nil); err != nil {
		t.Fatal(err)
	}
	if got := f.names(); len(got) != 0 {
		t.Errorf("left: %v, want nothing", got)
	}
}

func TestRemoveTellsWhatItCouldNot(t *testing.T) {
	f := newFake(t)
	f.networks = []*fakeNetwork{{name: "gapproof-a", label: "a"}}
	f.refuse["network rm"] = "Error response from daemon: network gapproof-a has active endpoints"
	_, err := remove(t.Context(), f.engine(), "a", filesOf(t.TempDir(), "a"), nil)
	var failed *CommandError
	if !errors.As(err, &failed) || !strings.Contains(failed.Output, "active endpoints") {
		t.Errorf("remove: %v, want a *CommandError with docker's words", err)
	}
}

func TestRunDocker(t *testing.T) {
	if _, err := exec.LookPath("docker"); err != nil {
		t.Skip("no docker command: run `gapproof doctor --fix`")
	}
	_, err := newEngine().docker(t.Context(), nil, "no-such-verb")
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Output == "" || !slices.Equal(failed.Args, []string{"docker", "no-such-verb"}) {
		t.Errorf("an unknown verb: %#v, want a *CommandError with its output", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newEngine().docker(ctx, nil, "version"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v, want context.Canceled", err)
	}
}

func TestCommandErrorIsOneLine(t *testing.T) {
	err := &CommandError{Args: []string{"docker", "run"}, Output: "first\nthe reason\n", Err: errors.New("exit status 125")}
	if want, got := `running "docker run": exit status 125: the reason`, err.Error(); want != got {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestKindsErrorsKeepTheirOutput(t *testing.T) {
	inner := errors.New("exit status 1")
	err := fromKind(&kindexec.RunError{Command: []string{"kubeadm", "init"}, Output: []byte("no route"), Inner: inner})
	var failed *CommandError
	if !errors.As(err, &failed) || failed.Output != "no route" || !errors.Is(err, inner) {
		t.Errorf("got %v, want a *CommandError with kubeadm's output", err)
	}
	if want, got := `running "kubeadm init": exit status 1: no route`, err; got.Error() != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if plain := errors.New("other"); fromKind(plain) != plain {
		t.Error("an error of another kind was changed")
	}
}

func TestEndedMatchesTheContextAndTellsItsCause(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Nanosecond, errors.New("kind was not done"))
	defer cancel()
	<-ctx.Done()
	if err := ended(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "kind was not done") {
		t.Errorf("got %v, want DeadlineExceeded with its cause", err)
	}
}
