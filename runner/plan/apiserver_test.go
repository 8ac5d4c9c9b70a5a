package plan_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
)

const governed = `
world:
  namespaces:
  - name: x
    pods:
    - {name: a, labels: {app: a}, node: a}
    - {name: b, labels: {app: b}, node: b}
  reach:
    apiServer: true
    outside: [{name: bank}]
`

// withPolicy is governed with an egress policy of pod a.
func withPolicy(egress string) string {
	return governed + `policies:
  inline:
  - metadata: {name: np, namespace: x}
    spec: {podSelector: {matchLabels: {app: a}}, policyTypes: [Egress], egress: ` + egress + `}
`
}

func TestEveryPodAttemptsTheAPIServer(t *testing.T) {
	s := load(t, governed)
	f := offline(t, s)
	f.Nodes["node-b"] = plan.NodeFacts{Addresses: append(f.Nodes["node-b"].Addresses, f.APIServer.Endpoints[0].Addr())}
	var got []string
	for _, a := range build(t, s, f).Attempts {
		if a.Kind == plan.APIServerIP {
			got = append(got, strings.Join(append([]string{a.ID, a.Address.String(), a.Name, map[bool]string{true: "same node"}[a.SameNode]}, a.Responders...), " "))
		}
	}
	want := []string{
		"x/a>api-server:TCP/443 198.19.0.1:443 kubernetes.default.svc  kubernetes.default.svc",
		"x/b>api-server:TCP/443 198.19.0.1:443 kubernetes.default.svc same node kubernetes.default.svc",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

func TestTheAPIServerIsJudgedBehindItsService(t *testing.T) {
	server := netip.MustParseAddrPort("172.30.0.3:6443")
	other := netip.MustParseAddrPort("172.30.0.4:6443")
	for name, tc := range map[string]struct {
		egress  string
		servers []netip.AddrPort
		want    reach.Verdict
		skip    string
	}{
		"nothing leaves":                      {"[]", []netip.AddrPort{server}, reach.Deny, ""},
		"the Service's port is not theirs":    {"[{ports: [{port: 443}]}]", []netip.AddrPort{server}, reach.Deny, ""},
		"the servers' port":                   {"[{ports: [{port: 6443}]}]", []netip.AddrPort{server}, reach.Allow, ""},
		"the Service's address is not theirs": {"[{to: [{ipBlock: {cidr: 198.19.0.0/16}}]}]", []netip.AddrPort{server}, reach.Deny, ""},
		"a server's address":                  {"[{to: [{ipBlock: {cidr: 172.30.0.3/32}}]}]", []netip.AddrPort{server}, reach.Allow, ""},
		"one of two servers":                  {"[{to: [{ipBlock: {cidr: 172.30.0.3/32}}]}]", []netip.AddrPort{server, other}, reach.Unknown, "which of them is asked is not the source's choice"},
		"a selector of everybody names pods":  {"[{to: [{namespaceSelector: {}}]}]", []netip.AddrPort{server}, reach.Deny, ""},
		"nobody is named":                     {"[]", nil, reach.Unknown, "the cluster named no API server"},
	} {
		t.Run(name, func(t *testing.T) {
			s := load(t, withPolicy(tc.egress))
			f := offline(t, s)
			f.APIServer.Endpoints = tc.servers
			p := build(t, s, f)
			got := promiseOf(t, p, 0, "x/a>api-server:TCP/443")
			if got.Derived.Verdict != tc.want || !strings.Contains(got.Skip, tc.skip) || (tc.skip == "") != (got.Skip == "") {
				t.Errorf("want %s and skipped for %q, got %s and %q", tc.want, tc.skip, got.Derived.Verdict, got.Skip)
			}
		})
	}
}
