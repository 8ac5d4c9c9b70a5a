package kube

import (
	"context"
	"fmt"
	"sort"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Node is what a run needs to know of a node.
type Node struct {
	Name string
	// Kernel is the release, such as "6.1.0-40-amd64".
	Kernel string
	// Schedulable tells whether ordinary pods run there: ready, not cordoned, no taint that keeps them away.
	Schedulable bool
}

// Nodes lists the cluster's nodes by name.
func Nodes(ctx context.Context, c kubernetes.Interface) ([]Node, error) {
	list, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	nodes := make([]Node, 0, len(list.Items))
	for _, n := range list.Items {
		nodes = append(nodes, Node{
			Name:        n.Name,
			Kernel:      n.Status.NodeInfo.KernelVersion,
			Schedulable: !n.Spec.Unschedulable && !tainted(n) && ready(n),
		})
	}
	sort.Slice(nodes, func(a, b int) bool { return nodes[a].Name < nodes[b].Name })
	return nodes, nil
}

func tainted(n corev1.Node) bool {
	for _, t := range n.Spec.Taints {
		if t.Effect != corev1.TaintEffectPreferNoSchedule {
			return true
		}
	}
	return false
}

func ready(n corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
