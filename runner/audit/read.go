package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// ErrForbidden is in the error of a reading that the user's rights do not cover; [Role] has what is needed.
var ErrForbidden = errors.New("the cluster does not let this user read it")

// ErrNoService is in the error of ReadService for one that is not there.
var ErrNoService = errors.New("the cluster has no such Service")

// Role is the least privilege of Read and ReadService, ready for kubectl apply.
const Role = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: gapproof-explain}
rules:
- {apiGroups: [""], resources: [namespaces, pods], verbs: [list]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [list]}
- {apiGroups: [policy.networking.k8s.io], resources: [clusternetworkpolicies], verbs: [list]} # only where the cluster serves them
- {apiGroups: [""], resources: [nodes], verbs: [list]} # only where one of those has a nodes peer
- {apiGroups: [""], resources: [services], verbs: [get]} # only for service: destinations
`

// pageSize bounds one answer of the API server. kubectl's own: large enough for few round trips, small enough for the server's memory.
const pageSize = 500

// Read lists the cluster's pods, NetworkPolicies and namespaces, in pages; the ClusterNetworkPolicies where it serves them, and its nodes where
// one of those speaks of nodes. Errors match ErrForbidden where rights are missing.
func Read(ctx context.Context, client kubernetes.Interface, objects dynamic.Interface) (*manifest.Set, error) {
	set := &manifest.Set{Pods: manifest.SomePods, Addresses: manifest.Real, Unready: map[string]struct{}{}}
	var pods []reach.Pod
	err := list(ctx, "pods", client.CoreV1().Pods(metav1.NamespaceAll).List, func(p *corev1.Pod) {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			return
		}
		pods = append(pods, manifest.PodOf(p.Namespace, p.Name, p.Labels, p.Spec, p.Status))
		if !ready(p) {
			set.Unready[p.Namespace+"/"+p.Name] = struct{}{}
		}
	})
	if err != nil {
		return nil, err
	}
	err = list(ctx, "networkpolicies", client.NetworkingV1().NetworkPolicies(metav1.NamespaceAll).List, func(p *networkingv1.NetworkPolicy) {
		set.Policies = append(set.Policies, manifest.Policy{Policy: reach.Policy{Spec: *p.DeepCopy()}})
	})
	if err != nil {
		return nil, err
	}
	if err := readCluster(ctx, client, objects, set); err != nil {
		return nil, err
	}
	// Namespaces come last, so that one made meanwhile is there for its pods.
	known := map[string]struct{}{}
	err = list(ctx, "namespaces", client.CoreV1().Namespaces().List, func(n *corev1.Namespace) {
		known[n.Name] = struct{}{}
		set.World.Namespaces = append(set.World.Namespaces, reach.Namespace{Name: n.Name, Labels: n.Labels})
	})
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if _, ok := known[p.Namespace]; ok {
			set.World.Pods = append(set.World.Pods, p)
		}
	}
	return set, nil
}

// ready tells whether Services send the pod anything, as the endpoint slice controller has it.
func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// ReadService gets one Service. Errors match ErrNoService or ErrForbidden.
func ReadService(ctx context.Context, client kubernetes.Interface, namespace, name string) (manifest.Service, error) {
	s, err := client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return manifest.Service{}, fmt.Errorf("getting service %s/%s: %w", namespace, name, ErrNoService)
	case apierrors.IsForbidden(err):
		return manifest.Service{}, fmt.Errorf("getting service %s/%s: %w: %w", namespace, name, ErrForbidden, err)
	case err != nil:
		return manifest.Service{}, fmt.Errorf("getting service %s/%s: %w", namespace, name, err)
	}
	return manifest.ServiceOf(s), nil
}

// list calls each for every object of a resource. T is the type of one object, L that of a page.
func list[T any, L runtime.Object](ctx context.Context, resource string, page func(context.Context, metav1.ListOptions) (L, error), each func(*T)) error {
	p := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return page(ctx, o) })
	p.PageSize = pageSize
	err := p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		item, ok := any(o).(*T)
		if !ok {
			return fmt.Errorf("the list holds %T", o)
		}
		each(item)
		return nil
	})
	switch {
	case apierrors.IsForbidden(err):
		return fmt.Errorf("listing %s: %w: %w", resource, ErrForbidden, err)
	case err != nil:
		return fmt.Errorf("listing %s: %w", resource, err)
	}
	return nil
}
