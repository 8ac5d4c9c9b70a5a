package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
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
func sh(t *testing.T, in string, program string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), program, args...)
	c.Stdin = strings.NewReader(in)
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
	table, worker := "gapproof-"+name, "gapproof-"+name+"-worker"
	t.Run("an image that came in from elsewhere", func(t *testing.T) {
		const image = "example.org/unlisted:1"
		sh(t, strings.Repeat("\x00", 1024), "docker", "import", "-", image) // an empty archive
		t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", image).Run() })
		saved := sh(t, "", "docker", "save", image)
		ctr := []string{"exec", "--interactive", worker, "ctr", "--namespace", "k8s.io", "images"}
		listed := func() []string { return strings.Fields(sh(t, "", "docker", append(ctr, "list", "--quiet")...)) }
		before := listed()
		sh(t, saved, "docker", append(ctr, "import", "-")...)
		wantSeal(t, name, 1, "LEAKED", image)
		for _, reference := range listed() { // the runtime has given it another one, by its configuration's digest
			if !slices.Contains(before, reference) {
				sh(t, "", "docker", append(ctr, "remove", reference)...)
			}
		}
		wantSeal(t, name, 0, "SEALED", "")
	})
	t.Run("an image that Kubernetes does not see", func(t *testing.T) {
		const image, namespace = "example.org/unseen:1", "others"
		sh(t, strings.Repeat("\x00", 1024), "docker", "import", "-", image) // an empty archive
		t.Cleanup(func() { _ = exec.Command("docker", "image", "rm", image).Run() })
		ctr := []string{"exec", "--interactive", worker, "ctr", "--namespace", namespace, "images"}
		sh(t, sh(t, "", "docker", "save", image), "docker", append(ctr, "import", "--no-unpack", "-")...)
		wantSeal(t, name, 1, "LEAKED", "namespace "+namespace+" is not in the lock")
		for _, reference := range strings.Fields(sh(t, "", "docker", append(ctr, "list", "--quiet")...)) {
			sh(t, "", "docker", append(ctr, "remove", reference)...)
		}
		wantSeal(t, name, 0, "SEALED", "")
	})
	t.Run("a cluster's resolver that asks elsewhere", func(t *testing.T) {
		kubectl := func(in string, args ...string) string {
			t.Helper()
			return sh(t, in, "docker", append([]string{"exec", "--interactive", table + "-control-plane", "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf",
				"--namespace", "kube-system"}, args...)...)
		}
		// apply writes the resolver's configuration and starts it anew: by itself it would look at its file once in a while only.
		apply := func(corefile string) {
			t.Helper()
			patch, err := json.Marshal(map[string]any{"data": map[string]string{"Corefile": corefile}})
			if err != nil {
				t.Fatal(err)
			}
			kubectl("", "patch", "configmap", "coredns", "--type", "merge", "--patch", string(patch))
			kubectl("", "rollout", "restart", "deployment", "coredns")
			kubectl("", "rollout", "status", "deployment", "coredns", "--timeout", waitLimit.String())
			// The pods before have another configuration, and answer as long as they end.
			eventually(t, "the resolver's pods are those of the new configuration alone", func() (bool, string) {
				pods := strings.Fields(kubectl("", "get", "pods", "--selector", "k8s-app=kube-dns", "--output", "name"))
				want := strings.TrimSpace(kubectl("", "get", "deployment", "coredns", "--output", "jsonpath={.spec.replicas}"))
				return fmt.Sprint(len(pods)) == want, fmt.Sprintf("there are %s, want %s", pods, want)
			})
		}
		was := kubectl("", "get", "configmap", "coredns", "--output", "jsonpath={.data.Corefile}")
		elsewhere := regexp.MustCompile(`(?m)^(\s*forward\s+\S+\s+)\S+`).ReplaceAllString(was, "${1}198.18.0.1")
		if elsewhere == was {
			t.Fatalf("the resolver forwards nothing:\n%s", was)
		}
		apply(elsewhere)
		// Nobody is at that address. Whether the resolver says so before whoever asks gives up is its own affair; nodes do not ask it.
		p := wantSeal(t, name, 3, "SEAL_NOT_PROVEN", " for canary-")
		for _, d := range p.Doubts {
			if !strings.HasPrefix(d, "pod ") || !strings.Contains(d, " asked ") {
				t.Errorf("there is a doubt that is not of a pod's name: %s", d)
			}
		}
		apply(was)
		wantSeal(t, name, 0, "SEALED", "")
	})
	t.Run("a resolver other than the sink", func(t *testing.T) {
		was := sh(t, "", "docker", "exec", worker, "cat", "/etc/resolv.conf")
		write := []string{"exec", "--interactive", worker, "sh", "-c", "cat > /etc/resolv.conf"}
		sh(t, "nameserver 198.18.0.1\n", "docker", write...)
		wantSeal(t, name, 3, "SEAL_NOT_PROVEN", "asked 198.18.0.1:53")
		sh(t, was, "docker", write...)
	})
	t.Run("masquerading", func(t *testing.T) {
		const own = "gapproof-e2e-masquerade"
		subnet := strings.TrimSpace(sh(t, "", "docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", table))
		t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "ip", own).Run() })
		sh(t, fmt.Sprintf("table ip %s {\nchain c {\ntype nat hook postrouting priority 100\nip saddr %s masquerade\n}\n}\n", own, subnet), "nft", "-f", "-")
		wantSeal(t, name, 3, "SEAL_NOT_PROVEN", "masquerading is on")
	})
	t.Run("a rule that is gone", func(t *testing.T) {
		wantSeal(t, name, 0, "SEALED", "") // the breaches before are mended
		lines := strings.Split(sh(t, "", "nft", "--handle", "list", "chain", "inet", table, "gate"), "\n")
		lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, " drop ") })
		if len(lines) == 0 {
			t.Fatal("the gate has no rule that drops")
		}
		_, handle, _ := strings.Cut(lines[0], "# handle ")
		sh(t, "", "nft", "delete", "rule", "inet", table, "gate", "handle", strings.Fields(handle)[0])
		wantSeal(t, name, 3, "SEAL_NOT_PROVEN", "is gone")
	})
	t.Run("a hole for IPv6", func(t *testing.T) {
		sh(t, "", "nft", "insert", "rule", "inet", table, "gate", "meta", "nfproto", "ipv6", "accept")
		wantSeal(t, name, 1, "LEAKED", "packets got past the gate: counter beyond-forward-ipv6")
	})
	t.Run("a table that was made anew, with counters from zero", func(t *testing.T) {
		rules := sh(t, "", "nft", "--stateless", "list", "table", "inet", table)
		sh(t, "delete table inet "+table+"\n"+rules, "nft", "-f", "-")
		wantSeal(t, name, 3, "SEAL_NOT_PROVEN", "went back")
	})
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
