package e2e

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// tables lists the tables of the kernel's packet filter.
func tables(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", "list", "tables").CombinedOutput()
	if err != nil {
		t.Fatalf("listing the kernel's tables (make testtools installs nft): %v: %s", err, out)
	}
	return string(out)
}

func TestAKilledSealedUpIsUndone(t *testing.T) {
	const name = clusterName + "-sealed"
	t.Cleanup(func() { _ = exec.Command(os.Getenv("GAPPROOF_BIN"), "down", "--cluster", name).Run() })
	up := gapproof(t, "up", "--sealed", "--cluster", name)
	feed(t, up, "network sealed", func() { up.Process.Signal(syscall.SIGKILL) })
	up.wantExit(t, -1)
	if table := "gapproof-" + name; !strings.Contains(tables(t), table) {
		t.Fatalf("the kernel has no table %s: the test shows nothing", table)
	}
	gapproof(t, "down", "--cluster", name).wantExit(t, 0)
	if left := tables(t); strings.Contains(left, "gapproof-"+name) {
		t.Errorf("tables are left after down:\n%s", left)
	}
}
