package e2e

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
)

// seen counts the evidence of judged attempts, all of which must have passed or been skipped.
func seen(t *testing.T, out []byte, of func(compare.Judgement) string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	eachJudgement(decode(t, out), func(j compare.Judgement) {
		if j.Result != compare.Pass && j.Result != compare.Skipped {
			t.Errorf("%s: %s, want pass: %s", j.Attempt.ID, j.Result, j.Reason)
		}
		if what := of(j); what != "" && j.Result == compare.Pass {
			counts[what+" "+j.Observed.Evidence.String()]++
		}
	})
	return counts
}

// wantSome fails the test where nothing was seen of one of these.
func wantSome(t *testing.T, counts map[string]int, what ...string) {
	t.Helper()
	for _, w := range what {
		if counts[w] == 0 {
			t.Errorf("nothing was %q; seen: %v", w, counts)
		}
	}
}

func TestHostsOutsideAndSCTPAreProven(t *testing.T) {
	live.Test(t, features.New("outside and SCTP").
		Assess("both ways are delivered and dropped, the evidence verifies, and no host is left", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			dir := filepath.Join(t.TempDir(), "evidence")
			c := gapproof(t, "run", "--cluster", clusterName, "--witness", "require", "-o", "json", "--evidence", dir,
				"scenarios/catalogue/outside", "scenarios/catalogue/ports/sctp-between-pods.yaml", "scenarios/catalogue/egress/api-server-for-controllers-alone.yaml")
			c.wantExit(t, 0)
			counts := seen(t, c.stdout.Bytes(), func(j compare.Judgement) string {
				switch {
				case j.Attempt.Destination == "outside:metadata":
					return "to " + j.Attempt.Address.String()
				case j.Attempt.Kind == plan.APIServerIP:
					return "to the API server"
				case j.Attempt.Kind == plan.OutsideIP:
					return "to outside by " + j.Attempt.Protocol.String()
				case j.Attempt.FromOutside() && j.Attempt.Kind == plan.NodePort:
					return "from outside at a node port"
				case j.Attempt.FromOutside():
					return "from outside by " + j.Attempt.Protocol.String()
				case j.Attempt.Protocol == probes.SCTP:
					return "SCTP"
				}
				return ""
			})
			wantSome(t, counts, "to outside by TCP delivered", "to outside by TCP dropped", "to outside by UDP delivered", "to outside by ICMP delivered",
				"to 169.254.169.254:80 delivered", "to 169.254.169.254:80 dropped", "to the API server delivered", "to the API server dropped",
				"from outside by TCP delivered", "from outside by TCP dropped", "from outside by ICMP delivered",
				"from outside at a node port delivered", "from outside at a node port silent", "SCTP delivered", "SCTP dropped")
			gapproof(t, "report", "verify", dir).wantExit(t, 0)
			wantNoRunNamespaces(ctx, t, cfg)
			wantNoHostOutside(ctx, t)
			return ctx
		}).Feature())
}

func TestAKilledRunsHostsOutsideAreCleaned(t *testing.T) {
	live.Test(t, features.New("killed run outside").
		Assess("gapproof clean removes what SIGKILL left", func(ctx context.Context, t *testing.T, cfg *envconf.Config) context.Context {
			c := gapproof(t, "run", "--cluster", clusterName, "scenarios/catalogue/outside/metadata-address.yaml")
			feed(t, c, "baseline:", func() { c.Process.Kill() })
			if err := c.Run(); err == nil {
				t.Fatal("the run ended before it could be killed")
			}
			if routes := routesToHosts(ctx, t); !strings.Contains(routes, "169.254.169.254") {
				t.Errorf("the killed run left no route of a node's that clean could remove: %q", routes)
			}
			clean := gapproof(t, "clean", "--cluster", clusterName)
			clean.wantExit(t, 0)
			if !strings.Contains(clean.stdout.String(), "-outside-") {
				t.Errorf("clean does not say that it removed hosts outside:\n%s", &clean.stdout)
			}
			wantNoRunNamespaces(ctx, t, cfg)
			wantNoHostOutside(ctx, t)
			return ctx
		}).Feature())
}

// wantNoHostOutside looks for containers of runs.
func wantNoHostOutside(ctx context.Context, t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(ctx, "docker", "ps", "--all", "--quiet", "--filter", "label="+runLabel).Output()
	if err != nil {
		t.Fatalf("listing containers: %v", err)
	}
	if left := strings.Fields(string(out)); len(left) > 0 {
		t.Errorf("containers %v are left", left)
	}
	if routes := routesToHosts(ctx, t); routes != "" {
		t.Errorf("routes are left:\n%s", routes)
	}
}

// routesToHosts are those that nodes have to what hosts outside stand for, of every cluster there is.
func routesToHosts(ctx context.Context, t *testing.T) string {
	t.Helper()
	nodes, err := exec.CommandContext(ctx, "docker", "ps", "--quiet", "--filter", "label=io.x-k8s.kind.role").Output()
	if err != nil {
		t.Fatalf("listing nodes: %v", err)
	}
	var all strings.Builder
	for _, node := range strings.Fields(string(nodes)) {
		for _, family := range []string{"-4", "-6"} {
			out, err := exec.CommandContext(ctx, "docker", "exec", node, "ip", family, "route", "show", "proto", "203").Output()
			if err != nil {
				t.Fatalf("listing the routes of %s: %v", node, err)
			}
			all.Write(out)
		}
	}
	return all.String()
}

// sealedCluster brings a cluster of its own up, sealed, which changes no verdict, and has it removed when the test ends.
func sealedCluster(t *testing.T, name, topology string) {
	t.Helper()
	t.Cleanup(func() {
		// The test's context has ended by then.
		out, err := exec.Command(os.Getenv("GAPPROOF_BIN"), "down", "--cluster", name).CombinedOutput()
		if err != nil {
			t.Errorf("removing the cluster: %v: %s", err, out)
		}
	})
	gapproof(t, "down", "--cluster", name).wantExit(t, 0)
	gapproof(t, "up", "--sealed", "--cluster", name, "--topology", topology).wantExit(t, 0)
}

func TestBothFamiliesHoldOnADualStackCluster(t *testing.T) {
	const dual = clusterName + "-dual"
	sealedCluster(t, dual, "one-worker-dual-stack")
	dir := filepath.Join(t.TempDir(), "evidence")
	statement, key := filepath.Join(t.TempDir(), "seal.dsse.json"), filepath.Join(t.TempDir(), "release")
	gapproof(t, "bundle", "key", "--no-passphrase", "-o", key).wantExit(t, 0)
	c := gapproof(t, "run", "--cluster", dual, "--witness", "require", "-o", "json", "--evidence", dir, "--seal", "require",
		"--statement", statement, "--key", key+".key", "scenarios/catalogue/families")
	c.wantExit(t, 0)
	t.Logf("\n%s", &c.stderr)
	counts := seen(t, c.stdout.Bytes(), func(j compare.Judgement) string {
		if j.Attempt.Lacking != "" {
			t.Errorf("%s: %s", j.Attempt.ID, j.Attempt.Lacking)
		}
		if j.Attempt.Kind == plan.ClusterIP {
			return j.Attempt.Family.String() + " Service"
		}
		return j.Attempt.Family.String() + " " + j.Attempt.Protocol.String()
	})
	for _, family := range []string{"IPv4", "IPv6"} {
		wantSome(t, counts, family+" TCP delivered", family+" TCP dropped", family+" UDP delivered", family+" UDP dropped", family+" Service delivered",
			family+" ICMP delivered", family+" DNS delivered", family+" DNS dropped")
	}
	if seal := decode(t, c.stdout.Bytes()).Seal; seal == nil || seal.Verdict != "SEALED" {
		t.Errorf("the report says of the seal: %+v, want SEALED", seal)
	}
	gapproof(t, "report", "verify", dir).wantExit(t, 0)
	verify := gapproof(t, "seal", "verify", statement, "--key", key+".pub", "--subject", filepath.Join(dir, "manifest.json"))
	verify.wantExit(t, 0)
	t.Logf("\n%s", &verify.stdout)
	sealHoldsAndItsBreachesAreFound(t, dual)
}

func TestIPv6AloneHoldsOnAClusterOfIt(t *testing.T) {
	const six = clusterName + "-ipv6"
	sealedCluster(t, six, "one-worker-ipv6")
	dir := filepath.Join(t.TempDir(), "evidence")
	c := gapproof(t, "run", "--cluster", six, "--witness", "require", "-o", "json", "--evidence", dir, "--seal", "require",
		"scenarios/catalogue/podSelector/allow-by-pod-selector.yaml", "scenarios/catalogue/ipBlock/ingress-except.yaml",
		"scenarios/catalogue/ipBlock/egress-except.yaml", "scenarios/catalogue/ipBlock/other-family-admits-nothing.yaml",
		"scenarios/catalogue/families/except-cuts-one-family.yaml", "scenarios/catalogue/families/block-admits-its-own-family-alone.yaml",
		"scenarios/catalogue/families/default-deny-both-ways-in-both-families.yaml", "scenarios/catalogue/services/headless-name-is-no-address.yaml",
		"scenarios/catalogue/hosts/agents-on-the-host-network.yaml", "scenarios/catalogue/ports/sctp-between-pods.yaml",
		"scenarios/catalogue/outside/ingress-from-one-outside-host.yaml", "scenarios/catalogue/outside/egress-to-one-outside-host.yaml",
		"scenarios/catalogue/outside/metadata-address.yaml", "scenarios/catalogue/egress/api-server-for-controllers-alone.yaml")
	c.wantExit(t, 0)
	t.Logf("\n%s", &c.stderr)
	counts := seen(t, c.stdout.Bytes(), func(j compare.Judgement) string {
		wantIPv6(t, j)
		a := j.Attempt
		switch {
		case strings.HasPrefix(a.Source, "agents/"), strings.HasPrefix(a.Destination, "agents/"):
			return "hostNetwork"
		case a.FromOutside():
			return "from outside " + a.Kind.String()
		case a.Destination == "outside:metadata":
			return "to " + a.Address.String()
		case a.Kind == plan.Lookup && strings.HasPrefix(a.Destination, "dns:db."):
			return "headless"
		}
		return a.Kind.String() + " " + a.Protocol.String()
	})
	wantSome(t, counts, "podIP TCP delivered", "podIP TCP dropped", "podIP UDP delivered", "podIP UDP dropped", "podIP ICMP delivered",
		"podIP SCTP delivered", "podIP SCTP dropped", "clusterIP TCP delivered", "clusterIP TCP dropped", "lookup DNS delivered", "lookup DNS dropped",
		"headless delivered", "nodePort TCP delivered", "hostNetwork delivered", "hostNetwork silent", "outsideIP TCP delivered", "outsideIP TCP dropped",
		"outsideIP ICMP delivered", "apiServerIP TCP delivered", "apiServerIP TCP dropped", "to [fd00:ec2::254]:80 delivered",
		"to [fd00:ec2::254]:80 dropped", "from outside podIP delivered", "from outside podIP dropped", "from outside nodePort delivered")
	gapproof(t, "report", "verify", dir).wantExit(t, 0)
	var fromPod []string
	for _, canary := range wantSeal(t, six, 0, "SEALED", "").Facts.Canaries {
		if strings.HasPrefix(canary.From, "pod ") {
			fromPod = append(fromPod, canary.Counter)
		}
	}
	if want := []string{"canary-icmp-ipv6", "canary-tcp-ipv6", "canary-udp-ipv6"}; !slices.Equal(want, fromPod) {
		t.Errorf("a pod's canaries: want %v, got %v", want, fromPod)
	}
}

// wantIPv6 fails the test where an attempt was planned, made or answered over another family. What asks for IPv4 must not have been made.
func wantIPv6(t *testing.T, j compare.Judgement) {
	t.Helper()
	a, o := j.Attempt, j.Facts
	if a.Family == probes.IPv4 {
		if a.Lacking == "" || j.Result != compare.Skipped {
			t.Errorf("%s: %s, want it skipped as the cluster has no IPv4", a.ID, j.Result)
		}
		return
	}
	all := slices.Concat(a.Answers, o.Outcome.Addresses, []netip.Addr{
		a.Address.Addr(), o.Attempt.Destination.Addr(), o.Outcome.Local.Addr(), o.Outcome.Remote.Addr(), o.Outcome.ReplyFrom,
	})
	all = slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.IsValid() })
	if a.Lacking != "" || len(all) == 0 || slices.ContainsFunc(all, func(a netip.Addr) bool { return a.Unmap().Is4() }) {
		t.Errorf("%s: addresses %v, lacking %q, want some, and of IPv6 alone", a.ID, all, a.Lacking)
	}
}
