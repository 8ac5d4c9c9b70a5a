package audit_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/runner/audit"
	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

func pod(namespace, name, ip string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 80}}}}},
		Status:     corev1.PodStatus{Phase: phase, PodIP: ip},
	}
}

func TestReadKeepsWhatPoliciesSeeAndLeavesOutWhatEnded(t *testing.T) {
	client := fake.NewClientset(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"team": "x"}}},
		pod("x", "a", "10.0.0.1", corev1.PodRunning),
		pod("x", "done", "10.0.0.2", corev1.PodSucceeded),
		pod("x", "failed", "10.0.0.3", corev1.PodFailed),
		pod("gone", "b", "10.0.0.4", corev1.PodRunning),
		&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "deny"}},
	)
	set, err := audit.Read(t.Context(), client, serving())
	if err != nil {
		t.Fatal(err)
	}
	want := reach.World{
		Namespaces: []reach.Namespace{{Name: "x", Labels: map[string]string{"team": "x"}}},
		Pods: []reach.Pod{{
			Namespace: "x", Name: "a", Labels: map[string]string{"app": "a"}, Node: "n",
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: []reach.Port{{Name: "http", Protocol: "TCP", Port: 80}},
		}},
	}
	if diff := cmp.Diff(want, set.World, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("world (-want +got):\n%s", diff)
	}
	if len(set.Policies) != 1 || set.Policies[0].Spec.Name != "deny" {
		t.Errorf("want the policy deny, got %+v", set.Policies)
	}
	if _, err := set.Compile(); err != nil {
		t.Errorf("the engine refuses what was read: %v", err)
	}
}

func TestPodsThatServicesSendNothingAreTold(t *testing.T) {
	ready := func(name string, status corev1.ConditionStatus) *corev1.Pod {
		p := pod("x", name, "10.0.0.1", corev1.PodRunning)
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: status}}
		return p
	}
	leaving := ready("leaving", corev1.ConditionTrue)
	now := metav1.Now()
	leaving.DeletionTimestamp, leaving.Finalizers = &now, []string{"a/b"}
	client := fake.NewClientset(ready("well", corev1.ConditionTrue), ready("unwell", corev1.ConditionFalse), pod("x", "new", "", corev1.PodPending), leaving)
	set, err := audit.Read(t.Context(), client, serving())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"x/leaving", "x/new", "x/unwell"}, slices.Sorted(maps.Keys(set.Unready))); diff != "" {
		t.Errorf("pods that are not ready (-want +got):\n%s", diff)
	}
}

func TestReadTakesEveryPage(t *testing.T) {
	client := fake.NewClientset()
	const pages, perPage = 3, 2
	var asked []string
	client.PrependReactor("list", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		o := a.(k8stesting.ListActionImpl).ListOptions
		asked = append(asked, o.Continue)
		n := len(asked)
		list := &corev1.PodList{}
		for i := range perPage {
			list.Items = append(list.Items, *pod("x", fmt.Sprintf("p%d-%d", n, i), "", corev1.PodRunning))
		}
		if n < pages {
			list.Continue = fmt.Sprint(n)
		}
		return true, list, nil
	})
	client.PrependReactor("list", "namespaces", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, &corev1.NamespaceList{Items: []corev1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "x"}}}}, nil
	})
	set, err := audit.Read(t.Context(), client, serving())
	if err != nil {
		t.Fatal(err)
	}
	if len(set.World.Pods) != pages*perPage {
		t.Errorf("pods: want %d, got %d", pages*perPage, len(set.World.Pods))
	}
	if diff := cmp.Diff([]string{"", "1", "2"}, asked); diff != "" {
		t.Errorf("continue tokens (-want +got):\n%s", diff)
	}
}

func TestMissingRightsAreToldApartFromOtherFaults(t *testing.T) {
	for _, resource := range []string{"pods", "networkpolicies", "namespaces"} {
		t.Run(resource, func(t *testing.T) {
			client := fake.NewClientset()
			client.PrependReactor("list", resource, func(k8stesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("no"))
			})
			if _, err := audit.Read(t.Context(), client, serving()); !errors.Is(err, audit.ErrForbidden) {
				t.Errorf("want ErrForbidden, got %v", err)
			}
		})
	}
	client := fake.NewClientset()
	client.PrependReactor("list", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, context.DeadlineExceeded
	})
	_, err := audit.Read(t.Context(), client, serving())
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, audit.ErrForbidden) {
		t.Errorf("want the fault itself, got %v", err)
	}
}

func TestAServiceIsReadAloneAndItsAbsenceIsKnown(t *testing.T) {
	client := fake.NewClientset(&corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web"},
		Spec:       corev1.ServiceSpec{PublishNotReadyAddresses: true, Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}},
	})
	got, err := audit.ReadService(t.Context(), client, "x", "web")
	if err != nil {
		t.Fatal(err)
	}
	want := manifest.Service{
		Namespace: "x", Name: "web", Selector: map[string]string{"app": "web"}, UnreadyToo: true,
		Ports: []manifest.ServicePort{{Protocol: "TCP", Port: 80, Target: intstr.FromString("http")}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
	if _, err := audit.ReadService(t.Context(), client, "x", "none"); !errors.Is(err, audit.ErrNoService) {
		t.Errorf("want ErrNoService, got %v", err)
	}
}

// TestTheRoleCoversExactlyWhatIsAsked holds the documented privilege against the requests that are made.
func TestTheRoleCoversExactlyWhatIsAsked(t *testing.T) {
	client := fake.NewClientset(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "web"}})
	client.Resources = append(client.Resources, clusterPolicies())
	objects := serving(printed(int64(7))) // it speaks of nodes
	if _, err := audit.Read(t.Context(), client, objects); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.ReadService(t.Context(), client, "x", "web"); err != nil {
		t.Fatal(err)
	}
	var asked []string
	for _, a := range append(client.Actions(), objects.Actions()...) {
		if a.GetResource().Group == "" && a.GetResource().Resource == "resource" {
			continue // discovery, which the API server lets every user ask
		}
		asked = append(asked, a.GetVerb()+" "+a.GetResource().Group+"/"+a.GetResource().Resource)
	}
	var role rbacv1.ClusterRole
	if err := yaml.UnmarshalStrict([]byte(audit.Role), &role); err != nil {
		t.Fatal(err)
	}
	var granted []string
	for _, r := range role.Rules {
		for _, verb := range r.Verbs {
			for _, group := range r.APIGroups {
				for _, resource := range r.Resources {
					granted = append(granted, verb+" "+group+"/"+resource)
				}
			}
		}
	}
	slices.Sort(asked)
	slices.Sort(granted)
	if diff := cmp.Diff(granted, slices.Compact(asked)); diff != "" {
		t.Errorf("requests (-granted +asked):\n%s", diff)
	}
}
