package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/seal"
)

func TestCanariesComeFromARunningPodWithANetworkOfItsOwn(t *testing.T) {
	pod := func(name string, edit func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.0.7"}}
		edit(&p)
		return p
	}
	resolver := pod("coredns", func(p *corev1.Pod) { p.Labels = map[string]string{"k8s-app": "kube-dns"} })
	any := pod("any", func(*corev1.Pod) {})
	for name, tc := range map[string]struct {
		pods []corev1.Pod
		want string
	}{
		"before the resolver itself": {[]corev1.Pod{resolver, any}, "any"},
		"in any order":               {[]corev1.Pod{any, resolver}, "any"},
		"the resolver if need be":    {[]corev1.Pod{resolver}, "coredns"},
		"none that cannot be it": {[]corev1.Pod{
			pod("host", func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
			pod("pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
			pod("new", func(p *corev1.Pod) { p.Status.PodIP = "" }),
			pod("leaving", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }),
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, address, ok := canaryPod(tc.pods)
			if got.Name != tc.want || ok != (tc.want != "") || ok && address != netip.MustParseAddr("10.244.0.7") {
				t.Errorf("got %q at %s, %t; want %q", got.Name, address, ok, tc.want)
			}
		})
	}
}

func TestTheTableSaysWhyAndWhoTriedToLeave(t *testing.T) {
	tried := []seal.Tried{{Source: netip.MustParseAddr("172.30.0.130"), Destination: netip.MustParseAddr("9.9.9.9"), Protocol: seal.TCP, Port: 443, Packets: 4}}
	nameTried(tried, &cluster.Cluster{Nodes: []cluster.Node{{Name: "w", Address: netip.MustParseAddr("172.30.0.130")}}, Seal: &cluster.Seal{}}, newAddresses())
	r := sealReport{Cluster: "lab", Tried: tried, Proof: seal.Proof{
		Verdict: seal.Leaked, Leaks: []string{"a packet left"}, Doubts: []string{"a rule is missing"},
		Facts: seal.Facts{
			Images: 5, Foreign: []seal.NodeImage{{Node: "w"}},
			Canaries: []seal.Canary{{From: "node w", Counter: seal.CanaryUDP, Sent: 2, Counted: 1, Left: 1}},
			Names:    []seal.Name{{From: "node w", Name: "canary.invalid", Asked: netip.MustParseAddrPort("172.30.0.3:53"), Answer: seal.AnswerNoName, Recorded: 1}},
		},
	}}
	var b strings.Builder
	if err := writeSeal(&b, r); err != nil {
		t.Fatal(err)
	}
	want := `LEAKED  cluster lab: 5 images on its nodes, 1 not in the lock
  leak: a packet left
  doubt: a rule is missing

SOURCE  CANARY    SENT  COUNTED  LEFT
node w  udp-ipv4  2     1        1

SOURCE  ASKED          FOR             ANSWER        RECORDED
node w  172.30.0.3:53  canary.invalid  no such name  1

Tried since the last check, and dropped:
  node w or a pod on it (172.30.0.130) → 9.9.9.9:443 TCP, 4 packets
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
