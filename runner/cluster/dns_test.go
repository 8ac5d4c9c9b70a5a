package cluster

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWithoutPlugin(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"kubeadm's Corefile": {
			".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    prometheus :9153\n    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n    cache 30 {\n       disable success cluster.local\n    }\n    loop\n}\n",
			".:53 {\n    errors\n    health {\n       lameduck 5s\n    }\n    prometheus :9153\n    cache 30 {\n       disable success cluster.local\n    }\n    loop\n}\n",
		},
		"one line without a block":    {".:53 {\n  forward . 8.8.8.8\n  errors\n}\n", ".:53 {\n  errors\n}\n"},
		"in every server block":       {"a:53 {\n forward . x\n}\nb:53 {\n forward . y {\n  z {\n  }\n }\n}\n", "a:53 {\n}\nb:53 {\n}\n"},
		"a word that only begins so":  {".:53 {\n  forwarding\n}\n", ".:53 {\n  forwarding\n}\n"},
		"none, and no newline at end": {".:53 {\n}", ".:53 {\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, withoutPlugin(tc.in, "forward")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestForwardingGoesToTheSinkAlone(t *testing.T) {
	sink := netip.MustParseAddrPort("172.30.0.3:53")
	for name, tc := range map[string]struct{ in, want string }{
		"kubeadm's Corefile": {
			".:53 {\n    errors\n    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n    loop\n}\n",
			".:53 {\n    errors\n    forward . 172.30.0.3:53 {\n       max_concurrent 1000\n    }\n    loop\n}\n",
		},
		"several resolvers without a block": {".:53 {\n  forward . 8.8.8.8 9.9.9.9\n}\n", ".:53 {\n  forward . 172.30.0.3:53\n}\n"},
		"in every server block":             {"a:53 {\n forward a x\n}\nb:53 {\n forward b y\n}\n", "a:53 {\n forward a 172.30.0.3:53\n}\nb:53 {\n forward b 172.30.0.3:53\n}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := forwardingTo(tc.in, sink)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got, err := forwardingTo(".:53 {\n  errors\n}\n", sink); err == nil {
		t.Errorf("a Corefile without forwarding gave %q, want an error", got)
	}
}
