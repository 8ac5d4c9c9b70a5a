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

func TestClusterNetworkPoliciesAreReadWhereTheClusterServesThem(t *testing.T) {
	client := fake.NewClientset()
	objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), listKinds(), printed(int64(7)))
	got, err := audit.ReadCluster(t.Context(), objects, client.Discovery())
	if err != nil || len(got) != 0 {
		t.Errorf("without the kind: %v, %v; want none", got, err)
	}
	client.Resources = append(client.Resources, clusterPolicies())
	got, err = audit.ReadCluster(t.Context(), objects, client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Spec.Name != "fence" || got[0].Spec.Spec.Priority != 7 || len(got[0].Spec.Status.Conditions) > 0 || !audit.NeedNodes(got) {
		t.Errorf("policies %+v, want fence with its nodes peer and without its status", got)
	}
}

func TestAClusterNetworkPolicyThatCannotBeReadIsAnErrorAndNotPassedOver(t *testing.T) {
	client := fake.NewClientset()
	client.Resources = append(client.Resources, clusterPolicies())
	objects := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), listKinds(), printed("seven"))
	if got, err := audit.ReadCluster(t.Context(), objects, client.Discovery()); err == nil {
		t.Errorf("got %v, want an error", got)
	}
}

func TestNodesHaveTheirAddressesWithoutTheirNames(t *testing.T) {
	client := fake.NewClientset(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"role": "edge"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
		}},
	})
	got, err := audit.ReadNodes(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	want := []reach.Node{{Name: "n", Labels: map[string]string{"role": "edge"}, IPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}
