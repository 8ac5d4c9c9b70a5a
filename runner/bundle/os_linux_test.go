package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNothingOfAConfinedProgramOutlivesIt(t *testing.T) {
	missing := t.Skipf
	if os.Getenv("CI") != "" { // where this is known to be there
		missing = t.Fatalf
	}
	if os.Geteuid() != 0 {
		missing("needs root to make namespaces; run: sudo go test ./runner/bundle")
	}
	dir := t.TempDir()
	// A length of sleep that is in no other command line, so that the helper can be recognised.
	helper := fmt.Sprintf("300.%d", os.Getpid())
	script := fmt.Sprintf("mount -t tmpfs none %[1]s && touch %[1]s/inside && { sleep %[2]s & }", dir, helper)
	start := time.Now()
	if err := (command{dir: "/", confined: true}).run(t.Context(), "sh", "-c", script); err != nil {
		if strings.Contains(err.Error(), "operation not permitted") {
			missing("needs CAP_SYS_ADMIN to make namespaces: %v", err)
		}
		t.Fatal(err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("the helper was waited for: %s", took)
	}
	if mount, err := mountBelow(dir); err != nil || mount != "" {
		t.Errorf("mounts of the program: want none outside, got %q, %v", mount, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "inside")); !os.IsNotExist(err) {
		t.Errorf("a file in the program's mount is seen outside: %v", err)
	}
	if pids := withArgument(t, helper); len(pids) > 0 {
		t.Errorf("the helper still runs as %v", pids)
	}
}

// withArgument lists the processes with an argument.
func withArgument(t *testing.T, want string) []string {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, name := range lines {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		for _, arg := range strings.Split(string(data), "\x00") {
			if arg == want {
				pids = append(pids, filepath.Base(filepath.Dir(name)))
			}
		}
	}
	return pids
}

func TestMountsBelowAFolderAreFound(t *testing.T) {
	for dir, want := range map[string]bool{"/proc": true, "/": true, "/pro": false, t.TempDir(): false} {
		got, err := mountBelow(dir)
		if err != nil {
			t.Fatal(err)
		}
		if (got != "") != want {
			t.Errorf("mount at or below %s: want %v, got %q", dir, want, got)
		}
	}
}
