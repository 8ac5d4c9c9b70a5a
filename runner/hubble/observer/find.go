package observer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Role is the least privilege of reading flows, beside what a run needs anyway, ready for kubectl apply. A run without it goes on, and Hubble
// is silent.
const Role = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: gapproof-hubble}
rules:
- {apiGroups: [""], resources: [pods], verbs: [list]}
- {apiGroups: [""], resources: [pods/portforward], verbs: [get, create]} # get over WebSocket, create over SPDY
`

// kind is one kind of pod that serves flows.
type kind struct {
	// label selects its pods, port is where they listen.
	// https://github.com/cilium/cilium/tree/v1.20.2/install/kubernetes/cilium/templates
	label string
	port  uint16
}

// The kinds. A relay asks every agent, so one of it is enough.
var (
	relay = kind{"k8s-app=hubble-relay", 4245}
	agent = kind{"k8s-app=cilium", 4244}
)

// server is one pod that serves flows.
type server struct {
	kind
	namespace, name, node string
}

func (s server) String() string { return s.namespace + "/" + s.name }

// find lists the running pods of a kind, in any namespace, by their nodes' names.
func find(ctx context.Context, client kubernetes.Interface, k kind) ([]server, error) {
	list, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{LabelSelector: k.label})
	if err != nil {
		return nil, fmt.Errorf("listing pods labelled %s: %w", k.label, err)
	}
	var found []server
	for _, p := range list.Items {
		if p.Status.Phase == corev1.PodRunning {
			found = append(found, server{k, p.Namespace, p.Name, p.Spec.NodeName})
		}
	}
	slices.SortFunc(found, func(a, b server) int { return strings.Compare(a.node+" "+a.String(), b.node+" "+b.String()) })
	return found, nil
}
