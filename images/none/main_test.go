package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name string, addresses, subnets []string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: subnets}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func TestEveryOtherNodesPodsHaveARouteOfTheirFamily(t *testing.T) {
	nodes := []*corev1.Node{
		node("own", []string{"172.30.0.3", "fc00::3"}, []string{"10.244.1.0/24", "fd00:1::/64"}),
		node("b", []string{"172.30.0.5", "fc00::5"}, []string{"10.244.2.0/24", "fd00:2::/64"}),
		node("a", []string{"172.30.0.4"}, []string{"10.244.0.0/24", "fd00:0::/64"}), // no address of the second family
		node("new", []string{"172.30.0.6"}, nil),
	}
	got, err := networkOf("own", nodes)
	if err != nil {
		t.Fatal(err)
	}
	want := network{
		subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00:1::/64")},
		routes: []route{
			{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParseAddr("172.30.0.4")},
			{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParseAddr("172.30.0.5")},
			{netip.MustParsePrefix("fd00:2::/64"), netip.MustParseAddr("fc00::5")},
		},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(network{}, route{}), cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); diff != "" {
		t.Errorf("network (-want +got):\n%s", diff)
	}
}

func TestANodeWithoutPodRangeHasNoNetworkYet(t *testing.T) {
	if got, err := networkOf("own", []*corev1.Node{node("own", []string{"172.30.0.3"}, nil)}); err == nil {
		t.Errorf("got %+v, want an error", got)
	}
}

func TestTheConfigurationIsWrittenOnceAndWhole(t *testing.T) {
	dir := t.TempDir()
	n := network{subnets: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}}
	if err := n.writeConfiguration(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, confName)
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
  "cniVersion": "1.0.0",
  "name": "gapproof-none",
  "plugins": [
    {
      "ipMasq": false,
      "ipam": {
        "ranges": [
          [
            {
              "subnet": "10.244.1.0/24"
            }
          ]
        ],
        "routes": [
          {
            "dst": "0.0.0.0/0"
          }
        ],
        "type": "host-local"
      },
      "type": "ptp"
    }
  ]
}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.writeConfiguration(dir); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("an unchanged configuration was written anew: containerd would load it again")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d files, want the configuration alone", len(entries))
	}
}
