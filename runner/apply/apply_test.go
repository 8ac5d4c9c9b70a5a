package apply_test

import (
	"errors"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gapproof/gapproof/runner/apply"
	"github.com/gapproof/gapproof/runner/internal/kube"
)

func policy(name string, types ...networkingv1.PolicyType) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "x"},
		Spec:       networkingv1.NetworkPolicySpec{PolicyTypes: types},
	}
}

func TestApplyingTwiceReplacesTheRunsOwnPolicy(t *testing.T) {
	c := fake.NewClientset()
	a := apply.New(c, "r1")
	for _, p := range []networkingv1.NetworkPolicy{policy("p", "Ingress"), policy("p", "Egress")} {
		p.Labels = map[string]string{kube.RunLabel: "another", "own": "kept"} // a policy cannot take itself out of clean-up's sight
		if err := a.Apply(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := a.Stored(t.Context(), []string{"x"})
	if err != nil {
		t.Fatal(err)
	}
	if len(stored) != 1 || stored[0].Spec.PolicyTypes[0] != "Egress" || stored[0].Labels[kube.RunLabel] != "r1" || stored[0].Labels["own"] != "kept" {
		t.Errorf("stored %+v, want the second policy with the run's label", stored)
	}
}

func TestAForeignPolicyIsNeitherReplacedNorDeleted(t *testing.T) {
	foreign := policy("p", "Ingress")
	foreign.Labels = map[string]string{kube.RunLabel: "another"}
	c := fake.NewClientset(&foreign)
	a := apply.New(c, "r1")
	if err := a.Apply(t.Context(), policy("p", "Egress")); !errors.Is(err, apply.ErrForeign) {
		t.Errorf("applying over it: error %v, want ErrForeign", err)
	}
	if err := a.Delete(t.Context(), "x/p"); !errors.Is(err, apply.ErrForeign) {
		t.Errorf("deleting it: error %v, want ErrForeign", err)
	}
	if err := a.Clear(t.Context(), []string{"x"}); err != nil {
		t.Errorf("clearing beside it: %v", err)
	}
	left, err := c.NetworkingV1().NetworkPolicies("x").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil || left.Spec.PolicyTypes[0] != "Ingress" {
		t.Errorf("the foreign policy is %+v, %v; want it as it was", left, err)
	}
}

func TestClearDeletesEveryPolicyOfTheRun(t *testing.T) {
	c := fake.NewClientset()
	a := apply.New(c, "r1")
	for _, name := range []string{"p", "q"} {
		if err := a.Apply(t.Context(), policy(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Clear(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	list, err := c.NetworkingV1().NetworkPolicies("").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("%d policies are left (%v), want none", len(list.Items), err)
	}
	if err := a.Delete(t.Context(), "x/p"); err != nil {
		t.Errorf("deleting what is gone: %v, want no error", err)
	}
}
