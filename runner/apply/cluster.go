package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

// The kind as API servers know it.
const (
	clusterPolicyKind     = "ClusterNetworkPolicy"
	clusterPolicyResource = "clusternetworkpolicies"
)

func clusterPolicyVersion() schema.GroupVersion { return schema.GroupVersion(npav1alpha2.GroupVersion) }

func clusterPolicies() schema.GroupVersionResource {
	return clusterPolicyVersion().WithResource(clusterPolicyResource)
}

// ClusterApplier changes ClusterNetworkPolicies of one run, as [Applier] changes NetworkPolicies. Not for concurrent use.
type ClusterApplier struct {
	client    dynamic.Interface
	discovery discovery.ServerResourcesInterface
	run       string
}

// NewCluster returns the applier of the run.
func NewCluster(client dynamic.Interface, d discovery.ServerResourcesInterface, run string) *ClusterApplier {
	return &ClusterApplier{client: client, discovery: d, run: run}
}

// Missing says in words what the API server does not serve of what Apply needs; it is empty when there is nothing.
func (a *ClusterApplier) Missing(context.Context) (string, error) {
	return missing(a.discovery)
}

func missing(d discovery.ServerResourcesInterface) (string, error) {
	version := clusterPolicyVersion().String()
	words := fmt.Sprintf("the API server does not serve kind %s of %s", clusterPolicyKind, version)
	list, err := d.ServerResourcesForGroupVersion(version)
	switch {
	case apierrors.IsNotFound(err):
		return words, nil
	case err != nil:
		return "", fmt.Errorf("asking the API server for %s: %w", version, err)
	}
	for _, r := range list.APIResources {
		if r.Name == clusterPolicyResource {
			return "", nil
		}
	}
	return words, nil
}

// Apply creates p, or replaces the policy of that name and run. The error matches [ErrForeign] when the name is taken.
func (a *ClusterApplier) Apply(ctx context.Context, p npav1alpha2.ClusterNetworkPolicy) error {
	labels := map[string]string{}
	maps.Copy(labels, p.Labels)
	maps.Copy(labels, kube.Labels(a.run, "policy")) // last: clean-up finds a cluster's object by nothing else
	spec, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&p.Spec)
	if err != nil {
		return fmt.Errorf("applying policy %s: %w", p.Name, err)
	}
	want := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	want.SetGroupVersionKind(clusterPolicyVersion().WithKind(clusterPolicyKind))
	want.SetName(p.Name)
	want.SetLabels(labels)
	want.SetAnnotations(p.Annotations)
	api := a.client.Resource(clusterPolicies())
	_, err = api.Create(ctx, want, metav1.CreateOptions{FieldManager: kube.Manager})
	if err == nil {
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("applying policy %s: %w", p.Name, err)
	}
	have, err := api.Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("applying policy %s: %w", p.Name, err)
	}
	if have.GetLabels()[kube.RunLabel] != a.run {
		return fmt.Errorf("applying policy %s: %w", p.Name, ErrForeign)
	}
	want.SetResourceVersion(have.GetResourceVersion()) // a change in between is a conflict, never overwritten
	if _, err := api.Update(ctx, want, metav1.UpdateOptions{FieldManager: kube.Manager}); err != nil {
		return fmt.Errorf("replacing policy %s: %w", p.Name, err)
	}
	return nil
}

// Delete removes the run's policy of that name. One that is gone already is no error; a foreign one is [ErrForeign].
func (a *ClusterApplier) Delete(ctx context.Context, name string) error {
	have, err := a.client.Resource(clusterPolicies()).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting policy %s: %w", name, err)
	}
	if have.GetLabels()[kube.RunLabel] != a.run {
		return fmt.Errorf("deleting policy %s: %w", name, ErrForeign)
	}
	return deleteCluster(ctx, a.client, have)
}

func deleteCluster(ctx context.Context, client dynamic.Interface, p *unstructured.Unstructured) error {
	uid := p.GetUID()
	err := client.Resource(clusterPolicies()).Delete(ctx, p.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting policy %s: %w", p.GetName(), err)
	}
	return nil
}

// Stored returns the run's policies as the API server holds them, by name.
func (a *ClusterApplier) Stored(ctx context.Context) ([]unstructured.Unstructured, error) {
	list, err := a.client.Resource(clusterPolicies()).List(ctx, kube.ListRun(a.run))
	if err != nil {
		return nil, fmt.Errorf("listing the run's policies of kind %s: %w", clusterPolicyKind, err)
	}
	slices.SortFunc(list.Items, func(a, b unstructured.Unstructured) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return list.Items, nil
}

// Clear deletes every ClusterNetworkPolicy of the run.
func (a *ClusterApplier) Clear(ctx context.Context) error {
	_, err := clearCluster(ctx, a.client, a.run)
	return err
}

// CleanCluster removes the ClusterNetworkPolicies of the run, or of every run when run is empty, and returns their names. For runs whose process
// ended before it could clean up: no namespace takes a cluster's object with it. A cluster that does not serve the kind has none.
func CleanCluster(ctx context.Context, client dynamic.Interface, d discovery.ServerResourcesInterface, run string) ([]string, error) {
	if words, err := missing(d); err != nil || words != "" {
		return nil, err
	}
	return clearCluster(ctx, client, run)
}

// clearCluster goes on behind a policy that cannot be deleted: whatever else is there must not stay because of it.
func clearCluster(ctx context.Context, client dynamic.Interface, run string) ([]string, error) {
	list, err := client.Resource(clusterPolicies()).List(ctx, kube.ListRun(run))
	if err != nil {
		return nil, fmt.Errorf("listing the runs' policies of kind %s: %w", clusterPolicyKind, err)
	}
	var names []string
	var faults []error
	for i := range list.Items {
		if err := deleteCluster(ctx, client, &list.Items[i]); err != nil {
			faults = append(faults, err)
			continue
		}
		names = append(names, list.Items[i].GetName())
	}
	return names, errors.Join(faults...)
}
