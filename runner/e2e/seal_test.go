package e2e

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// proof is what `gapproof seal check -o json` prints, as far as these tests look at it.
type proof struct {
	Verdict string   `json:"verdict"`
	Leaks   []string `json:"leaks"`
	Doubts  []string `json:"doubts"`
	Facts   struct {
		Canaries []struct {
			From          string `json:"from"`
			Counter       string `json:"counter"`
			Sent, Counted int
		} `json:"canaries"`
	} `json:"facts"`
}

// wantSeal checks the seal of a cluster and fails the test for another verdict, or one for another reason.
func wantSeal(t *testing.T, name string, exit int, verdict, why string) proof {
	t.Helper()
	c := gapproof(t, "seal", "check", "--cluster", name, "-o", "json")
	c.wantExit(t, exit)
	var p proof
	if err := json.Unmarshal(c.stdout.Bytes(), &p); err != nil {
		t.Fatalf("decoding the proof: %v\n%s", err, &c.stdout)
	}
	reasons := strings.Join(append(p.Leaks, p.Doubts...), "\n")
	if p.Verdict != verdict || !strings.Contains(reasons, why) {
		t.Errorf("the seal is %s, want %s for %q; why:\n%s", p.Verdict, verdict, why, reasons)
	}
	return p
}

// sh runs a program with what it reads, if anything, and returns what it prints.
func sh(t *testing.T, in io.Reader, program string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...)
	c.Stdin = in
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// sealHoldsAndItsBreachesAreFound proves the seal of a cluster with both families and breaks it. The cluster is of no use afterwards.
func sealHoldsAndItsBreachesAreFound(t *testing.T, name string) {
	t.Helper()
	p := wantSeal(t, name, 0, "SEALED", "")
	kinds := map[string]bool{}
	for _, c := range p.Facts.Canaries {
		from, _, _ := strings.Cut(c.From, " ")
		kinds[from+" "+c.Counter] = c.Sent > 0
	}
	for _, from := range []string{"node", "pod"} {
		for _, counter := range []string{"tcp-ipv4", "udp-ipv4", "icmp-ipv4", "tcp-ipv6", "udp-ipv6", "icmp-ipv6"} {
			if !kinds[from+" canary-"+counter] {
				t.Errorf("no %s has sent a canary for %s", from, counter)
			}
		}
	}
	t.Run("a resolver other than the sink", func(t *testing.T) {
		worker := "gapproof-" + name + "-worker"
		was := sh(t, nil, "docker", "exec", worker, "cat", "/etc/resolv.conf")
		write := []string{"exec", "--interactive", worker, "sh", "-c", "cat > /etc/resolv.conf"}
		sh(t, strings.NewReader("nameserver 198.18.0.1\n"), "docker", write...)
		wantSeal(t, name, 3, "SEAL_NOT_PROVEN", "asked 198.18.0.1:53")
		sh(t, strings.NewReader(was), "docker", write...)
		wantSeal(t, name, 0, "SEALED", "")
	})
	t.Run("an image that came in from elsewhere", func(t *testing.T) {
		const image = "example.org/unlisted:1"
		sh(t, strings.NewReader(strings.Repeat("\x00", 1024)), "docker", "import", "-", image) // an empty archive
		t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", image).Run() })
		saved := sh(t, nil, "docker", "save", image)
		sh(t, strings.NewReader(saved), "docker", "exec", "--interactive", "gapproof-"+name+"-worker", "ctr", "--namespace", "k8s.io", "images", "import", "-")
		wantSeal(t, name, 1, "LEAKED", image)
	})
	t.Run("a hole for IPv6", func(t *testing.T) {
		sh(t, nil, "nft", "insert", "rule", "inet", "gapproof-"+name, "gate", "meta", "nfproto", "ipv6", "accept")
		wantSeal(t, name, 1, "LEAKED", "is nobody's") // the image alone makes it so, whether or not this host has a route for the canaries
	})
}

func TestAKilledSealedUpIsUndone(t *testing.T) {
	const name = clusterName + "-sealed"
	t.Cleanup(func() { _ = exec.Command(os.Getenv("GAPPROOF_BIN"), "down", "--cluster", name).Run() })
	up := gapproof(t, "up", "--sealed", "--cluster", name)
	feed(t, up, "network sealed", func() { up.Process.Signal(syscall.SIGKILL) })
	up.wantExit(t, -1)
	if table := "gapproof-" + name; !strings.Contains(sh(t, nil, "nft", "list", "tables"), table) {
		t.Fatalf("the kernel has no table %s: the test shows nothing", table)
	}
	gapproof(t, "down", "--cluster", name).wantExit(t, 0)
	if tables := sh(t, nil, "nft", "list", "tables"); strings.Contains(tables, "gapproof-"+name) {
		t.Errorf("tables are left after down:\n%s", tables)
	}
}
