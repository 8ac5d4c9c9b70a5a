package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// twice is two pods and a Service, attempted over both families.
const twice = `
world:
  namespaces:
  - name: x
    labels: {ns: x}
    pods:
    - {name: a, labels: {app: a}, node: a}
    - {name: b, labels: {app: b}, node: b, ports: [{port: 80}, {port: 53, protocol: UDP}]}
  services:
  - {name: b, namespace: x, selector: {app: b}, type: NodePort, ports: [{port: 80}], lookup: true}
  - {name: each, namespace: x, selector: {app: b}, clusterIP: None, ports: [{port: 80}]}
  reach: {icmp: true, nodes: [b], families: [IPv6, IPv4]}
`

func TestEveryFamilyIsAttemptedForItself(t *testing.T) {
	s := load(t, twice)
	p := build(t, s, offline(t, s))
	var got []string
	for _, a := range p.Attempts {
		if a.Source == "x/a" {
			to := a.Address.String()
			if a.Kind == plan.Lookup {
				to = a.Answers[0].String()
			}
			got = append(got, a.ID+" "+a.Family.String()+" "+to)
		}
	}
	want := []string{
		"x/a>x/a:TCP/80 IPv4 198.18.0.1:80", "x/a>x/a:TCP6/80 IPv6 [2001:2:0:1::1]:80",
		"x/a>x/b:TCP/80 IPv4 198.18.0.2:80", "x/a>x/b:TCP6/80 IPv6 [2001:2:0:1::2]:80",
		"x/a>x/b:UDP/53 IPv4 198.18.0.2:53", "x/a>x/b:UDP6/53 IPv6 [2001:2:0:1::2]:53",
		"x/a>x/b:ICMP IPv4 198.18.0.2:0", "x/a>x/b:ICMP6 IPv6 [2001:2:0:1::2]:0",
		"x/a>service:x/b:TCP/80 IPv4 198.19.0.1:80", "x/a>service:x/b:TCP6/80 IPv6 [2001:2:0:2::1]:80",
		"x/a>node:b:x/b:TCP/80 IPv4 198.19.128.2:30000", "x/a>node:b:x/b:TCP6/80 IPv6 [2001:2:0:3::2]:30000",
		"x/a>dns:b.x IPv4 198.19.0.1", "x/a>dns:b.x:AAAA IPv6 2001:2:0:2::1",
		"x/a>dns:each.x IPv4 198.18.0.2", "x/a>dns:each.x:AAAA IPv6 2001:2:0:1::2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts of x/a (-want +got):\n%s", diff)
	}
}

func TestABlockIsHeldAgainstTheAddressOfTheAttempt(t *testing.T) {
	for _, tc := range []struct {
		name, peer string
		want       map[string]reach.Verdict // by the protocol of an attempt of x/a at x/b
	}{
		{"the first address", "ipBlock: {cidr: '${pod:x/a}'}", map[string]reach.Verdict{"TCP/80": reach.Allow, "TCP6/80": reach.Deny}},
		{"the address of IPv6", "ipBlock: {cidr: '${pod:x/a:IPv6}'}", map[string]reach.Verdict{"TCP/80": reach.Deny, "TCP6/80": reach.Allow}},
		{"a network of IPv6", "ipBlock: {cidr: '${pod:x/a:IPv6}/64'}", map[string]reach.Verdict{"UDP/53": reach.Deny, "UDP6/53": reach.Allow}},
		{"all of IPv6 but one", "ipBlock: {cidr: '::/0', except: ['${pod:x/a:IPv6}']}", map[string]reach.Verdict{"TCP/80": reach.Deny, "TCP6/80": reach.Deny}},
		{"a selector is both", "podSelector: {matchLabels: {app: a}}", map[string]reach.Verdict{"TCP/80": reach.Allow, "TCP6/80": reach.Allow}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := load(t, twice+policy("ingress: [{from: [{"+tc.peer+"}]}]"))
			p := build(t, s, offline(t, s))
			for notation, want := range tc.want {
				if got := promiseOf(t, p, 0, "x/a>x/b:"+notation).Derived.Verdict; got != want {
					t.Errorf("%s is %s, want %s", notation, got, want)
				}
			}
		})
	}
}

// oneFamily takes the second family from every address of f.
func oneFamily(f plan.Facts) plan.Facts {
	for name, pod := range f.Pods {
		pod.Others = nil
		f.Pods[name] = pod
	}
	for name, all := range f.Services {
		f.Services[name] = all[:1]
	}
	for name, node := range f.Nodes {
		f.Nodes[name] = plan.NodeFacts{Addresses: node.Addresses[:1]}
	}
	for name, all := range f.Outside {
		f.Outside[name] = all[:1]
	}
	return f
}

// ipv6Only takes the first family instead.
func ipv6Only(f plan.Facts) plan.Facts {
	for name, pod := range f.Pods {
		pod.IP, pod.Others = pod.Others[0], nil
		f.Pods[name] = pod
	}
	for name, all := range f.Services {
		f.Services[name] = all[1:]
	}
	for name, node := range f.Nodes {
		f.Nodes[name] = plan.NodeFacts{Addresses: node.Addresses[1:]}
	}
	return f
}

func TestAFamilyThatTheClusterHasNotIsSkippedWithTheReason(t *testing.T) {
	s := load(t, twice+policy("ingress: [{from: [{ipBlock: {cidr: '${pod:x/a:IPv6}'}}]}]")+"expect: {exhaustive: true, allow: [{from: [x/a], to: [x/b], ports: [TCP/80], families: [IPv6]}]}\n")
	p := build(t, s, oneFamily(offline(t, s)))
	for id, want := range map[string]string{
		"x/a>x/b:TCP6/80":         "the cluster gave x/b no IPv6 address",
		"x/a>x/b:ICMP6":           "the cluster gave x/b no IPv6 address",
		"x/a>service:x/b:TCP6/80": "the cluster gave service:x/b no IPv6 address",
		"x/a>node:b:x/b:TCP6/80":  "the cluster gave node:b:x/b no IPv6 address",
		"x/a>dns:b.x:AAAA":        "the cluster gave Service x/b no IPv6 address",
		"x/a>dns:each.x:AAAA":     "the cluster gave Service x/each no IPv6 address",
	} {
		n := slices.IndexFunc(p.Attempts, func(a plan.Planned) bool { return a.ID == id })
		if got := promiseOf(t, p, 0, id).Skip; got != want || p.Attempts[n].Lacking != want || p.Attempts[n].Address.IsValid() {
			t.Errorf("%s: skip %q, lacking %q, address %s, want %q", id, got, p.Attempts[n].Lacking, p.Attempts[n].Address, want)
		}
	}
	// The block has an address that nobody has: the rule stays, and admits nobody.
	if got := promiseOf(t, p, 0, "x/a>x/b:TCP/80"); got.Skip != "" || got.Derived.Verdict != reach.Deny {
		t.Errorf("over IPv4: skip %q, derived %s, want deny", got.Skip, got.Derived.Verdict)
	}
	if got := p.Steps[0].Policies[0].Spec.Spec.Ingress[0].From[0].IPBlock.CIDR; got != "2001:db8::1/128" {
		t.Errorf("block %s, want an address that is set aside for documentation", got)
	}
}

func TestALookupAsksForTheRecordsThatTheClusterHas(t *testing.T) {
	for name, tc := range map[string]struct {
		families string
		pick     func(plan.Facts) plan.Facts
		want     map[string]probes.Family
	}{
		"IPv4 first, no family asked for": {"", oneFamily, map[string]probes.Family{"x/a>dns:b.x": probes.FamilyUnknown, "x/a>dns:each.x": probes.FamilyUnknown}},
		"IPv6 alone, no family asked for": {"", ipv6Only, map[string]probes.Family{"x/a>dns:b.x": probes.IPv6, "x/a>dns:each.x": probes.IPv6}},
		"IPv6 alone, both asked for": {", families: [IPv4, IPv6]", ipv6Only, map[string]probes.Family{
			"x/a>dns:b.x": probes.IPv4, "x/a>dns:each.x": probes.IPv4, "x/a>dns:b.x:AAAA": probes.IPv6, "x/a>dns:each.x:AAAA": probes.IPv6,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			facts := tc.pick(offline(t, load(t, twice)))
			p := build(t, load(t, strings.Replace(twice, ", families: [IPv6, IPv4]", tc.families, 1)), facts)
			got := map[string]probes.Family{}
			for _, a := range p.Attempts {
				if a.Kind == plan.Lookup && a.Source == "x/a" {
					got[a.ID] = a.Records()
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("records asked for (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWithoutFamiliesTheFirstAddressAloneIsAttempted(t *testing.T) {
	s := load(t, world)
	f := offline(t, s)
	want := build(t, s, f)
	for name, pod := range f.Pods {
		pod.Others = []netip.Addr{netip.MustParseAddr("fd00::9")}
		f.Pods[name] = pod
	}
	got := build(t, s, f)
	if diff := cmp.Diff(want.Attempts, got.Attempts, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("attempts change with a second address (-want +got):\n%s", diff)
	}
}

// border is a pod on each node, a node port, and a host outside.
const border = `
world:
  namespaces:
  - name: x
    pods:
    - {name: a, labels: {app: a}, node: a}
    - {name: b, labels: {app: b}, node: b, ports: [{port: 8080}, {port: 9, protocol: SCTP}]}
  services:
  - {name: b, namespace: x, selector: {app: b}, type: NodePort, ports: [{port: 80, targetPort: 8080}], lookup: true}
  reach:
    icmp: true
    nodes: [a, b]
    outside:
    - {name: bank, ports: [{port: 443}]}
    - {name: shop, ports: [{port: 53, protocol: UDP}]}
`

func TestHostsOutsideAreSourcesAndDestinations(t *testing.T) {
	s := load(t, border)
	p := build(t, s, offline(t, s))
	var got []string
	for _, a := range p.Attempts {
		if a.FromOutside() && a.Source == "outside:bank" || a.Kind == plan.OutsideIP && a.Source == "x/a" {
			got = append(got, a.ID+" "+a.Address.String()+" "+strings.Join(a.Responders, ","))
		}
		if a.SameNode && (a.FromOutside() || a.Kind == plan.OutsideIP) {
			t.Errorf("%s: a host outside is on no node", a.ID)
		}
	}
	want := []string{
		"x/a>outside:bank:TCP/443 198.19.160.1:443 outside:bank", "x/a>outside:bank:ICMP 198.19.160.1:0 outside:bank",
		"x/a>outside:shop:UDP/53 198.19.160.2:53 outside:shop", "x/a>outside:shop:ICMP 198.19.160.2:0 outside:shop",
		// No SCTP, whose raw socket a host outside may not open, no Service, no lookup and no other host.
		"outside:bank>x/a:TCP/80 198.18.0.1:80 x/a", "outside:bank>x/b:TCP/8080 198.18.0.2:8080 x/b",
		"outside:bank>x/a:ICMP 198.18.0.1:0 x/a", "outside:bank>x/b:ICMP 198.18.0.2:0 x/b",
		"outside:bank>node:a:x/b:TCP/80 198.19.128.1:30000 x/b", "outside:bank>node:b:x/b:TCP/80 198.19.128.2:30000 x/b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
}

func TestAHostWithAddressesOfItsOwnIsADestinationAlone(t *testing.T) {
	s := load(t, strings.Replace(border, "{name: shop, ", "{name: shop, addresses: ['fd00:ec2::254', 169.254.169.254], ", 1))
	p := build(t, s, offline(t, s))
	var got []string
	for _, a := range p.Attempts {
		if a.Source == "outside:shop" || a.Destination == "outside:shop" {
			got = append(got, a.ID+" "+a.Address.String())
		}
	}
	want := []string{
		"x/a>outside:shop:UDP/53 169.254.169.254:53", "x/a>outside:shop:ICMP 169.254.169.254:0",
		"x/b>outside:shop:UDP/53 169.254.169.254:53", "x/b>outside:shop:ICMP 169.254.169.254:0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("attempts (-want +got):\n%s", diff)
	}
	// A cluster of another family than its addresses' gives it none: skipped, and no fault.
	facts := offline(t, s)
	facts.Outside["outside:shop"] = nil
	for _, a := range build(t, s, facts).Attempts {
		if a.Destination == "outside:shop" && a.Lacking == "" {
			t.Errorf("%s: is made to no address", a.ID)
		}
	}
}

func TestAHostOutsideIsAnAddressAndNoPod(t *testing.T) {
	for _, tc := range []struct {
		name, types, rule, id string
		want                  reach.Verdict // Unknown: skipped
	}{
		{"nobody is admitted", "Ingress", "ingress: []", "outside:bank>x/b:TCP/8080", reach.Deny},
		{"a selector of every namespace means pods", "Ingress", "ingress: [{from: [{namespaceSelector: {}}]}]", "outside:bank>x/b:TCP/8080", reach.Deny},
		{"its address is admitted", "Ingress", "ingress: [{from: [{ipBlock: {cidr: '${outside:bank}'}}]}]", "outside:bank>x/b:TCP/8080", reach.Allow},
		{"the address of another is not its own", "Ingress", "ingress: [{from: [{ipBlock: {cidr: '${outside:shop}'}}]}]", "outside:bank>x/b:TCP/8080", reach.Deny},
		{"an except takes it out", "Ingress", "ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: ['${outside:bank}']}}]}]", "outside:bank>x/b:TCP/8080", reach.Deny},
		{"everybody is everybody", "Ingress", "ingress: [{}]", "outside:bank>x/b:TCP/8080", reach.Allow},
		{"a pod that nobody isolates is open", "Ingress", "ingress: []", "outside:bank>x/a:TCP/80", reach.Allow},
		{"an isolated pod sends to nobody", "Egress", "egress: []", "x/b>outside:bank:TCP/443", reach.Deny},
		{"a pod may send to its address", "Egress", "egress: [{to: [{ipBlock: {cidr: '${outside:bank}'}}]}]", "x/b>outside:bank:TCP/443", reach.Allow},
		{"and to no other", "Egress", "egress: [{to: [{ipBlock: {cidr: '${outside:bank}'}}]}]", "x/b>outside:shop:UDP/53", reach.Deny},
		{"ingress rules say nothing about what leaves", "Ingress", "ingress: []", "x/b>outside:bank:TCP/443", reach.Allow},
		{"by a node port of another node a default deny holds", "Ingress", "ingress: []", "outside:bank>node:a:x/b:TCP/80", reach.Deny},
		{"by one of the pod's own it is open", "Ingress", "ingress: []", "outside:bank>node:b:x/b:TCP/80", reach.Unknown},
		{"by a node port its address may be the node's", "Ingress", "ingress: [{from: [{ipBlock: {cidr: '${outside:bank}'}}]}]", "outside:bank>node:a:x/b:TCP/80", reach.Unknown},
		{"by a node port everybody is everybody", "Ingress", "ingress: [{}]", "outside:bank>node:a:x/b:TCP/80", reach.Allow},
		{"an echo from outside to a pod that nobody isolates", "Ingress", "ingress: []", "outside:bank>x/a:ICMP", reach.Allow},
		{"an echo from outside to one that is isolated", "Ingress", "ingress: []", "outside:bank>x/b:ICMP", reach.Unknown},
		{"an echo to the outside by a pod that nobody isolates", "Ingress", "ingress: []", "x/b>outside:bank:ICMP", reach.Allow},
		{"an echo to the outside by one that is isolated", "Egress", "egress: []", "x/b>outside:bank:ICMP", reach.Unknown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := load(t, border+strings.Replace(policy(tc.rule), "policyTypes: [Ingress]", "policyTypes: ["+tc.types+"]", 1))
			got := promiseOf(t, build(t, s, offline(t, s)), 0, tc.id)
			if got.Derived.Verdict != tc.want || (got.Skip != "") != (tc.want == reach.Unknown) {
				t.Errorf("%s: %s, skip %q, want %s", tc.id, got.Derived.Verdict, got.Skip, tc.want)
			}
		})
	}
}

func TestTheFactsOweAnAddressOfEveryHostOutside(t *testing.T) {
	s := load(t, border)
	f := offline(t, s)
	delete(f.Outside, "outside:shop")
	_, err := plan.Build(s, f)
	if want := "planning scenario t: world.reach.outside[1]: the cluster gave no address for outside:shop"; err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestEchoesAndSCTPAreDerivedAsTheAPIHasThem(t *testing.T) {
	const pods = `
world:
  namespaces:
  - name: x
    pods:
    - {name: a, labels: {app: a}}
    - {name: b, labels: {app: b}, ports: &ports [{port: 80}, {port: 80, protocol: SCTP}]}
    - {name: c, labels: {app: c}, ports: *ports}
  reach: {icmp: true}
`
	for _, tc := range []struct {
		name, rule string
		want       map[string]reach.Verdict // Unknown: skipped
	}{
		{"a default deny denies SCTP and leaves echoes open", "ingress: []",
			map[string]reach.Verdict{"x/a>x/b:SCTP/80": reach.Deny, "x/a>x/b:ICMP": reach.Unknown, "x/b>x/a:ICMP": reach.Allow, "x/a>x/c:SCTP/80": reach.Allow, "x/a>x/c:ICMP": reach.Allow}},
		{"a rule without ports admits SCTP and says nothing about echoes", "ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]",
			map[string]reach.Verdict{"x/a>x/b:SCTP/80": reach.Allow, "x/c>x/b:SCTP/80": reach.Deny, "x/a>x/b:ICMP": reach.Unknown}},
		{"a port of SCTP is no port of TCP", "ingress: [{ports: [{port: 80, protocol: SCTP}]}]",
			map[string]reach.Verdict{"x/a>x/b:SCTP/80": reach.Allow, "x/a>x/b:TCP/80": reach.Deny}},
		{"a port without a protocol is TCP's", "ingress: [{ports: [{port: 80}]}]",
			map[string]reach.Verdict{"x/a>x/b:SCTP/80": reach.Deny, "x/a>x/b:TCP/80": reach.Allow}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := load(t, pods+policy(tc.rule)+"expect: {exhaustive: true, allow: [{from: ['*'], to: ['*']}]}\n")
			s.Expect.Allow, s.Steps[0].Expect = nil, &scenarios.Expect{Exhaustive: true}
			p := build(t, s, offline(t, s))
			for id, want := range tc.want {
				got := promiseOf(t, p, 0, id)
				if got.Derived.Verdict != want || (got.Skip != "") != (want == reach.Unknown) {
					t.Errorf("%s: %s, skip %q, want %s", id, got.Derived.Verdict, got.Skip, want)
				}
				if want == reach.Unknown && got.Intended != reach.Unknown {
					t.Errorf("%s: exhaustive intends %s where the API leaves it open", id, got.Intended)
				}
			}
		})
	}
	s := load(t, pods)
	for _, a := range build(t, s, offline(t, s)).Attempts {
		if a.Protocol == probes.ICMP && (a.Self() || a.Port != 0) {
			t.Errorf("%s: want no echo of a pod to itself, and no port", a.ID)
		}
	}
}
