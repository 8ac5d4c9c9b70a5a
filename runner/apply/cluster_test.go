package apply_test

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

var clusterPolicies = schema.GroupVersionResource{Group: "policy.networking.k8s.io", Version: "v1alpha2", Resource: "clusternetworkpolicies"}

// serving is an API server's discovery; none of the named resources means that it does not have the group either.
func serving(t testing.TB, resources ...string) discovery.ServerResourcesInterface {
	t.Helper()
	c := fake.NewClientset()
	if len(resources) > 0 {
		list := &metav1.APIResourceList{GroupVersion: clusterPolicies.GroupVersion().String()}
		for _, r := range resources {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: r})
		}
		c.Resources = append(c.Resources, list)
	}
	return c.Discovery()
}

func dynamicClient(objects ...runtime.Object) *dynamicfake.FakeDynamicClient {
	return dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
		map[schema.GroupVersionResource]string{clusterPolicies: "ClusterNetworkPolicyList"}, objects...)
}

func clusterPolicy(name string, priority int32) npav1alpha2.ClusterNetworkPolicy {
	p := npav1alpha2.ClusterNetworkPolicy{}
	p.Name, p.Labels = name, map[string]string{"own": "label", kube.RunLabel: "another"}
	p.Spec.Tier, p.Spec.Priority = npav1alpha2.AdminTier, priority
	p.Spec.Subject.Namespaces = &metav1.LabelSelector{}
	return p
}

func stored(t testing.TB, c *dynamicfake.FakeDynamicClient) []unstructured.Unstructured {
	t.Helper()
	list, err := c.Resource(clusterPolicies).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestWhatTheAPIServerDoesNotServeIsSaidInWords(t *testing.T) {
	for _, c := range []struct {
		name      string
		resources []string
		want      string
	}{
		{"neither group nor kind", nil, "the API server does not serve kind ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2"},
		{"the version without the kind", []string{"others"}, "the API server does not serve kind ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2"},
		{"the kind", []string{"clusternetworkpolicies"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := apply.NewCluster(dynamicClient(), serving(t, c.resources...), "r1").Missing(t.Context())
			if err != nil || got != c.want {
				t.Errorf("want %q, got %q, %v", c.want, got, err)
			}
		})
	}
}

func TestAClusterNetworkPolicyIsReplacedInPlaceAndKeepsTheRunsLabel(t *testing.T) {
	c := dynamicClient()
	a := apply.NewCluster(c, serving(t, clusterPolicies.Resource), "r1")
	for _, priority := range []int32{1, 2} {
		if err := a.Apply(t.Context(), clusterPolicy("p", priority)); err != nil {
			t.Fatal(err)
		}
	}
	all := stored(t, c)
	if len(all) != 1 {
		t.Fatalf("%d policies are stored, want one", len(all))
	}
	priority, _, _ := unstructured.NestedInt64(all[0].Object, "spec", "priority")
	_, hasStatus := all[0].Object["status"]
	if labels := all[0].GetLabels(); priority != 2 || labels[kube.RunLabel] != "r1" || labels["own"] != "label" || hasStatus {
		t.Errorf("stored %v, want priority 2, the run's label over the policy's own, and no status", all[0].Object)
	}
}

func TestAForeignClusterNetworkPolicyIsNeitherReplacedNorDeleted(t *testing.T) {
	c := dynamicClient()
	if err := apply.NewCluster(c, serving(t, clusterPolicies.Resource), "another").Apply(t.Context(), clusterPolicy("p", 1)); err != nil {
		t.Fatal(err)
	}
	a := apply.NewCluster(c, serving(t, clusterPolicies.Resource), "r1")
	if err := a.Apply(t.Context(), clusterPolicy("p", 2)); !errors.Is(err, apply.ErrForeign) {
		t.Errorf("applying over it: error %v, want ErrForeign", err)
	}
	if err := a.Delete(t.Context(), "p"); !errors.Is(err, apply.ErrForeign) {
		t.Errorf("deleting it: error %v, want ErrForeign", err)
	}
	if err := a.Clear(t.Context()); err != nil {
		t.Errorf("clearing beside it: %v", err)
	}
	if left := stored(t, c); len(left) != 1 {
		t.Errorf("%d policies are left, want the foreign one", len(left))
	}
}

func TestCleaningRemovesTheClusterNetworkPoliciesOfKilledRunsAndNoOthers(t *testing.T) {
	foreign := &unstructured.Unstructured{}
	foreign.SetGroupVersionKind(clusterPolicies.GroupVersion().WithKind("ClusterNetworkPolicy"))
	foreign.SetName("production")
	for _, c := range []struct {
		run  string
		want string
	}{{"r1", "r1-p"}, {"", "r1-p r2-p"}} {
		client := dynamicClient(foreign)
		for _, run := range []string{"r1", "r2"} {
			if err := apply.NewCluster(client, nil, run).Apply(t.Context(), clusterPolicy(run+"-p", 1)); err != nil {
				t.Fatal(err)
			}
		}
		removed, err := apply.CleanCluster(t.Context(), client, serving(t, clusterPolicies.Resource), c.run)
		if got := strings.Join(removed, " "); err != nil || got != c.want {
			t.Errorf("run %q: removed %q, %v; want %q", c.run, got, err, c.want)
		}
		if left := stored(t, client); len(left) != 3-len(removed) || left[0].GetName() != "production" {
			t.Errorf("run %q: left %v, want the cluster's own policy among them", c.run, left)
		}
	}
	removed, err := apply.CleanCluster(t.Context(), dynamicClient(foreign), serving(t), "")
	if err != nil || len(removed) != 0 {
		t.Errorf("without the kind: removed %v, %v; want nothing", removed, err)
	}
}
