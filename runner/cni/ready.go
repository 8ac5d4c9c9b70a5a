package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gapproof/gapproof/runner/internal/kube"
)

const (
	// readyInterval is how often conditions are looked at: a handful of requests each time, for less than a minute.
	readyInterval = 500 * time.Millisecond
	// crashesTolerated is how often a container may be restarted before it counts as one that cannot start. Controllers may end once
	// or twice while the API server settles.
	crashesTolerated = 2
	// logLines and eventsKept are how much of each is put into a NotReadyError: what a person reads before opening the logs.
	logLines   = 15
	eventsKept = 10
	// diagnoseLimit bounds the reading of logs and events for an error, which the caller's context may no longer allow for.
	diagnoseLimit = 10 * time.Second
)

// NotReadyError tells what did not become ready, and what is known about why.
type NotReadyError struct {
	// Missing are the conditions that did not hold, such as "DaemonSet kube-system/calico-node: 1 of 2 pods available".
	Missing []string
	// Pods are those that have a reason not to run.
	Pods []PodFault
	// Events are the last warnings in the namespaces concerned, oldest first.
	Events []string
	// Err is why waiting ended: the context's error, the limit, or a fault that waiting does not mend.
	Err error
}

// PodFault is one container that does not run.
type PodFault struct {
	Namespace, Pod, Node, Container string
	// Reason and Message are the kubelet's, such as "ImagePullBackOff".
	Reason, Message string
	Restarts        int32
	// Log is the end of what the container printed, of its previous run if it was restarted.
	Log string
}

// String is the fault on one line, without the log.
func (f PodFault) String() string {
	s := fmt.Sprintf("pod %s/%s, container %s on %s: %s", f.Namespace, f.Pod, f.Container, f.Node, f.Reason)
	if f.Restarts > 0 {
		s += fmt.Sprintf(" after %d restarts", f.Restarts)
	}
	if f.Message != "" {
		s += ": " + f.Message
	}
	return s
}

// Error is one line: why waiting ended, what is missing, and the first pod's reason.
func (e *NotReadyError) Error() string {
	s := fmt.Sprintf("%v; missing: %s", e.Err, strings.Join(e.Missing, "; "))
	if len(e.Pods) > 0 {
		s += " (" + e.Pods[0].String() + ")"
	}
	return s
}

// Unwrap returns why waiting ended.
func (e *NotReadyError) Unwrap() error { return e.Err }

// Details is everything that is known, over several lines: pods with their logs, then events.
func (e *NotReadyError) Details() string {
	var b strings.Builder
	for _, f := range e.Pods {
		fmt.Fprintln(&b, f)
		for line := range strings.Lines(f.Log) {
			fmt.Fprintf(&b, "    | %s\n", strings.TrimRight(line, "\n"))
		}
	}
	for _, event := range e.Events {
		fmt.Fprintln(&b, event)
	}
	return b.String()
}

// Ready waits until every target of the profile is rolled out and every node is Ready. It gives up before the limit when a pod
// has a fault that waiting does not mend. The error is a [*NotReadyError].
func Ready(ctx context.Context, client kubernetes.Interface, p Profile, o Options) error {
	o.complete()
	w := waiter{client: client, targets: p.Ready}
	var missing []string
	took, err := kube.Poll(ctx, "CNI "+p.Name, readyInterval, o.Limit, func(ctx context.Context) (bool, string, error) {
		now, err := w.missing(ctx)
		if err != nil {
			return false, err.Error(), nil // an API server under load may refuse one request; the limit bounds this
		}
		if len(now) > 0 && !slices.Equal(now, missing) {
			o.Progress("waiting for " + strings.Join(now, "; "))
		}
		if missing = now; len(missing) == 0 {
			return true, "", nil
		}
		faults, err := w.faults(ctx)
		if err != nil {
			return false, err.Error(), nil
		}
		if slices.ContainsFunc(faults, PodFault.hopeless) {
			return false, "", errHopeless
		}
		return false, fmt.Sprintf("%d conditions do not hold", len(missing)), nil // NotReadyError names them
	})
	if err == nil {
		o.Log.Debug("CNI ready", "cni", p.Name, "took", took)
		return nil
	}
	if len(missing) == 0 {
		missing = []string{"the API server to answer"}
	}
	diagnose, cancel := context.WithTimeout(context.WithoutCancel(ctx), diagnoseLimit)
	defer cancel()
	return w.explain(diagnose, &NotReadyError{Missing: missing, Err: err})
}

// errHopeless is why the polling ends early.
var errHopeless = errors.New("a pod has a fault that waiting does not mend")

// waiter looks at the conditions of one profile in one cluster.
type waiter struct {
	client  kubernetes.Interface
	targets []Target
}

// missing says which conditions do not hold.
func (w waiter) missing(ctx context.Context) ([]string, error) {
	var out []string
	for _, t := range w.targets {
		why, err := w.rollout(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", t, err)
		}
		if why != "" {
			out = append(out, t.String()+": "+why)
		}
	}
	nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	for _, n := range nodes.Items {
		if !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			out = append(out, "Node "+n.Name+": not Ready")
		}
	}
	return out, nil
}

// rollout says what a target lacks; empty when it is rolled out.
func (w waiter) rollout(ctx context.Context, t Target) (string, error) {
	var want, updated, available int32
	var observed, generation int64
	switch t.Kind {
	case kindDaemonSet:
		d, err := w.client.AppsV1().DaemonSets(t.Namespace).Get(ctx, t.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "does not exist", nil
		}
		if err != nil {
			return "", err
		}
		want, updated, available = d.Status.DesiredNumberScheduled, d.Status.UpdatedNumberScheduled, d.Status.NumberAvailable
		observed, generation = d.Status.ObservedGeneration, d.Generation
		if want == 0 {
			return "no pod is scheduled", nil
		}
	case kindDeployment:
		d, err := w.client.AppsV1().Deployments(t.Namespace).Get(ctx, t.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "does not exist", nil
		}
		if err != nil {
			return "", err
		}
		want = replicas(d)
		updated, available = d.Status.UpdatedReplicas, d.Status.AvailableReplicas
		observed, generation = d.Status.ObservedGeneration, d.Generation
	default:
		return "", fmt.Errorf("waiting for kind %q: only DaemonSet and Deployment can be", t.Kind) // decodeProfile refuses it
	}
	switch {
	case observed < generation:
		return "its controller has not seen it", nil
	case updated < want:
		return fmt.Sprintf("%d of %d pods updated", updated, want), nil
	case available < want:
		return fmt.Sprintf("%d of %d pods available", available, want), nil
	}
	return "", nil
}

// replicas applies the API server's default.
func replicas(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// namespaces are those of the targets, sorted.
func (w waiter) namespaces() []string {
	var out []string
	for _, t := range w.targets {
		out = append(out, t.Namespace)
	}
	sort.Strings(out)
	return slices.Compact(out)
}

// faults lists the containers of the targets' namespaces that wait or ended with a reason.
func (w waiter) faults(ctx context.Context) ([]PodFault, error) {
	var out []PodFault
	for _, ns := range w.namespaces() {
		pods, err := w.client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, fmt.Errorf("listing pods in %s: %w", ns, err)
		}
		for _, pod := range pods.Items {
			for _, s := range append(slices.Clone(pod.Status.InitContainerStatuses), pod.Status.ContainerStatuses...) {
				if s.State.Waiting == nil || s.State.Waiting.Reason == "" || s.State.Waiting.Reason == "PodInitializing" || s.State.Waiting.Reason == "ContainerCreating" {
					continue
				}
				out = append(out, PodFault{
					Namespace: ns, Pod: pod.Name, Node: pod.Spec.NodeName, Container: s.Name, Restarts: s.RestartCount,
					Reason: s.State.Waiting.Reason, Message: s.State.Waiting.Message,
				})
			}
		}
	}
	return out, nil
}

// hopeless tells whether waiting does not mend the fault. The reasons are the kubelet's (k8s.io/kubernetes/pkg/kubelet/images/types.go
// and pkg/kubelet/kuberuntime). A pull is hopeless at its first back-off: the mirror is beside the node and its answer stands.
func (f PodFault) hopeless() bool {
	switch f.Reason {
	case "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError":
		return true
	case "CrashLoopBackOff":
		return f.Restarts > crashesTolerated
	}
	return false
}

// explain adds what the cluster can tell. What it cannot is left out: the error at hand matters more than the one of asking.
func (w waiter) explain(ctx context.Context, e *NotReadyError) *NotReadyError {
	e.Pods, _ = w.faults(ctx)
	slices.SortStableFunc(e.Pods, func(a, b PodFault) int { // the one that ended the wait is told first
		switch {
		case a.hopeless() && !b.hopeless():
			return -1
		case b.hopeless() && !a.hopeless():
			return 1
		}
		return 0
	})
	lines := int64(logLines)
	for i, f := range e.Pods {
		o := &corev1.PodLogOptions{Container: f.Container, TailLines: &lines, Previous: f.Restarts > 0}
		if raw, err := w.client.CoreV1().Pods(f.Namespace).GetLogs(f.Pod, o).DoRaw(ctx); err == nil {
			e.Pods[i].Log = string(raw)
		}
	}
	for _, ns := range w.namespaces() {
		list, err := w.client.CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning})
		if err != nil {
			continue
		}
		slices.SortFunc(list.Items, func(a, b corev1.Event) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		if n := len(list.Items); n > eventsKept {
			list.Items = list.Items[n-eventsKept:]
		}
		for _, v := range list.Items {
			e.Events = append(e.Events, fmt.Sprintf("event %s %s/%s: %s: %s", v.InvolvedObject.Kind, ns, v.InvolvedObject.Name, v.Reason, v.Message))
		}
	}
	return e
}
