package scenarios_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/gapproof/gapproof/scenarios"
)

func TestRuleNamesWhatItsWordsSay(t *testing.T) {
	pod := scenarios.Attempt{Source: "x/a", Destination: "y/b", Port: "TCP/80"}
	service := scenarios.Attempt{Source: "x/a", Destination: "service:y/web", Port: "TCP/80"}
	lookup := scenarios.Attempt{Source: "x/a", Destination: "dns:web.y"}
	server := scenarios.Attempt{Source: "x/a", Destination: scenarios.APIServer, Port: "TCP/443"}
	self := scenarios.Attempt{Source: "x/a", Destination: "x/a", Port: "TCP/80", LoopsBack: true}
	rule := func(from, to string, ports ...string) scenarios.Rule {
		return scenarios.Rule{From: []string{from}, To: []string{to}, Ports: ports}
	}
	tests := []struct {
		name    string
		rule    scenarios.Rule
		attempt scenarios.Attempt
		want    bool
	}{
		{"names in full", rule("x/a", "y/b"), pod, true},
		{"another source", rule("x/b", "y/b"), pod, false},
		{"a namespace of sources and of destinations", rule("x/*", "y/*"), pod, true},
		{"a namespace whose name only begins alike", rule("x/*", "yy/*"), pod, false},
		{"every pod", rule("*", "*"), pod, true},
		{"every pod is no Service", rule("*", "*"), service, false},
		{"a Service in full", rule("*", "service:y/web"), service, true},
		{"every Service of a namespace", rule("*", "service:y/*"), service, true},
		{"every Service", rule("*", "service:*"), service, true},
		{"every Service is no pod", rule("*", "service:*"), pod, false},
		{"every pod is no lookup", rule("*", "*"), lookup, false},
		{"lookups", rule("*", "dns"), lookup, true},
		{"lookups are no pods", rule("*", "dns"), pod, false},
		{"every pod is no API server", rule("*", "*"), server, false},
		{"the API server", rule("*", "api-server"), server, true},
		{"the API server is no pod", rule("*", "api-server"), pod, false},
		{"the port", rule("*", "*", "UDP/80", "TCP/80"), pod, true},
		{"another port", rule("*", "*", "TCP/81"), pod, false},
		{"a lookup by its port", rule("*", "dns", "UDP/53"), lookup, true},
		{"a lookup by another port", rule("*", "dns", "TCP/80"), lookup, false},
		{"a pod itself is not meant by an asterisk", rule("*", "*"), self, false},
		{"a pod itself is not meant by half an asterisk", rule("x/a", "x/*"), self, false},
		{"a pod itself in full", rule("x/a", "x/a"), self, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := test.rule.Names(test.attempt); got != test.want {
				t.Errorf("%+v names %+v: want %t, got %t", test.rule, test.attempt, test.want, got)
			}
		})
	}
}

func TestParsePortReadsWhatFormatPortWrites(t *testing.T) {
	for _, good := range []string{"TCP/1", "UDP/53", "SCTP/65535"} {
		protocol, port, err := scenarios.ParsePort(good)
		if err != nil || scenarios.FormatPort(protocol, port) != good {
			t.Errorf("%s: want it back, got %s/%d, %v", good, protocol, port, err)
		}
	}
	for _, bad := range []string{"", "80", "TCP", "TCP/", "TCP/0", "TCP/65536", "TCP/+80", "TCP/080", "ICMP/1", "tcp/80"} {
		if _, _, err := scenarios.ParsePort(bad); err == nil {
			t.Errorf("%q: want an error", bad)
		}
	}
}

func TestSubstituteFillsInAddresses(t *testing.T) {
	addresses := map[string]netip.Addr{
		"x/a": netip.MustParseAddr("10.1.2.3"), "x/b": netip.MustParseAddr("10.1.2.9"), "x/six": netip.MustParseAddr("fd00::7"),
		"x/aIPv6": netip.MustParseAddr("fd00::3"), "outside:bank": netip.MustParseAddr("172.18.0.9"),
	}
	lookup := func(h scenarios.Host) (netip.Addr, bool) {
		a, ok := addresses[h.Name+string(h.Family)]
		return a, ok
	}
	tests := []struct {
		name      string
		block     networkingv1.IPBlock
		want      networkingv1.IPBlock
		wantError string
	}{
		{"an IPv4 address alone", networkingv1.IPBlock{CIDR: "${pod:x/a}"}, networkingv1.IPBlock{CIDR: "10.1.2.3/32"}, ""},
		{"an IPv6 address alone", networkingv1.IPBlock{CIDR: "${pod:x/six}"}, networkingv1.IPBlock{CIDR: "fd00::7/128"}, ""},
		{"the address of a family", networkingv1.IPBlock{CIDR: "${pod:x/a:IPv6}/64", Except: []string{"${pod:x/a:IPv6}"}},
			networkingv1.IPBlock{CIDR: "fd00::/64", Except: []string{"fd00::3/128"}}, ""},
		{"a host outside", networkingv1.IPBlock{CIDR: "${outside:bank}"}, networkingv1.IPBlock{CIDR: "172.18.0.9/32"}, ""},
		{"a host outside without an address", networkingv1.IPBlock{CIDR: "${outside:shop}"}, networkingv1.IPBlock{},
			`filling in the addresses of policy x/np: spec.egress[0].to[0].ipBlock.cidr: "${outside:shop}": host outside:shop has no known address`},
		{"a network, without the bits beyond its prefix", networkingv1.IPBlock{CIDR: "${pod:x/a}/24", Except: []string{"${pod:x/b}"}},
			networkingv1.IPBlock{CIDR: "10.1.2.0/24", Except: []string{"10.1.2.9/32"}}, ""},
		{"an except in a written cidr", networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"${pod:x/a}", "192.0.2.0/24"}},
			networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.1.2.3/32", "192.0.2.0/24"}}, ""},
		{"no placeholder at all", networkingv1.IPBlock{CIDR: "10.0.0.0/8"}, networkingv1.IPBlock{CIDR: "10.0.0.0/8"}, ""},
		{"a pod without an address", networkingv1.IPBlock{CIDR: "${pod:x/q}"}, networkingv1.IPBlock{},
			`filling in the addresses of policy x/np: spec.egress[0].to[0].ipBlock.cidr: "${pod:x/q}": pod x/q has no known address`},
		{"more bits than the address has", networkingv1.IPBlock{CIDR: "${pod:x/a}/64"}, networkingv1.IPBlock{},
			`filling in the addresses of policy x/np: spec.egress[0].to[0].ipBlock.cidr: "${pod:x/a}/64": prefix length 64 too large for IPv4`},
		{"all addresses of a family", networkingv1.IPBlock{CIDR: "${pod:x/six}/0", Except: []string{"${pod:x/six}"}},
			networkingv1.IPBlock{CIDR: "::/0", Except: []string{"fd00::7/128"}}, ""},
		{"an except of another family", networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"${pod:x/six}"}}, networkingv1.IPBlock{},
			"filling in the addresses of policy x/np: spec.egress[0].to[0].ipBlock.except[0]: fd00::7/128 is of another family than 0.0.0.0/0: a cidr such as ${pod:NAMESPACE/POD}/0 is of the family that the cluster has"},
		{"an except outside of the cidr", networkingv1.IPBlock{CIDR: "${pod:x/a}", Except: []string{"${pod:x/b}"}}, networkingv1.IPBlock{},
			"filling in the addresses of policy x/np: spec.egress[0].to[0].ipBlock.except[0]: 10.1.2.9/32 is not a strict subset of 10.1.2.3/32"},
		{"something that is no placeholder", networkingv1.IPBlock{CIDR: "${host:a}"}, networkingv1.IPBlock{},
			`filling in the addresses of policy x/np: spec.egress[0].to[0].ipBlock.cidr: "${host:a}": a placeholder is ${pod:NAMESPACE/POD} or ${outside:NAME}, with :IPv4 or :IPv6 before the brace, or /BITS behind it, where wanted`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var policy networkingv1.NetworkPolicy
			policy.Namespace, policy.Name = "x", "np"
			policy.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{{IPBlock: test.block.DeepCopy()}}}}
			got, err := scenarios.Substitute(policy, lookup)
			if text := errorText(err); text != test.wantError {
				t.Errorf("want error %q, got %q", test.wantError, text)
			}
			if diff := cmp.Diff(test.block, *policy.Spec.Egress[0].To[0].IPBlock); diff != "" {
				t.Errorf("the argument was changed (-want +got):\n%s", diff)
			}
			if err == nil {
				if diff := cmp.Diff(test.want, *got.Spec.Egress[0].To[0].IPBlock); diff != "" {
					t.Errorf("block differs (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
