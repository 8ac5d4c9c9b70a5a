package kindconfigs

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

func TestEveryTopologyLoads(t *testing.T) {
	want := map[string][]v1alpha4.NodeRole{
		"no-worker":             {v1alpha4.ControlPlaneRole},
		"one-worker":            {v1alpha4.ControlPlaneRole, v1alpha4.WorkerRole},
		"one-worker-dual-stack": {v1alpha4.ControlPlaneRole, v1alpha4.WorkerRole},
		"one-worker-ipv6":       {v1alpha4.ControlPlaneRole, v1alpha4.WorkerRole},
		"two-workers":           {v1alpha4.ControlPlaneRole, v1alpha4.WorkerRole, v1alpha4.WorkerRole},
	}
	got := map[string][]v1alpha4.NodeRole{}
	for _, name := range Names() {
		c, err := Load(name)
		if err != nil {
			t.Errorf("Load(%q): %v", name, err)
			continue
		}
		for _, n := range c.Nodes {
			got[name] = append(got[name], n.Role)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("node roles by topology (-want +got):\n%s", diff)
	}
}

func TestEveryTopologySaysWhatItIsForAndWhoNeedsIt(t *testing.T) {
	for _, name := range Names() {
		raw, err := files.ReadFile(name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		comment, _, _ := strings.Cut(string(raw), "kind: Cluster")
		if !strings.HasPrefix(comment, "# ") || !strings.Contains(comment, "\n# Needed by: ") {
			t.Errorf("%s.yaml opens with %q, want a comment with a purpose and a line \"# Needed by: …\"", name, comment)
		}
	}
}

// What every topology must share is not in one place, as the files are no templates: so it is held here.
func TestEveryTopologyCarriesTheLabsPatches(t *testing.T) {
	for _, name := range Names() {
		c, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(append(c.KubeadmConfigPatches, c.ContainerdConfigPatches...), "\n")
		needs := []string{"failCgroupV1: false", "restrict_oom_score_adj = true", `config_path = "/etc/containerd/certs.d"`}
		if len(c.Nodes) > 1 {
			needs = append(needs, "taints: []")
		}
		for _, needed := range needs {
			if !strings.Contains(all, needed) {
				t.Errorf("%s.yaml patches nothing with %q", name, needed)
			}
		}
	}
}

func TestLoadOfAnUnknownNameListsWhatThereIs(t *testing.T) {
	_, err := Load("seven-workers")
	if !errors.Is(err, ErrUnknown) {
		t.Fatalf("Load: %v, want ErrUnknown", err)
	}
	if !strings.Contains(err.Error(), Default) {
		t.Errorf("Load: %q does not name %q", err, Default)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := files.ReadFile(Default + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ old, new, want string }{
		"an unknown field":                    {"ipFamily:", "ipFamilies:", "ipFamilies"},
		"a name":                              {"networking:", "name: mine\nnetworking:", `name: is "mine"`},
		"kind's own CNI":                      {"disableDefaultCNI: true", "disableDefaultCNI: false", "networking.disableDefaultCNI: must be true"},
		"another API version":                 {"v1alpha4", "v1alpha3", "apiVersion"},
		"a pod range with host bits":          {"10.244.0.0/16", "10.244.0.1/16", "has host bits, want 10.244.0.0/16"},
		"a family its ranges lack":            {"ipFamily: ipv4", "ipFamily: dual", "has the families [IPv4], want [IPv4 IPv6] for ipFamily dual"},
		"ranges of another family":            {"ipFamily: ipv4", "ipFamily: ipv6", "has the families [IPv4], want [IPv6] for ipFamily ipv6"},
		"a family that is none":               {"ipFamily: ipv4", "ipFamily: six", `networking.ipFamily: is "six", want ipv4, ipv6 or dual`},
		"IPv6 without an address on the host": {"ipFamily: ipv4", "ipFamily: ipv6", `networking.apiServerAddress: is "", must be 127.0.0.1`},
		"a Service range of words":            {"10.96.0.0/16", "many", `networking.serviceSubnet: reading "many"`},
		"two control planes":                  {"role: worker", "role: control-plane", "has 2 control planes"},
		"a node image":                        {"role: worker", "role: worker\n    image: x", "nodes[1].image"},
		"a host port":                         {"role: worker", "role: worker\n    extraPortMappings: [{containerPort: 1, hostPort: 1}]", "nodes[1].extraPortMappings"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(string(good), tc.old, tc.new, 1)
			if bad == string(good) {
				t.Fatalf("%q is not in the file", tc.old)
			}
			if _, err := decode([]byte(bad)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("decode: %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestPodSubnetsOfTheDefaultTopology(t *testing.T) {
	c, err := Load(Default)
	if err != nil {
		t.Fatal(err)
	}
	got, err := PodSubnets(c)
	if err != nil {
		t.Fatal(err)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}; !cmp.Equal(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) {
		t.Errorf("PodSubnets: got %v, want %v", got, want)
	}
}
