package cni

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

func object(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "kube-system", Name: name, Generation: 2}
}

func daemonSet(change func(*appsv1.DaemonSetStatus)) *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{ObjectMeta: object("agent"), Status: appsv1.DaemonSetStatus{
		ObservedGeneration: 2, DesiredNumberScheduled: 2, UpdatedNumberScheduled: 2, NumberAvailable: 2,
	}}
	if change != nil {
		change(&d.Status)
	}
	return d
}

func node(ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

func pod(reason string, restarts int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: object("agent-x"), Spec: corev1.PodSpec{NodeName: "n1"}, Status: corev1.PodStatus{
		InitContainerStatuses: []corev1.ContainerStatus{{Name: "install", RestartCount: restarts,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "not found"}}}},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "agent",
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}}},
	}}
}

func TestMissingNamesEachConditionThatDoesNotHold(t *testing.T) {
	coredns := Target{APIVersion: "apps/v1", Kind: kindDeployment, Namespace: "kube-system", Name: "coredns"}
	w := func(objects ...runtime.Object) waiter {
		return waiter{client: fake.NewClientset(objects...), targets: append(small().Ready, coredns)}
	}
	deployment := &appsv1.Deployment{ObjectMeta: object("coredns"), Status: appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: 1, AvailableReplicas: 1}}
	for name, tc := range map[string]struct {
		objects []runtime.Object
		want    []string
	}{
		"all hold":          {[]runtime.Object{daemonSet(nil), deployment, node(corev1.ConditionTrue)}, nil},
		"nothing is there":  {nil, []string{"DaemonSet kube-system/agent: does not exist", "Deployment kube-system/coredns: does not exist"}},
		"a node is not yet": {[]runtime.Object{daemonSet(nil), deployment, node(corev1.ConditionUnknown)}, []string{"Node n1: not Ready"}},
		"no pod is scheduled": {[]runtime.Object{daemonSet(func(s *appsv1.DaemonSetStatus) { s.DesiredNumberScheduled = 0 }), deployment},
			[]string{"DaemonSet kube-system/agent: no pod is scheduled"}},
		"pods are the old ones": {[]runtime.Object{daemonSet(func(s *appsv1.DaemonSetStatus) { s.UpdatedNumberScheduled = 1 }), deployment},
			[]string{"DaemonSet kube-system/agent: 1 of 2 pods updated"}},
		"pods are not available": {[]runtime.Object{daemonSet(func(s *appsv1.DaemonSetStatus) { s.NumberAvailable = 1 }), deployment},
			[]string{"DaemonSet kube-system/agent: 1 of 2 pods available"}},
		"the status is of an older generation": {[]runtime.Object{daemonSet(func(s *appsv1.DaemonSetStatus) { s.ObservedGeneration = 1 }), deployment},
			[]string{"DaemonSet kube-system/agent: its controller has not seen it"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := w(tc.objects...).missing(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("missing (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadyGivesUpEarlyOnWhatWaitingDoesNotMend(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		restarts int32
		early    bool
	}{
		"an image that cannot be pulled":    {"ImagePullBackOff", 0, true},
		"a pull that failed once":           {"ErrImagePull", 0, false},
		"a malformed image name":            {"InvalidImageName", 0, true},
		"a container that keeps crashing":   {"CrashLoopBackOff", crashesTolerated + 1, true},
		"a container that crashed once":     {"CrashLoopBackOff", 1, false},
		"a config map that does not exist":  {"CreateContainerConfigError", 0, true},
		"a sandbox that waits for the CNI":  {"ContainerCreating", 0, false},
		"an init container not reached yet": {"PodInitializing", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // three of them wait for their whole limit
			warning := &corev1.Event{ObjectMeta: object("e"), Type: corev1.EventTypeWarning, Reason: "Failed", Message: "no such image",
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "agent-x"}}
			client := fake.NewClientset(daemonSet(func(s *appsv1.DaemonSetStatus) { s.NumberAvailable = 0 }), pod(tc.reason, tc.restarts), warning)
			start := time.Now()
			const limit = 2 * time.Second
			err := Ready(t.Context(), client, small(), Options{Limit: limit})
			var failed *NotReadyError
			if !errors.As(err, &failed) {
				t.Fatalf("Ready: %v, want a *NotReadyError", err)
			}
			if early := time.Since(start) < limit; early != tc.early {
				t.Errorf("gave up after %v of %v, want early to be %v: %v", time.Since(start), limit, tc.early, err)
			}
			if tc.early {
				if !strings.Contains(err.Error(), "pod kube-system/agent-x, container install on n1: "+tc.reason) {
					t.Errorf("the error does not name the container: %v", err)
				}
				if details := failed.Details(); !strings.Contains(details, "no such image") || !strings.Contains(details, "    | fake logs") {
					t.Errorf("the details lack the event or the log:\n%s", details)
				}
			}
		})
	}
}

func TestReadyTellsWhatItWaitsForAndEndsWithItsContext(t *testing.T) {
	client := fake.NewClientset(node(corev1.ConditionFalse), daemonSet(nil))
	ctx, cancel := context.WithCancel(t.Context())
	var told []string
	err := Ready(ctx, client, small(), Options{Progress: func(s string) { told = append(told, s); cancel() }})
	var failed *NotReadyError
	if !errors.Is(err, context.Canceled) || !errors.As(err, &failed) {
		t.Errorf("Ready: %v, want a *NotReadyError that matches context.Canceled", err)
	}
	if diff := cmp.Diff([]string{"waiting for Node n1: not Ready"}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if err := Ready(t.Context(), fake.NewClientset(daemonSet(nil)), small(), Options{}); err != nil {
		t.Errorf("Ready with everything in place: %v", err)
	}
}

func TestAPIServerEndpoint(t *testing.T) {
	port := int32(6443)
	slice := func(addresses ...string) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			Endpoints:  []discoveryv1.Endpoint{{Addresses: addresses}}, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		}
	}
	got, err := apiServerEndpoint(t.Context(), fake.NewClientset(slice("172.30.0.128")))
	if err != nil || got.String() != "172.30.0.128:6443" {
		t.Errorf("got %v, %v; want 172.30.0.128:6443", got, err)
	}
	for name, client := range map[string]*fake.Clientset{"none": fake.NewClientset(), "no address": fake.NewClientset(slice()), "a name": fake.NewClientset(slice("api"))} {
		if _, err := apiServerEndpoint(t.Context(), client); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDetect(t *testing.T) {
	ds := func(ns, name string, containers ...corev1.Container) *appsv1.DaemonSet {
		return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: appsv1.DaemonSetSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: containers}},
		}}
	}
	proxy := ds("kube-system", "kube-proxy", corev1.Container{Image: "registry.k8s.io/kube-proxy:v1.37.2"})
	for name, tc := range map[string]struct {
		objects       []runtime.Object
		name, version string
	}{
		"ours, pinned by digest": {[]runtime.Object{proxy, ds("kube-system", "calico-node", corev1.Container{Name: "calico-node", Image: "docker.io/calico/node:v3.28.5@sha256:00"})}, "Calico", "v3.28.5"},
		"the operator's": {[]runtime.Object{ds("calico-system", "calico-node", corev1.Container{Name: "calico-node", Image: "quay.io/calico/node:v3.30.0"})},
			"Calico", "v3.30.0"},
		"beside a helper container": {[]runtime.Object{ds("kube-system", "cilium", corev1.Container{Name: "monitor", Image: "x:1"}, corev1.Container{Name: "cilium-agent", Image: "localhost:5000/cilium/cilium:v1.20.2"})},
			"Cilium", "v1.20.2"},
		"an image without a tag": {[]runtime.Object{ds("kube-system", "kindnet", corev1.Container{Name: "kindnet-cni", Image: "localhost:5000/kindnetd"})}, "kindnet", "unknown"},
		"a policy engine beside a cloud's own": {[]runtime.Object{ds("kube-system", "aws-node", corev1.Container{Name: "aws-node", Image: "a:v1"}), ds("calico-system", "calico-node", corev1.Container{Name: "calico-node", Image: "c:v2"})},
			"Calico + Amazon VPC CNI", "v2 + v1"},
	} {
		t.Run(name, func(t *testing.T) {
			gotName, gotVersion, err := Detect(t.Context(), fake.NewClientset(tc.objects...))
			if err != nil || gotName != tc.name || gotVersion != tc.version {
				t.Errorf("got %q, %q, %v; want %q, %q", gotName, gotVersion, err, tc.name, tc.version)
			}
		})
	}
	if _, _, err := Detect(t.Context(), fake.NewClientset(proxy)); !errors.Is(err, ErrNotDetected) {
		t.Errorf("none: %v, want ErrNotDetected", err)
	}
}
