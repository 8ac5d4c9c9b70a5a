package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/seal"
)

func podAt(name, address string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: name},
		Status:     corev1.PodStatus{PodIP: address, PodIPs: []corev1.PodIP{{IP: address}, {IP: "fd00::" + name}}},
	}
}

func TestWhoeverTriedIsNamedByTheAddress(t *testing.T) {
	pods := newAddresses()
	pods.add(podAt("a", "10.244.0.7"))
	pods.add(podAt("a", "10.244.0.7")) // seen again
	for _, name := range []string{"b", "c"} {
		pods.add(podAt(name, "10.244.0.8")) // one after the other
	}
	for _, name := range []string{"a", "b", "c", "d"} {
		pods.add(podAt(name, "10.244.0.9"))
	}
	host := podAt("f", "172.30.0.130")
	host.Spec.HostNetwork = true
	pods.add(host)
	c := &cluster.Cluster{
		Mirror: netip.MustParseAddrPort("172.30.0.2:5000"), Seal: &cluster.Seal{Sink: netip.MustParseAddrPort("172.30.0.3:53")},
		Nodes: []cluster.Node{{Name: "w", Address: netip.MustParseAddr("172.30.0.130"), Address6: netip.MustParseAddr("fc00::130")}, {Name: "v4"}},
	}
	for address, want := range map[string]string{
		"10.244.0.7": "pod x/a", "fd00::a": "pod x/a", "10.244.0.8": "pod x/b or x/c", "10.244.0.9": "pod x/a or 3 others",
		"172.30.0.130": "node w or a pod on it", "fc00::130": "node w or a pod on it", "172.30.0.2": "the mirror", "172.30.0.3": "the sink", "172.30.0.77": "",
	} {
		tried := []seal.Tried{{Source: netip.MustParseAddr(address)}}
		nameTried(tried, c, pods)
		if tried[0].From != want {
			t.Errorf("%s: got %q, want %q", address, tried[0].From, want)
		}
	}
}

func TestPodsThatAreGoneAtTheEndAreNamed(t *testing.T) {
	client := fake.NewClientset(podAt("before", "10.244.0.5"))
	pods := newAddresses()
	stop, err := pods.follow(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	wait := func(address, want string) {
		t.Helper()
		_, err := kube.Poll(t.Context(), want+" at "+address, 5*time.Millisecond, 10*time.Second, func(context.Context) (bool, string, error) {
			got := pods.name(netip.MustParseAddr(address))
			return got == want, "it is " + got, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wait("10.244.0.5", "pod x/before") // the watch has begun
	api := client.CoreV1().Pods("x")
	if _, err := api.Create(t.Context(), podAt("a", ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Update(t.Context(), podAt("a", "10.244.0.6"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wait("10.244.0.6", "pod x/a")
	if err := api.Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	stop()
	wait("10.244.0.6", "pod x/a")
}

func TestWhatARunCannotProveIsRefusedBeforeItOrTold(t *testing.T) {
	open := &place{lab: &cluster.Cluster{Name: "dev"}}
	old := &place{lab: &cluster.Cluster{Name: "dev", Seal: &cluster.Seal{Dir: t.TempDir()}}}
	closed := &place{lab: &cluster.Cluster{Name: "dev", Seal: &cluster.Seal{Dir: t.TempDir()}, LockSHA256: strings.Repeat("ab", 32)}}
	elsewhere := &place{}
	forbidden := func() error { return errors.New("this needs root") }
	for _, tt := range []struct {
		name    string
		at      *place
		mode    sealMode
		signs   *signer
		refused string // part of the usage error
		told    bool   // the run tells of a seal
	}{
		{"not sealed", open, sealAuto, nil, "", false},
		{"elsewhere", elsewhere, sealAuto, nil, "", false},
		{"sealed and off", closed, sealOff, nil, "", false},
		{"not sealed and required", open, sealRequire, nil, "--seal require: cluster dev was brought up without --sealed", false},
		{"not sealed and to be signed", open, sealAuto, &signer{}, "--statement: cluster dev was brought up without --sealed", false},
		{"elsewhere and required", elsewhere, sealRequire, nil, "--seal require: only a lab cluster", false},
		{"no right", closed, sealAuto, nil, "", true},
		{"no right and required", closed, sealRequire, nil, "--seal require: this needs root", false},
		{"no right and to be signed", closed, sealAuto, &signer{}, "--statement: this needs root", false},
		{"made before locks were recorded", old, sealAuto, &signer{}, "did not record the digest of its lock", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var errs bytes.Buffer
			a := &app{streams: streams{&bytes.Buffer{}, &errs}}
			s, err := a.beginSeal(t.Context(), tt.at, tt.mode, tt.signs, forbidden)
			defer s.close()
			var usage usageError
			if (tt.refused != "") != errors.As(err, &usage) || err != nil && !strings.Contains(err.Error(), tt.refused) {
				t.Fatalf("got %v, want a usage error that says %q", err, tt.refused)
			}
			r := s.prove(t.Context(), a)
			if (r != nil) != tt.told {
				t.Fatalf("got %v, want a proof: %t", r, tt.told)
			}
			if r != nil && (r.Verdict != seal.NotProven || len(r.Doubts) != 1 || !strings.Contains(errs.String(), "--seal off")) {
				t.Errorf("got %s, %q, and on stderr %s", r.Verdict, r.Doubts, errs.String())
			}
		})
	}
}

func TestAnInterruptedRunDoesNotWaitForItsSeal(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errInterrupted)
	s := &sealing{cluster: &cluster.Cluster{Name: "dev", Seal: &cluster.Seal{Dir: t.TempDir()}}}
	r := s.prove(ctx, &app{})
	if r.Verdict != seal.NotProven || !strings.Contains(strings.Join(r.Doubts, ""), "not checked: the run ended before: interrupted") {
		t.Errorf("got %s, %q", r.Verdict, r.Doubts)
	}
}

// TestWhatCannotBeAskedIsADoubtBesideWhatCan has a cluster of which only the gate's description is there.
func TestWhatCannotBeAskedIsADoubtBesideWhatCan(t *testing.T) {
	dir := t.TempDir()
	s := &sealing{pods: newAddresses(), cluster: &cluster.Cluster{
		Name: "dev", Kubeconfig: filepath.Join(dir, "none"), Seal: &cluster.Seal{Dir: dir, NamesLog: filepath.Join(dir, "names.jsonl")},
	}}
	a := &app{streams: streams{&bytes.Buffer{}, &bytes.Buffer{}}}
	if r := s.prove(t.Context(), a); r.Verdict != seal.NotProven || r.Facts.Unchecked == "" {
		t.Errorf("without a description of the gate: got %s, %+v", r.Verdict, r.Facts)
	}
	if err := writeJSON(filepath.Join(dir, specFile), proven(t, asFound).Spec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, lastFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := s.prove(t.Context(), a)
	if doubts := strings.Join(r.Doubts, "\n"); r.Verdict != seal.NotProven || r.Facts.Unchecked != "" || !strings.Contains(doubts, "reading the kubeconfig of cluster dev") ||
		!strings.Contains(doubts, "names.jsonl") || !strings.Contains(doubts, "last.json: unexpected end of JSON input") {
		t.Errorf("got %s, %s", r.Verdict, doubts)
	}
}
