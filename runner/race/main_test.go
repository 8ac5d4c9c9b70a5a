package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

func TestWrongUsageEndsWithCode2BeforeAnythingIsDone(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"a flag that is none":          {[]string{"--fast"}, "flag provided but not defined"},
		"an argument":                  {[]string{"fast"}, `"fast" is no flag`},
		"a side that is none":          {[]string{"--only", "neither"}, "is not ours, cyclonus or both"},
		"a deadline of half a second":  {[]string{"--deadline", "500ms"}, "not whole seconds"},
		"no deadline at all":           {[]string{"--deadline", "0s"}, "not whole seconds"},
		"a destination that is none":   {[]string{"--destination-type", "node"}, "is not service-name"},
		"a result of nobody":           {[]string{"--reuse", "nowhere", "--only", "ours"}, "leaves one side out"},
		"a result that is not there":   {[]string{"--reuse", filepath.Join("no", "where")}, "reading a result"},
		"a tag that cyclonus lacks":    {[]string{"--exclude", "nothing"}, "invalid tags: nothing"},
		"a cluster that is not there":  {[]string{"--cluster", "nowhere", "--only", "ours"}, "is not up"},
		"an out directory that is not": {[]string{"--out", filepath.Join("main_test.go", "x")}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, err strings.Builder
			if code := run(context.Background(), tt.args, streams{&out, &err}); code != exitUsage {
				t.Errorf("exit code %d, want %d", code, exitUsage)
			}
			if !strings.Contains(err.String(), tt.want) {
				t.Errorf("stderr %q, want %q in it", err.String(), tt.want)
			}
			if out.Len() > 0 {
				t.Errorf("stdout has %q", out.String())
			}
		})
	}
}

func TestCyclonusIsStartedWithItsDefaultsButForWhatTheRaceNames(t *testing.T) {
	for name, tt := range map[string]struct {
		destination Destination
		exclude     []string
		want        string
	}{
		"every case of the tag": {ToServiceName, nil,
			"generate --include upstream-e2e --exclude= --server-protocol TCP,UDP --server-port 80,81 --retries 0 --job-timeout-seconds 2"},
		"another destination, and cases left out": {ToPodIP, []string{"conflict", "delete-policy"},
			"generate --include upstream-e2e --exclude=conflict,delete-policy --server-protocol TCP,UDP --server-port 80,81 --retries 0 " +
				"--job-timeout-seconds 2 --destination-type pod-ip"},
	} {
		t.Run(name, func(t *testing.T) {
			c := cyclonus{deadline: 2 * time.Second, destination: tt.destination, exclude: tt.exclude}
			if got := strings.Join(c.args(), " "); got != tt.want {
				t.Errorf("arguments %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAResultReadsBackAsItWas(t *testing.T) {
	_, want, _ := agreeing()
	want.Contestant, want.Wall = "gapproof", 40*time.Second
	path := filepath.Join(t.TempDir(), ourFile)
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := readResult(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestCyclonusIsStartedAgainWhenItBreaksOffAndNotForEver(t *testing.T) {
	dir := t.TempDir()
	program, starts := filepath.Join(dir, "cyclonus"), filepath.Join(dir, "starts")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho start >> "+starts+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var told strings.Builder
	c := cyclonus{cluster: &kube.Cluster{Client: fake.NewClientset()}, deadline: time.Second, out: dir, progress: &told}
	if r, err := c.runToEnd(t.Context(), program); err == nil {
		t.Fatalf("no error, result %v", r)
	}
	text, err := os.ReadFile(starts)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), "start"); got != tries {
		t.Errorf("started %d times, want %d", got, tries)
	}
	if got := strings.Count(told.String(), "ended early"); got != tries-1 {
		t.Errorf("told %d times of starting again, want %d:\n%s", got, tries-1, told.String())
	}
}

func TestNamespacesThatExistAreNeverGivenToCyclonus(t *testing.T) {
	there := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "y"}}
	client := fake.NewClientset(there)
	c := cyclonus{cluster: &kube.Cluster{Client: client}, out: t.TempDir(), progress: io.Discard}
	if _, err := c.runToEnd(t.Context(), "never-started"); !errors.Is(err, errNamespaces) {
		t.Errorf("error %v, want %v", err, errNamespaces)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), "y", metav1.GetOptions{}); err != nil {
		t.Errorf("the namespace is gone: %v", err)
	}
}
