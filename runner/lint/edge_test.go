package lint_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
			"{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}, {podSelector: {matchExpressions: [{key: app, operator: Exists}]}}]}]}", "selector-union", false,
		},
		"a union whose pods are all in the other namespace": {
			"{podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}, {podSelector: {matchLabels: {k8s-app: kube-dns}}}]}]}", "selector-union", true,
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

func TestAPeerOfTwoItemsIsToldEvenWhereNoOtherPodIsThere(t *testing.T) {
	content := `apiVersion: v1
kind: Namespace
metadata: {name: b, labels: {team: b}}
---
apiVersion: v1
kind: Namespace
metadata: {name: c, labels: {team: c}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mon, namespace: b}
spec: {template: {metadata: {labels: {app: mon}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: c}
spec: {template: {metadata: {labels: {app: web}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: c}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {team: b}}
    - podSelector: {matchLabels: {app: mon}}
`
	var got []lint.Finding
	for _, f := range check(t, parse(t, "p.yaml", content), lint.Options{}) {
		if f.Rule == "selector-union" || f.Rule == "peer-matches-nothing" {
			got = append(got, f)
		}
	}
	if len(got) != 1 || got[0].Rule != "selector-union" || got[0].Severity != lint.Error || !strings.Contains(got[0].Message, "the pods app=mon are there and not in c") {
		t.Errorf("want one error of selector-union that says where the pods are, got %+v", got)
	}
}

func TestExceptsThatTogetherTakeOutTheWholeBlockAreTold(t *testing.T) {
	for name, tc := range map[string]struct {
		block string
		want  []string // the rules, of ipBlocks and peers
	}{
		"both halves":             {`{cidr: 10.0.0.0/8, except: [10.128.0.0/9, 10.0.0.0/9]}`, []string{"peer-matches-nothing"}},
		"a half and two quarters": {`{cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/10, 10.192.0.0/10]}`, []string{"peer-matches-nothing"}},
		"all of IPv6":             {`{cidr: "::/0", except: ["::/1", "8000::/1"]}`, []string{"peer-matches-nothing"}},
		"two addresses of two":    {`{cidr: 192.0.2.0/31, except: [192.0.2.0/32, 192.0.2.1/32]}`, []string{"peer-matches-nothing"}},
		"all but a quarter":       {`{cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.128.0.0/10]}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			content := "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{ipBlock: " + tc.block + "}]}]}\n"
			found := check(t, parse(t, "p.yaml", content), lint.Options{})
			if diff := cmp.Diff(tc.want, ids(found), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
		})
	}
}
