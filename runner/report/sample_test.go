package report_test

import (
	"net/netip"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/compare"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/runner/report"
	"github.com/gapproof/gapproof/scenarios"
)

// nineByNine is the world of three namespaces with three pods on four listeners; the policy forgets its selector.
const nineByNine = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: missing-selector, title: a peer that forgets its podSelector admits a whole namespace}
world:
  namespaces:
  - name: x
    labels: {ns: x}
    pods: &pods
    - {name: a, labels: {pod: a}, ports: &ports [{port: 80}, {port: 81}, {port: 80, protocol: UDP}, {port: 81, protocol: UDP}]}
    - {name: b, labels: {pod: b}, ports: *ports}
    - {name: c, labels: {pod: c}, ports: *ports}
  - {name: "y", labels: {ns: "y"}, pods: *pods}
  - {name: z, labels: {ns: z}, pods: *pods}
policies:
  inline:
  - metadata: {name: admit-b, namespace: x}
    spec:
      podSelector: {}
      policyTypes: [Ingress]
      ingress:
      - from: [{namespaceSelector: {matchLabels: {ns: "y"}}}]
        ports: [{port: 80}]
expect:
  exhaustive: true
  allow:
  - {from: [y/b], to: [x/*], ports: [TCP/80]}
  - {from: ["*"], to: [y/*, z/*]}
`

// shop has long names, a Service and a lookup.
const shop = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: checkout-egress, title: "checkout may reach the ledger | and nothing else"}
world:
  namespaces:
  - name: shop-frontend-production
    pods:
    - {name: checkout-web-service, labels: {app: checkout}}
    - {name: recommendation-engine, labels: {app: recommend}}
  - name: payments
    pods:
    - {name: ledger, labels: {app: ledger}, ports: [{port: 5432}, {port: 9090}]}
  services:
  - {name: ledger, namespace: payments, selector: {app: ledger}, ports: [{port: 5432}], lookup: true}
policies:
  inline:
  - metadata: {name: checkout, namespace: shop-frontend-production}
    spec:
      podSelector: {matchLabels: {app: checkout}}
      policyTypes: [Egress]
      egress:
      - to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: ledgr}}}]
        ports: [{port: 5432}]
expect:
  allow:
  - {from: [shop-frontend-production/checkout-web-service], to: [payments/ledger, "service:payments/ledger"], ports: [TCP/5432]}
  deny:
  - {from: [shop-frontend-production/checkout-web-service], to: [payments/ledger], ports: [TCP/9090]}
`

// deny is a scenario in which everything is as promised.
const deny = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: default-deny, title: an empty ingress isolates every pod of the namespace}
world:
  namespaces:
  - {name: x, pods: [{name: a}]}
  - {name: "y", pods: [{name: b}]}
policies:
  inline: [{metadata: {name: deny, namespace: x}, spec: {podSelector: {}, policyTypes: [Ingress]}}]
expect: {exhaustive: true, allow: [{from: ["*"], to: [y/b]}]}
`

// network answers attempts as a cluster would that enforces the derived verdicts.
type network func(plan.Planned, plan.Promise, *probes.Observation)

func judged(tb testing.TB, text, file string, differs network) (report.Scenario, *scenarios.Scenario) {
	tb.Helper()
	list, err := scenarios.LoadFS(fstest.MapFS{file: {Data: []byte(text)}}, file)
	if err != nil {
		tb.Fatal(err)
	}
	s := list[0]
	facts, err := plan.Offline(s)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := plan.Build(s, facts)
	if err != nil {
		tb.Fatal(err)
	}
	// The engine may word its reasons as it likes; here is one for all, so that its words are not held by these tests.
	for _, step := range p.Steps {
		for i := range step.Promises {
			d := &step.Promises[i].Derived
			for _, side := range []*reach.Side{&d.Egress, &d.Ingress} {
				for _, ref := range []*reach.Ref{side.Allowing, side.Nearest} {
					if ref != nil {
						ref.Reason = "namespaceSelector ns=y matches, podSelector wants app=ledgr, the pod has app=ledger"
					}
				}
				for k := range side.Isolating {
					side.Isolating[k].Reason = "podSelector {} selects every pod of the namespace"
				}
			}
		}
	}
	out := report.Scenario{Name: p.Name, Title: s.Metadata.Title, File: s.File, Took: 4100 * time.Millisecond}
	for n, step := range p.Steps {
		observations := make([]probes.Observation, len(p.Attempts))
		for i, a := range p.Attempts {
			observations[i] = enforce(a, step.Promises[i], i)
			if differs != nil {
				differs(a, step.Promises[i], &observations[i])
			}
		}
		var judgements []compare.Judgement
		for i, o := range observations {
			j := compare.Judge(p.Attempts[i], p.Steps[n].Promises[i], o)
			if j.Result != compare.Pass {
				j.Replay = compare.Replay(s.File, j.Attempt.ID)
			}
			judgements = append(judgements, j)
		}
		out.Steps = append(out.Steps, report.Step{
			Name: step.Name, Enforced: 56 * time.Millisecond, Decided: 23 * time.Millisecond, Rounds: 2, Took: 3 * time.Second, Judgements: judgements,
		})
	}
	return out, s
}

// enforce is what an attempt would see where policies hold.
func enforce(a plan.Planned, p plan.Promise, i int) probes.Observation {
	o := probes.Observation{
		Attempt: probes.Attempt{ID: a.ID, Protocol: a.Protocol, Destination: a.Address, Name: a.Name, Token: probes.Token{byte(i), byte(i >> 8), 1}, Deadline: time.Second},
		Outcome: probes.Outcome{AttemptID: a.ID, Started: started, Took: 1200 * time.Microsecond},
		Control: probes.Control{Baseline: probes.Replied},
	}
	if p.Derived.Verdict == reach.Deny {
		o.Outcome.Kind, o.Outcome.Took = probes.TimedOut, time.Second
		return o
	}
	deliver(a, &o)
	return o
}

func deliver(a plan.Planned, o *probes.Observation) {
	o.Outcome.Kind, o.Outcome.Took = probes.Replied, 1200*time.Microsecond
	if a.Kind == plan.Lookup {
		o.Outcome.Addresses = a.Answers
		return
	}
	o.Outcome.Responder = a.Responders[0]
	o.Arrivals = []probes.Arrival{{
		Token: o.Attempt.Token, Protocol: a.Protocol, Source: netip.MustParseAddrPort("198.18.0.1:40000"), Destination: a.Address,
		Listener: a.Responders[0], At: started, Count: 1,
	}}
}

var started = time.Date(2026, 3, 4, 10, 11, 12, 0, time.UTC)

func header() report.Report {
	return report.Report{
		Run: "k7x2q", Started: started, Took: 41200 * time.Millisecond, Level: "unwitnessed", LevelReason: "no witness on node-2: it was lost",
		Versions: report.Versions{
			Gapproof: "v0.1.0", Kubernetes: "v1.37.2", CNI: "Calico v3.28.5", Kernel: "6.18.5",
			Images: []string{"lab.invalid/probe@sha256:aa"}, Nodes: []string{"lab-control-plane", "lab-worker"},
		},
	}
}

// failing is a run with something of everything.
func failing(tb testing.TB) *report.Report {
	tb.Helper()
	r := header()
	good, _ := judged(tb, deny, "catalogue/default-deny.yaml", nil)
	holes, _ := judged(tb, nineByNine, "catalogue/missing-selector.yaml", func(a plan.Planned, _ plan.Promise, o *probes.Observation) {
		switch {
		case a.ID == "z/c>x/a:UDP/81": // the CNI lets one through
			deliver(a, o)
		case a.Source == "z/b" && a.Destination == "x/b":
			o.Control.DestinationFault = "agent x/b did not answer after the attempt"
		}
	})
	breaks, _ := judged(tb, shop, "catalogue/checkout-egress.yaml", func(a plan.Planned, _ plan.Promise, o *probes.Observation) {
		if a.Source == "payments/ledger" && a.Kind == plan.Lookup {
			o.Outcome = probes.Outcome{Kind: probes.Replied, Detail: "NXDOMAIN\x1b[2Jfrom 10.96.0.10"}
		}
	})
	breaks.Steps[0].Gaps = []report.Gap{{
		AttemptID: "shop-frontend-production/checkout-web-service>payments/ledger:TCP/9090", Detail: "delivered, then silent", After: 740 * time.Millisecond,
	}}
	stopped := report.Scenario{Name: "relabel", Title: "a pod that changes its label", File: "catalogue/relabel.yaml", Took: time.Second,
		Fault:     "waiting for pod x/a to be ready: last condition was ContainersNotReady",
		Omissions: []report.Omission{{File: "deploy/web.yaml", Line: 7, Object: "Service x/web", Reason: "its external addresses are left out"}},
		Ignored:   map[string]int{"Secret": 2, "ConfigMap": 1}}
	r.Scenarios = []report.Scenario{good, breaks, holes, stopped}
	return &r
}

// passing is a run in which everything held.
func passing(tb testing.TB) *report.Report {
	tb.Helper()
	r := header()
	good, _ := judged(tb, deny, "catalogue/default-deny.yaml", nil)
	r.Scenarios = []report.Scenario{good}
	return &r
}

// skipping is passing with a scenario that the cluster lacks something for.
func skipping(tb testing.TB) *report.Report {
	tb.Helper()
	r := passing(tb)
	r.Scenarios = append(r.Scenarios, report.Scenario{
		Name: "admin-denies", Title: "an Admin policy denies", File: "catalogue/admin-denies.yaml",
		Skipped: "the API server does not serve kind ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2",
	})
	return r
}

// tiered is passing with a promise that both tiers of ClusterNetworkPolicies had a part in.
func tiered(tb testing.TB) *report.Report {
	tb.Helper()
	r := passing(tb)
	side := &r.Scenarios[0].Steps[0].Judgements[0].Promise.Derived.Ingress
	side.Passing = []reach.Ref{{Policy: "delegate", Tier: "Admin", Field: "spec.ingress[0]"}}
	side.Denying = &reach.Ref{Policy: "floor", Tier: "Baseline", Field: "spec.ingress[0].from[0]"}
	return r
}

// governed is a run with attempts at the API server, of which one is a hole.
func governed(tb testing.TB) *report.Report {
	tb.Helper()
	const text = `
apiVersion: gapproof.dev/v1alpha1
kind: Scenario
metadata: {name: api-server, title: nobody reaches the API server}
world: {namespaces: [{name: x, pods: [{name: a}, {name: b}]}], reach: {apiServer: true}}
policies:
  inline: [{metadata: {name: deny, namespace: x}, spec: {podSelector: {}, policyTypes: [Egress]}}]
expect: {exhaustive: true}
`
	r := header()
	one, _ := judged(tb, text, "catalogue/api-server.yaml", func(a plan.Planned, _ plan.Promise, o *probes.Observation) {
		if a.Kind != plan.APIServerIP {
			return
		}
		o.Attempt.Authority = "-----BEGIN CERTIFICATE-----"
		if a.Source == "x/b" {
			o.Outcome.Kind, o.Outcome.Responder, o.Outcome.Took = probes.Replied, plan.APIServerName, 3*time.Millisecond
		}
	})
	r.Scenarios = []report.Scenario{one}
	return &r
}

// permuted is r with its scenarios in another order and its judgements as they are.
func permuted(r *report.Report) *report.Report {
	c := *r
	c.Scenarios = slices.Clone(r.Scenarios)
	slices.Reverse(c.Scenarios)
	return &c
}
