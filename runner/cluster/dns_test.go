package cluster

import (
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
