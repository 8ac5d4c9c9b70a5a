package main

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/scenarios"
)

// offlinePlan is the scenario's plan with invented addresses.
func offlinePlan(t testing.TB, s *scenarios.Scenario) *plan.Plan {
	t.Helper()
	facts, err := plan.Offline(s)
	if err != nil {
		t.Fatal(err)
	}
	p, err := plan.Build(s, facts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// protocolOf is the protocol in an attempt's name.
func protocolOf(id string) corev1.Protocol {
	_, _, port := ends(id)
	protocol, _, _ := strings.Cut(port, "/")
	return corev1.Protocol(protocol)
}
