package selftest

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

const (
	// healthInterval and healthLimit are for a cluster to be itself again: a container that was killed is started anew within
	// twenty seconds, and a node that was paused says that it is Ready within ten.
	healthInterval = 500 * time.Millisecond
	healthLimit    = 90 * time.Second
)

// healthy polls until every node is Ready and every pod that is no run's is too.
func (l Lab) healthy(ctx context.Context) error {
	_, err := kube.Poll(ctx, "the cluster to be healthy", healthInterval, healthLimit, func(ctx context.Context) (bool, string, error) {
		state, err := ailing(ctx, l.Cluster.Client)
		if err != nil {
			return false, err.Error(), nil // an API server that is restarted refuses a request or two
		}
		return state == "", state, nil
	})
	return err
}

// ailing says what of the cluster is not Ready; empty when nothing.
func ailing(ctx context.Context, c kubernetes.Interface) (string, error) {
	nodes, err := c.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("listing nodes: %w", err)
	}
	var all []string
	for _, n := range nodes.Items {
		ready := false
		for _, c := range n.Status.Conditions {
			ready = ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}
		if !ready {
			all = append(all, "node "+n.Name)
		}
	}
	pods, err := c.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: "!" + kube.RunLabel})
	if err != nil {
		return "", fmt.Errorf("listing pods: %w", err)
	}
	for _, p := range pods.Items {
		ready := p.Status.Phase == corev1.PodSucceeded
		for _, c := range p.Status.Conditions {
			ready = ready || c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}
		if !ready {
			all = append(all, "pod "+p.Namespace+"/"+p.Name)
		}
	}
	if len(all) == 0 {
		return "", nil
	}
	return strings.Join(all, ", ") + ": not Ready", nil
}

// stopped is an error when a process of a node was stopped and nobody has let it go on; then it goes on.
func (l Lab) stopped(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	left, err := l.Machines.ContinueAll(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("a fault was not ended: %s had been left stopped", strings.Join(left, ", "))
	}
	return nil
}
