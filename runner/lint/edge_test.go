package lint_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gapproof/gapproof/runner/lint"
)

func TestAPeerIsCoveredOnlyWhereItFollowsFromTheSelectors(t *testing.T) {
	expression := func(op, values string) string {
		return fmt.Sprintf("{podSelector: {matchExpressions: [{key: k, operator: %s%s}]}}", op, values)
	}
	for name, tc := range map[string]struct {
		wide, narrow string
		want         bool
	}{
		"fewer values are covered by more":                    {expression("In", ", values: [a, b]"), expression("In", ", values: [a]"), true},
		"more values are not covered by fewer":                {expression("In", ", values: [a]"), expression("In", ", values: [a, b]"), false},
		"what is left out less covers what is left out more":  {expression("NotIn", ", values: [a]"), expression("NotIn", ", values: [a, b]"), true},
		"what is left out more does not cover less":           {expression("NotIn", ", values: [a, b]"), expression("NotIn", ", values: [a]"), false},
		"a value is covered by another being left out":        {expression("NotIn", ", values: [a]"), expression("In", ", values: [b]"), true},
		"a value is not covered by its own being left out":    {expression("NotIn", ", values: [a]"), expression("In", ", values: [a, b]"), false},
		"a missing key is covered by a value being left out":  {expression("NotIn", ", values: [a]"), expression("DoesNotExist", ""), true},
		"any value is not covered by one being left out":      {expression("NotIn", ", values: [a]"), expression("Exists", ""), false},
		"a value is covered by its key":                       {expression("Exists", ""), expression("In", ", values: [a]"), true},
		"a value being left out is not covered by its key":    {expression("Exists", ""), expression("NotIn", ", values: [a]"), false},
		"every pod here is covered by every namespace":        {"{namespaceSelector: {}}", "{podSelector: {matchLabels: {k: a}}}", true},
		"every pod here is not covered by a labelled one":     {"{namespaceSelector: {matchLabels: {k: a}}}", "{podSelector: {}}", false},
		"pods of every namespace are not covered by all here": {"{podSelector: {}}", "{namespaceSelector: {}, podSelector: {matchLabels: {k: a}}}", false},
	} {
		t.Run(name, func(t *testing.T) {
			// The wide one comes second, so that equality would not count against it.
			set := parse(t, "p.yaml", head+fmt.Sprintf("spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [%s]}, {from: [%s]}]}\n", tc.narrow, tc.wide))
			covered := slices.ContainsFunc(check(t, set, lint.Options{}), func(f lint.Finding) bool {
				return f.Rule == "rule-covered" && f.Field == "spec.ingress[0]"
			})
			if covered != tc.want {
				t.Errorf("covered: want %t, got %t", tc.want, covered)
			}
		})
	}
}

const head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n"

func TestRulesAreSilentAboutWhatMayBeMeant(t *testing.T) {
	const workloads = `---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, namespace: shop}
spec: {template: {metadata: {labels: {app: db}}, spec: {containers: [{name: c, ports: [{containerPort: 5432}]}]}}}
`
	for name, tc := range map[string]struct {
		spec   string
		rule   string
		report bool
	}{
		"lookups through an ipBlock may reach a resolver of the node": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{protocol: UDP, port: 53}]}]}", "egress-without-dns", false,
		},
		"an ipBlock on another port is no lookup": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 169.254.20.10/32}}], ports: [{protocol: TCP, port: 53}]}]}", "egress-without-dns", true,
		},
		"egress that is denied whole needs no lookup": {
			"{podSelector: {}, policyTypes: [Egress]}", "egress-without-dns", false,
		},
		"a pod that declares no port may listen on any": {
			"{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}], ports: [{port: 9999}]}]}", "port-not-listened", false,
		},
		"a pod that declares ports listens on those": {
			"{podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}], ports: [{port: 9999}]}]}", "port-not-listened", true,
		},
		"destinations outside of the cluster have any port": {
			"{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: db}}}, {ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 443}]}]}", "port-not-listened", false,
		},
		"without policyTypes an egress rule isolates egress": {
			"{podSelector: {}, egress: [{to: [{podSelector: {}}]}]}", "no-default-deny-egress", false,
		},
		"without policyTypes and egress rule nothing isolates egress": {
			"{podSelector: {}}", "no-default-deny-egress", true,
		},
		"policyTypes of egress alone do not isolate ingress": {
			"{podSelector: {}, policyTypes: [Egress]}", "no-default-deny-ingress", true,
		},
		"a union that is no wider than both together": {
			"{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}, {podSelector: {matchLabels: {k8s-app: kube-dns}}}]}]}", "selector-union", false,
		},
		"an empty podSelector beside a namespace means the own one": {
			"{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]}]}", "selector-union", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			found := check(t, parse(t, "p.yaml", head+"spec: "+tc.spec+"\n"+workloads), lint.Options{})
			if got := slices.Contains(ids(found), tc.rule); got != tc.report {
				t.Errorf("%s reported: want %t, got %t: %v", tc.rule, tc.report, got, ids(found))
			}
		})
	}
}
