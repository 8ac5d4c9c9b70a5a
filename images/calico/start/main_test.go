package main

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDaemonsFollowTheManifestsEnvironment(t *testing.T) {
	for name, c := range map[string]struct {
		env  map[string]string
		want []string
	}{
		"vxlan": {
			map[string]string{"CALICO_NETWORKING_BACKEND": "vxlan"},
			[]string{"-allocate-tunnel-addrs", "-status-reporter", "-monitor-addresses", "-monitor-token", "-felix"},
		},
		"policy only, with Felix and the CNI configuration elsewhere": {
			map[string]string{"CALICO_NETWORKING_BACKEND": "none", "CALICO_MANAGE_CNI": "false", "CALICO_DISABLE_FELIX": "true"},
			[]string{"-allocate-tunnel-addrs", "-status-reporter"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := daemonsFor(func(k string) string { return c.env[k] })
			if err != nil || !reflect.DeepEqual(c.want, got) {
				t.Errorf("want %q, got %q, %v", c.want, got, err)
			}
		})
	}
	if _, err := daemonsFor(func(string) string { return "bird" }); err == nil || !strings.Contains(err.Error(), `"bird" needs BIRD`) {
		t.Errorf("a backend that needs BIRD: want a refusal, got %v", err)
	}
}

func TestFelixIsToldTheNodeAndTheDatastore(t *testing.T) {
	got := felixEnv([]string{"DATASTORE_TYPE=kubernetes", "NODENAME=old"}, "worker")
	want := []string{
		"DATASTORE_TYPE=kubernetes", "NODENAME=old", "NODENAME=worker", "FELIX_FELIXHOSTNAME=worker", "FELIX_DATASTORETYPE=kubernetes",
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("want %q, got %q", want, got)
	}
}

// fakeNode puts a calico-node on the PATH that waits until it is told to end, but fails when started with -felix.
func fakeNode(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = -felix ] && exit 3\nexec sleep 60\n"
	if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestTheFirstDaemonThatEndsTakesTheOthersWithIt(t *testing.T) {
	fakeNode(t)
	start := time.Now()
	err := together(context.Background(), os.Environ(), []string{"-status-reporter", "-felix"})
	if err == nil || !strings.Contains(err.Error(), "-felix: exit status 3") {
		t.Errorf("want the daemon that ended, got %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("the other daemon was waited for: %s", took)
	}
}

func TestASignalEndsAllDaemonsWithoutAnError(t *testing.T) {
	fakeNode(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := together(ctx, os.Environ(), []string{"-status-reporter", "-monitor-token"}); err != nil {
		t.Errorf("want no error, got %v", err)
	}
}
