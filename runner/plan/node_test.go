package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

// hosts is a hostNetwork pod on each node, a pod on each, and a Service on its nodes' ports.
const hosts = `
world:
  namespaces:
  - name: h
    labels: {ns: h}
    pods:
    - {name: far, labels: {app: agent}, node: a, hostNetwork: true, ports: [{port: 8081}]}
    - {name: near, labels: {app: agent}, node: b, hostNetwork: true, ports: [{port: 8081}]}
  - name: x
    labels: {ns: x}
    pods:
    - {name: a, labels: {app: a}, node: a}
    - {name: b, labels: {app: b}, node: b, ports: [{name: web, port: 8080}]}
  services:
  - {name: b, namespace: x, selector: {app: b}, type: NodePort, ports: [{port: 80, targetPort: web}]}
  reach: {nodes: [a, b]}
`

func policy(spec string) string {
	return "\npolicies:\n  inline:\n  - metadata: {name: p, namespace: x}\n    spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress], " + spec + "}\n"
}

func TestAVerdictNeedsEveryViewThatTheAPIPermits(t *testing.T) {
	for _, tc := range []struct {
		name, policy, id string
		want             reach.Verdict // Unknown: skipped
		note             string
	}{
		{"a default deny keeps another node's pod out in every view", "ingress: []", "h/far>x/b:TCP/8080", reach.Deny, reach.NoteHostNetwork},
		{"the pod's own node is open: a CNI may take the pod for it", "ingress: []", "h/near>x/b:TCP/8080", reach.Unknown, reach.NoteLocalNode},
		{"a selector of host pods is open", "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: h}}}]}]", "h/far>x/b:TCP/8080", reach.Unknown, reach.NoteHostNetwork},
		{"on its own node a selected host pod is admitted in every view", "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: h}}}]}]", "h/near>x/b:TCP/8080", reach.Allow, reach.NoteLocalNode},
		{"everybody is everybody", "ingress: [{}]", "h/far>x/b:TCP/8080", reach.Allow, reach.NoteHostNetwork},
		{"one of a node's addresses does not speak for the others", "ingress: [{from: [{ipBlock: {cidr: '${pod:h/far}'}}]}]", "h/far>x/b:TCP/8080", reach.Unknown, reach.NoteHostNetwork},
		{"a node port of another node does not get around a default deny", "ingress: []", "x/a>node:a:x/b:TCP/80", reach.Deny, plan.NoteNodePort},
		{"a node port of the pod's own node is open", "ingress: []", "x/a>node:b:x/b:TCP/80", reach.Unknown, plan.NoteNodePort},
		{"a policy that admits the caller is open: it may see the node", "ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]", "x/a>node:a:x/b:TCP/80", reach.Unknown, plan.NoteNodePort},
		{"a policy that admits everybody on the pod's port admits the node port", "ingress: [{ports: [{port: web}]}]", "x/a>node:a:x/b:TCP/80", reach.Allow, plan.NoteNodePort},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := load(t, hosts+policy(tc.policy))
			f := offline(t, s)
			f.Nodes["node-a"] = plan.NodeFacts{Addresses: append(f.Nodes["node-a"].Addresses, netip.MustParseAddr("10.244.7.0"))} // a tunnel's
			got := promiseOf(t, build(t, s, f), 0, tc.id)
			if got.Derived.Verdict != tc.want || (got.Skip != "") != (tc.want == reach.Unknown) || !slices.Contains(got.Derived.Notes, tc.note) {
				t.Errorf("%s: %s, skip %q, notes %v, want %s with note %s", tc.id, got.Derived.Verdict, got.Skip, got.Derived.Notes, tc.want, tc.note)
			}
		})
	}
}

func TestNodesAreAttemptedOnHostPodsAndNodePorts(t *testing.T) {
	s := load(t, hosts)
	p := build(t, s, offline(t, s))
	var got []string
	for _, a := range p.Attempts {
		if a.Source == "x/a" && (a.Kind == plan.NodeIP || a.Kind == plan.NodePort) {
			got = append(got, a.ID+" "+a.Address.String()+" "+strings.Join(a.Responders, ","))
		}
	}
	want := []string{
		"x/a>node:a:TCP/8081 198.19.128.1:8081 h/far", "x/a>node:a:x/b:TCP/80 198.19.128.1:30000 x/b",
		"x/a>node:b:TCP/8081 198.19.128.2:8081 h/near", "x/a>node:b:x/b:TCP/80 198.19.128.2:30000 x/b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

const remade = `
steps:
- {name: first, apply: ["*"]}
- {name: again, restart: [x/a]}
- {name: gone, scale: [{pod: x/a, replicas: 0}]}
- {name: moved, scale: [{pod: x/a, replicas: 1}], move: [{pod: x/b, node: a}]}
`

func TestAPodThatIsMadeAgainHasAnotherAddressAndAPolicyKeepsTheOld(t *testing.T) {
	s := load(t, hosts+policy("ingress: [{from: [{ipBlock: {cidr: '${pod:x/a}'}}]}]")+remade)
	f := offline(t, s)
	p := build(t, s, f)
	id := "x/a>x/b:TCP/8080"
	for step, want := range []reach.Verdict{reach.Allow, reach.Deny, reach.Unknown, reach.Deny} {
		got := promiseOf(t, p, step, id)
		if got.Derived.Verdict != want || (got.Skip != "") != (want == reach.Unknown) {
			t.Errorf("step %d: %s, skip %q, want %s", step, got.Derived.Verdict, got.Skip, want)
		}
	}
	want := []plan.Change{
		{Remake: &plan.Remake{Namespace: "x", Pod: "b", Labels: map[string]string{"app": "b"}, Place: "a"}},
		{Remake: &plan.Remake{Namespace: "x", Pod: "a", Labels: map[string]string{"app": "a"}}},
	}
	if diff := cmp.Diff(want, p.Steps[3].Changes); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	t.Run("a cluster's new address is taken over by Renew", func(t *testing.T) {
		f.Invented = false
		now := f
		now.Pods = map[string]plan.PodFacts{}
		for name, facts := range f.Pods {
			now.Pods[name] = facts
		}
		now.Pods["x/a"] = plan.PodFacts{IP: netip.MustParseAddr("10.0.0.9"), Node: "node-a"}
		before := build(t, s, f)
		only, err := before.Only("x/b>x/a:TCP/80")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []*plan.Plan{before, only} {
			renewed, err := p.Renew(1, now)
			if err != nil {
				t.Fatal(err)
			}
			n := slices.IndexFunc(renewed.Attempts, func(a plan.Planned) bool { return a.ID == "x/b>x/a:TCP/80" })
			if got := renewed.Attempts[n].Address.String(); got != "10.0.0.9:80" || len(renewed.Attempts) != len(p.Attempts) {
				t.Errorf("address %s of %d attempts, want 10.0.0.9:80 of %d", got, len(renewed.Attempts), len(p.Attempts))
			}
		}
		renewed, err := before.Renew(1, now)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := promiseOf(t, before, 1, id).Derived.Verdict, promiseOf(t, renewed, 1, id).Derived.Verdict; a != reach.Allow || b != reach.Deny {
			t.Errorf("derived %s before and %s after, want allow, then deny: the policy has the old address", a, b)
		}
	})
}

func TestAHeadlessNameResolvesToItsPodsAndHasNoAddress(t *testing.T) {
	text := strings.Replace(world, "lookup: true", "clusterIP: None", 1) + `
steps:
- {name: first}
- {name: other backends, relabel: [{pod: y/c, labels: {app: null}}]}
`
	s := load(t, text)
	p := build(t, s, offline(t, s))
	for _, a := range p.Attempts {
		if a.Kind == plan.ClusterIP {
			t.Errorf("%s goes to the address of a Service that has none", a.ID)
		}
	}
	n := slices.IndexFunc(p.Attempts, func(a plan.Planned) bool { return a.ID == "x/a>dns:web.y" })
	if got := p.Attempts[n].Answers; len(got) != 2 {
		t.Errorf("answers %v, want both pods", got)
	}
	if got := promiseOf(t, p, 1, "x/a>dns:web.y").Skip; !strings.Contains(got, "cache") {
		t.Errorf("skip %q, want the resolver's cache named", got)
	}
	if got := promiseOf(t, p, 0, "x/a>dns:web.y").Skip; got != "" {
		t.Errorf("skip %q before anything changed", got)
	}
}
