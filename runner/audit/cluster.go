package audit

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

const clusterPolicyResource = "clusternetworkpolicies"

// readCluster adds the ClusterNetworkPolicies, of which a cluster that does not serve them has none, and what they speak of. A policy that cannot be
// read is an error, because a verdict without it would be wrong.
func readCluster(ctx context.Context, client kubernetes.Interface, objects dynamic.Interface, set *manifest.Set) error {
	version := schema.GroupVersion(npav1alpha2.GroupVersion)
	served, err := client.Discovery().ServerResourcesForGroupVersion(version.String())
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("asking the API server for %s: %w", version, err)
	}
	if !slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool { return r.Name == clusterPolicyResource }) {
		return nil
	}
	var fault error
	err = list(ctx, clusterPolicyResource, objects.Resource(version.WithResource(clusterPolicyResource)).List, func(u *unstructured.Unstructured) {
		var p npav1alpha2.ClusterNetworkPolicy
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &p); err != nil {
			fault = fmt.Errorf("reading ClusterNetworkPolicy %s: %w", u.GetName(), err)
			return
		}
		p.Status = npav1alpha2.ClusterNetworkPolicyStatus{}
		set.Cluster = append(set.Cluster, manifest.ClusterPolicy{ClusterPolicy: reach.ClusterPolicy{Spec: p}})
	})
	if err := cmp.Or(err, fault); err != nil {
		return err
	}
	if needNodes(set.Cluster) {
		set.World.Nodes, err = readNodes(ctx, client)
	}
	return err
}

// readNodes lists the nodes, which a nodes peer of a ClusterNetworkPolicy speaks about.
func readNodes(ctx context.Context, client kubernetes.Interface) ([]reach.Node, error) {
	var nodes []reach.Node
	err := list(ctx, "nodes", client.CoreV1().Nodes().List, func(n *corev1.Node) {
		node := reach.Node{Name: n.Name, Labels: n.Labels}
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil { // else it is a name
				node.IPs = append(node.IPs, ip)
			}
		}
		nodes = append(nodes, node)
	})
	return nodes, err
}

// needNodes tells whether a verdict under these policies depends on the nodes.
func needNodes(policies []manifest.ClusterPolicy) bool {
	return slices.ContainsFunc(policies, func(p manifest.ClusterPolicy) bool {
		return slices.ContainsFunc(p.Spec.Spec.Egress, func(r npav1alpha2.ClusterNetworkPolicyEgressRule) bool {
			return slices.ContainsFunc(r.To, func(peer npav1alpha2.ClusterNetworkPolicyEgressPeer) bool { return peer.Nodes != nil })
		})
	})
}
