package cni

import (
	"context"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// ErrNotDetected reports a cluster whose CNI is none that [Detect] knows.
var ErrNotDetected = errors.New("CNI not detected")

// agent is how a CNI shows itself: the DaemonSet of its node agent, in whatever namespace, and the container whose image has the
// CNI's version as its tag.
type agent struct {
	daemonSet, container, name string
}

func agents() []agent {
	return []agent{
		{"calico-node", "calico-node", "Calico"},
		{"canal", "calico-node", "Canal"},
		{"cilium", "cilium-agent", "Cilium"},
		{"anetd", "cilium-agent", "GKE Dataplane V2 (Cilium)"},
		{"antrea-agent", "antrea-agent", "Antrea"},
		{"kube-flannel-ds", "kube-flannel", "Flannel"},
		{"kube-flannel", "kube-flannel", "Flannel"},
		{"kindnet", "kindnet-cni", "kindnet"},
		{"kube-network-policies", "kube-network-policies", "kube-network-policies"},
		{"kube-router", "kube-router", "kube-router"},
		{"weave-net", "weave", "Weave Net"},
		{"ovnkube-node", "ovnkube-node", "OVN-Kubernetes"},
		{"kube-ovn-cni", "cni-server", "Kube-OVN"},
		{"aws-node", "aws-node", "Amazon VPC CNI"},
		{"azure-cns", "cns-container", "Azure CNI"},
		{"gapproof-none", "none", "none (enforces nothing)"},
	}
}

// Detect tells which CNI the cluster has, by the DaemonSets of its node agents in any namespace, and its version, by the tag of the
// agent's image. Where several are there, as with a policy engine beside a cloud's own CNI, both names and both versions are
// joined by " + ". A version that the image does not tell is "unknown". The error matches [ErrNotDetected] when none is known.
func Detect(ctx context.Context, client kubernetes.Interface) (name, version string, err error) {
	list, err := client.AppsV1().DaemonSets(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", "", fmt.Errorf("detecting the CNI: listing DaemonSets: %w", err)
	}
	byName := map[string]*appsv1.DaemonSet{}
	for i := range list.Items {
		byName[list.Items[i].Name] = &list.Items[i]
	}
	var names, versions []string
	for _, a := range agents() {
		if d := byName[a.daemonSet]; d != nil {
			names, versions = append(names, a.name), append(versions, a.version(d))
		}
	}
	if len(names) == 0 {
		return "", "", fmt.Errorf("detecting the CNI among %d DaemonSets: %w", len(list.Items), ErrNotDetected)
	}
	return strings.Join(names, " + "), strings.Join(versions, " + "), nil
}

// version is the tag of the agent's image, or "unknown".
func (a agent) version(d *appsv1.DaemonSet) string {
	for _, c := range d.Spec.Template.Spec.Containers {
		if c.Name != a.container && len(d.Spec.Template.Spec.Containers) > 1 {
			continue
		}
		image, _, _ := strings.Cut(c.Image, "@")
		if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
			return image[i+1:]
		}
	}
	return "unknown"
}
