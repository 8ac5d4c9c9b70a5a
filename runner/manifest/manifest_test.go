package manifest_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

func read(t testing.TB, content string) *manifest.Set {
	t.Helper()
	set, err := manifest.Read([]manifest.File{{Name: "f.yaml", Content: []byte(content)}}, manifest.Options{Namespace: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestEveryKindThatMakesPodsBecomesOnePod(t *testing.T) {
	for _, kind := range []string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"} {
		t.Run(kind, func(t *testing.T) {
			template := "template: {metadata: {labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}}"
			if kind == "CronJob" {
				template = "jobTemplate: {spec: {" + template + "}}"
			}
			set := read(t, "apiVersion: v1\nkind: "+kind+"\nmetadata: {name: web}\nspec: {"+template+"}\n")
			want := reach.Pod{
				Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web"},
				IPs:   []netip.Addr{netip.MustParseAddr("198.18.0.1")},
				Ports: []reach.Port{{Name: "http", Protocol: "TCP", Port: 80}},
			}
			if diff := cmp.Diff(want, set.World.Pods[0], cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("pod (-want +got):\n%s", diff)
			}
			if set.Pods != manifest.SomePods || set.Addresses != manifest.Invented {
				t.Errorf("pods %d, addresses %d: want some, invented", set.Pods, set.Addresses)
			}
			if got := set.Places["shop/web"]; got != (manifest.Place{File: "f.yaml", Line: 1}) {
				t.Errorf("place: want f.yaml:1, got %s", got)
			}
		})
	}
}

func TestAPodListensThroughItsContainersAndSidecarsAlone(t *testing.T) {
	always, onFailure := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure
	p := manifest.PodOf("x", "a", nil, corev1.PodSpec{
		HostNetwork: true, NodeName: "n",
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{ContainerPort: 53, Protocol: "UDP"}, {ContainerPort: 99999}}}},
		InitContainers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{ContainerPort: 1}}},
			{Ports: []corev1.ContainerPort{{ContainerPort: 3}}, RestartPolicy: &onFailure},
			{Ports: []corev1.ContainerPort{{ContainerPort: 2}}, RestartPolicy: &always},
		},
	}, corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}, {IP: "nonsense"}}})
	want := reach.Pod{
		Namespace: "x", Name: "a", Node: "n", HostNetwork: true,
		IPs:   []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
		Ports: []reach.Port{{Protocol: "UDP", Port: 53}, {Protocol: "TCP", Port: 2}},
	}
	if diff := cmp.Diff(want, p, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("pod (-want +got):\n%s", diff)
	}
}

const policies = `# a list, and a document
apiVersion: v1
kind: List
items:
- apiVersion: networking.k8s.io/v1
  kind: NetworkPolicy
  metadata: {name: in-a-list, namespace: x}
  spec: {podSelector: {}}
- {apiVersion: v1, kind: Secret, metadata: {name: s}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: alone}
spec:
  podSelector:
    matchLabels:
      app.kubernetes.io/name: web
  ingress:
  - from:
    - namespaceSelector: {}
      podSelector: {}
    ports:
    - port: 80
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: of-another-group}
spec: {selector: all()}
`

func TestEveryFieldOfAPolicyHasItsLine(t *testing.T) {
	set := read(t, policies)
	var names []string
	for i := range set.Policies {
		names = append(names, set.Policies[i].Name())
	}
	if diff := cmp.Diff([]string{"x/in-a-list", "shop/alone"}, names); diff != "" {
		t.Fatalf("policies (-want +got):\n%s", diff)
	}
	for field, want := range map[string]int{
		"spec.podSelector": 15,
		"spec.podSelector.matchLabels.app.kubernetes.io/name": 17,
		"spec.ingress[0]":                     19,
		"spec.ingress[0].from[0].podSelector": 21,
		"spec.ingress[0].ports[0].endPort":    23, // not written: that of what it would lie within
		"spec.egress[0].to[0].ipBlock.cidr":   14,
		"nonsense":                            11,
	} {
		if got := set.Find("shop/alone").Place(field); got != (manifest.Place{File: "f.yaml", Line: want}) {
			t.Errorf("%s: want line %d, got %s", field, want, got)
		}
	}
	if got := set.Find("x/in-a-list").Place("spec.podSelector").Line; got != 8 {
		t.Errorf("policy in a list: want line 8, got %d", got)
	}
	lines := set.Find("shop/alone").Lines
	if lines.Written("spec.egress") || !lines.Written("spec.ingress[0].ports") {
		t.Error("egress counts as written, or ports does not")
	}
}

func TestLinesOfAPolicyInsideAScenarioAreFoundByItsFirstLine(t *testing.T) {
	content := "policies:\n  inline:\n  - metadata: {name: a}\n    spec:\n      podSelector: {}\n  - metadata: {name: b}\n    spec: {podSelector: {}}\n"
	if got := manifest.LinesAt([]byte(content), 3, "a").Of("spec.podSelector"); got != 5 {
		t.Errorf("want line 5, got %d", got)
	}
	if got := manifest.LinesAt([]byte(content), 3, "b"); got != nil {
		t.Errorf("want nothing for a name that does not begin there, got %v", got)
	}
}

func TestAliasesThatMultiplyAreBounded(t *testing.T) {
	var b strings.Builder
	b.WriteString("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	const levels = 9 // a billion values
	for i := 1; i <= levels; i++ {
		alias := fmt.Sprintf("*a%d, ", i-1)
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(alias, 10), ", "))
	}
	_, err := manifest.Read([]manifest.File{{Name: "f.yaml", Content: []byte(b.String())}}, manifest.Options{})
	if err == nil {
		t.Error("want an error for a file whose aliases multiply")
	}
}

func TestFilesThatCannotBeReadSayWhereAndWhy(t *testing.T) {
	const head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\n"
	for name, tc := range map[string]struct{ content, want string }{
		"broken YAML":                    {"a: b\n  c: d\n", "f.yaml:2: reading YAML: mapping values are not allowed in this context"},
		"an unknown field":               {head + "spec:\n  ingress:\n  - form: []\n", "f.yaml:6: spec.ingress[0].form: unknown field"},
		"a field in the wrong case":      {head + "spec:\n  podselector: {}\n", "f.yaml:5: spec.podselector: unknown field"},
		"a policy without a name":        {"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n", "f.yaml:1: metadata.name: is missing"},
		"a policy written twice":         {head + "---\n" + head, "f.yaml:5: metadata.name: NetworkPolicy default/a is written already at f.yaml:1"},
		"a version of long ago":          {"apiVersion: networking.k8s.io/v1beta1\nkind: NetworkPolicy\n", `f.yaml:1: apiVersion: NetworkPolicy is of networking.k8s.io/v1, not of "networking.k8s.io/v1beta1"`},
		"a policy without an apiVersion": {"kind: NetworkPolicy\n", `f.yaml:1: apiVersion: NetworkPolicy is of networking.k8s.io/v1, not of ""`},
		"a pod written twice":            {"apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "f.yaml:9: metadata.name: Pod default/a is written already at f.yaml:5"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Read([]manifest.File{{Name: "f.yaml", Content: []byte(tc.content)}}, manifest.Options{})
			got := ""
			if err != nil {
				got = err.Error()
				var faults manifest.Faults
				if !errors.As(err, &faults) {
					t.Errorf("want Faults, got %T", err)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAServiceIsReachedOnItsPodsPort(t *testing.T) {
	set := read(t, `apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}, {name: admin, port: 9000}, {port: 81, targetPort: none}]
`)
	s := set.Services[0]
	pod := reach.Pod{Namespace: "shop", Labels: map[string]string{"app": "web", "x": "y"}, Ports: []reach.Port{{Name: "http", Protocol: "TCP", Port: 8080}}}
	if !s.Selects(&pod) {
		t.Error("the Service does not select its pod")
	}
	if s.Selects(&reach.Pod{Namespace: "other", Labels: pod.Labels}) {
		t.Error("the Service selects a pod of another namespace")
	}
	for i, want := range []uint16{8080, 9000, 0} {
		if got, ok := s.Ports[i].On(&pod); got != want || ok != (want > 0) {
			t.Errorf("port %d: want %d, got %d, %t", i, want, got, ok)
		}
	}
}

func TestKubeSystemIsAssumedOnlyWhereTheFilesHoldNone(t *testing.T) {
	if set := read(t, ""); len(set.World.Pods) != 1 || set.World.Pods[0].Labels["k8s-app"] != "kube-dns" {
		t.Errorf("want the resolver's pod, got %+v", set.World.Pods)
	}
	if set := read(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+metav1.NamespaceSystem+"}\n"); len(set.World.Pods) != 0 {
		t.Errorf("want no pod beside a kube-system of the files, got %+v", set.World.Pods)
	}
}

func FuzzReadNeverPanics(f *testing.F) {
	f.Add([]byte(policies))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("kind: List\nitems: [*x]\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		set, err := manifest.Read([]manifest.File{{Name: "f.yaml", Content: content}}, manifest.Options{})
		if err != nil {
			return
		}
		for i := range set.Policies {
			if set.Policies[i].Place("spec").Line < 1 {
				t.Errorf("policy %s has no line", set.Policies[i].Name())
			}
		}
	})
}
