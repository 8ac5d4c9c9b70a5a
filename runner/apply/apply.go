// Package apply puts policies into a cluster and takes them out again.
//
// An [Applier] belongs to one run. It creates or replaces the NetworkPolicies it is given, deletes them by name, and can clear every
// policy of its run; each carries the run's label. A [ClusterApplier] does the same with ClusterNetworkPolicies, where the cluster serves
// them; it goes through the dynamic client, so that the one kind of that API does not bring a clientset. [CleanCluster] removes what killed runs
// left of them. [Applier.Stored] and [ClusterApplier.Stored] return policies as the API server holds them, for evidence.
//
// The trap: accepted by the API server is not enforced. Whether the nodes follow is for the suite's beacons to show.
package apply

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

// ErrForeign reports a policy of that name that the run did not create; it is left alone.
var ErrForeign = errors.New("policy was not created by this run")

// Applier changes policies of one run. Not for concurrent use: the order of changes is part of a step.
type Applier struct {
	client kubernetes.Interface
	run    string
}

// New returns the applier of the run.
func New(client kubernetes.Interface, run string) *Applier { return &Applier{client: client, run: run} }

// Apply creates p, or replaces the policy of that name and run. The error matches [ErrForeign] when the name is taken.
func (a *Applier) Apply(ctx context.Context, p networkingv1.NetworkPolicy) error {
	labels := maps.Clone(p.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, kube.Labels(a.run, "policy")) // last: no policy may take itself out of clean-up's sight
	want := &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: p.Namespace, Labels: labels, Annotations: p.Annotations},
		Spec:       p.Spec,
	}
	api := a.client.NetworkingV1().NetworkPolicies(p.Namespace)
	_, err := api.Create(ctx, want, metav1.CreateOptions{FieldManager: kube.Manager})
	if err == nil {
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("applying policy %s/%s: %w", p.Namespace, p.Name, err)
	}
	have, err := api.Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("applying policy %s/%s: %w", p.Namespace, p.Name, err)
	}
	if have.Labels[kube.RunLabel] != a.run {
		return fmt.Errorf("applying policy %s/%s: %w", p.Namespace, p.Name, ErrForeign)
	}
	want.ResourceVersion = have.ResourceVersion // a change in between is a conflict, never overwritten
	if _, err := api.Update(ctx, want, metav1.UpdateOptions{FieldManager: kube.Manager}); err != nil {
		return fmt.Errorf("replacing policy %s/%s: %w", p.Namespace, p.Name, err)
	}
	return nil
}

// Delete removes the run's policy "namespace/name". One that is gone already is no error; a foreign one is [ErrForeign].
func (a *Applier) Delete(ctx context.Context, name string) error {
	namespace, short, _ := strings.Cut(name, "/")
	api := a.client.NetworkingV1().NetworkPolicies(namespace)
	have, err := api.Get(ctx, short, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting policy %s: %w", name, err)
	}
	if have.Labels[kube.RunLabel] != a.run {
		return fmt.Errorf("deleting policy %s: %w", name, ErrForeign)
	}
	err = api.Delete(ctx, short, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting policy %s: %w", name, err)
	}
	return nil
}

// Stored returns the run's policies in these namespaces as the API server holds them, by namespace and name.
func (a *Applier) Stored(ctx context.Context, namespaces []string) ([]networkingv1.NetworkPolicy, error) {
	var all []networkingv1.NetworkPolicy
	for _, namespace := range namespaces {
		list, err := a.client.NetworkingV1().NetworkPolicies(namespace).List(ctx, kube.ListRun(a.run))
		if err != nil {
			return nil, fmt.Errorf("listing policies in %s: %w", namespace, err)
		}
		all = append(all, list.Items...)
	}
	sort.Slice(all, func(i, j int) bool {
		return all[i].Namespace+"/"+all[i].Name < all[j].Namespace+"/"+all[j].Name
	})
	return all, nil
}

// Clear deletes every policy of the run in these namespaces.
func (a *Applier) Clear(ctx context.Context, namespaces []string) error {
	stored, err := a.Stored(ctx, namespaces)
	if err != nil {
		return err
	}
	for _, p := range stored {
		if err := a.Delete(ctx, p.Namespace+"/"+p.Name); err != nil {
			return err
		}
	}
	return nil
}
