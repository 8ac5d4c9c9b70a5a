package audit_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gapproof/gapproof/runner/audit"
	"github.com/gapproof/gapproof/runner/reach"
)

// clusterPolicies is what discovery says of a cluster that serves the kind.
func clusterPolicies() *metav1.APIResourceList {
	return &metav1.APIResourceList{
		GroupVersion: "policy.networking.k8s.io/v1alpha2",
		APIResources: []metav1.APIResource{{Name: "clusternetworkpolicies", Kind: "ClusterNetworkPolicy"}},
	}
}

func listKinds() map[schema.GroupVersionResource]string {
	return map[schema.GroupVersionResource]string{
		{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}: "ClusterNetworkPolicyList",
	}
}

func printed(priority any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
		"metadata": map[string]any{"name": "fence"},
		"spec": map[string]any{
			"tier": "Admin", "priority": priority, "subject": map[string]any{"namespaces": map[string]any{}},
			"egress": []any{map[string]any{"action": "Deny", "to": []any{map[string]any{"nodes": map[string]any{}}}}},
		},
		"status": map[string]any{"conditions": []any{map[string]any{"type": "Ready"}}},
	}}
}

// serving is a dynamic client of a cluster with these ClusterNetworkPolicies.
func serving(policies ...runtime.Object) *dynamicfake.FakeDynamicClient {
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), listKinds(), policies...)
}

func TestClusterNetworkPoliciesAreReadWhereTheClusterServesThem(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"role": "edge"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
		}},
	})
	objects := serving(printed(int64(7)))
	set, err := audit.Read(t.Context(), client, objects)
	if err != nil || len(set.Cluster) != 0 || len(set.World.Nodes) != 0 {
		t.Errorf("without the kind: %+v, %v; want none, and no node", set, err)
	}
	client.Resources = append(client.Resources, clusterPolicies())
	set, err = audit.Read(t.Context(), client, objects)
	if err != nil {
		t.Fatal(err)
	}
	if got := set.Cluster; len(got) != 1 || got[0].Spec.Name != "fence" || got[0].Spec.Spec.Priority != 7 || len(got[0].Spec.Status.Conditions) > 0 {
		t.Errorf("policies %+v, want fence without its status", got)
	}
	// Its peer speaks of nodes, which have their addresses without their names.
	want := []reach.Node{{Name: "n", Labels: map[string]string{"role": "edge"}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}
	if diff := cmp.Diff(want, set.World.Nodes, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}

func TestAClusterNetworkPolicyThatCannotBeReadIsAnErrorAndNotPassedOver(t *testing.T) {
	client := fake.NewClientset()
	client.Resources = append(client.Resources, clusterPolicies())
	if got, err := audit.Read(t.Context(), client, serving(printed("seven"))); err == nil {
		t.Errorf("got %v, want an error", got)
	}
}
