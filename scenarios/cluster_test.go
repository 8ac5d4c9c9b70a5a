package scenarios_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/scenarios"
)

func TestClusterNetworkPoliciesKeepTheirOrigins(t *testing.T) {
	s := mustLoad(t, "testdata/cluster/cluster.yaml")[0]
	type origin struct {
		Name, File, Template string
		Line                 int
	}
	var got []origin
	for _, p := range slices.Concat(s.Policies.LoadedCluster, s.Steps[1].ReplacingCluster) {
		got = append(got, origin{p.Spec.Name, p.File, p.Template, p.Line})
		if p.Spec.Status.Conditions != nil {
			t.Errorf("%s: want no status, got %v", p.Spec.Name, p.Spec.Status)
		}
	}
	want := []origin{
		{"fence", "testdata/cluster/cluster.yaml", "", 11},
		{"printed", "testdata/cluster-policies/good.yaml", "", 9},
		{"listed", "testdata/cluster-policies/good.yaml", "", 19},
		{"alone", "testdata/cluster-policies/good.yaml", "", 22},
		{"rendered", "testdata/manifests/cluster/policy.yaml", "guard/templates/policy.yaml", 2},
		{"fence", "testdata/cluster/cluster.yaml", "", 26},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("origins differ (-want +got):\n%s", diff)
	}
	if len(s.Policies.Loaded) != 1 || s.Policies.Loaded[0].Line != 5 {
		t.Errorf("want the List's NetworkPolicy of line 5 beside them, got %+v", s.Policies.Loaded)
	}
	if len(s.Omissions) != 1 || !strings.Contains(s.Omissions[0].String(), "AdminNetworkPolicy older") {
		t.Errorf("want the older API's policy told as left out, got %v", s.Omissions)
	}
}

func TestAKustomizationRendersClusterNetworkPolicies(t *testing.T) {
	s := mustManifests(t, "shop", "testdata/manifests/shop", "testdata/manifests/cluster")
	if len(s.Policies.LoadedCluster) != 1 {
		t.Fatalf("want one ClusterNetworkPolicy, got %+v", s.Policies.LoadedCluster)
	}
	got := s.Policies.LoadedCluster[0]
	if got.Spec.Name != "prod-rendered" || got.File != "testdata/manifests/cluster/kustomization.yaml" || got.Line != 0 {
		t.Errorf("got %s of %s:%d, want it named by its kustomization", got.Spec.Name, got.File, got.Line)
	}
	if n := s.Ignored["ClusterNetworkPolicy"]; n != 0 {
		t.Errorf("want it not counted as passed over, got %d", n)
	}
}

func TestNetworksOfAClusterNetworkPolicyTakeThePodsAddresses(t *testing.T) {
	policy := mustLoad(t, "testdata/cluster/cluster.yaml")[0].Policies.LoadedCluster[0].Spec
	filled, err := scenarios.SubstituteCluster(policy, func(h scenarios.Host) (netip.Addr, bool) {
		return netip.MustParseAddr("10.1.2.3"), h.Name == "x/b"
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := filled.Spec.Egress[0].To[0].Networks; got[0] != "10.1.2.3/32" || got[1] != "10.0.0.1/8" {
		t.Errorf("networks %v, want the pod's address, and what is written otherwise as it is", got)
	}
	if policy.Spec.Egress[0].To[0].Networks[0] != "${pod:x/b}" {
		t.Error("want the policy that was given unchanged")
	}
	_, err = scenarios.SubstituteCluster(policy, func(scenarios.Host) (netip.Addr, bool) { return netip.Addr{}, false })
	const want = `filling in the addresses of policy fence: spec.egress[0].to[0].networks[0]: "${pod:x/b}": pod x/b has no known address`
	if err == nil || err.Error() != want {
		t.Errorf("error differs:\nwant %s\n got %v", want, err)
	}
}
