package manifest_test

import (
	"net/netip"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

func read(t testing.TB, content string) *manifest.Set {
	t.Helper()
	set, err := tryRead(content, "shop")
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func tryRead(content, namespace string) (*manifest.Set, error) {
	files := fstest.MapFS{"f.yaml": {Data: []byte(content)}}
	manifests, err := scenarios.ReadManifestsFS(files, []string{"f.yaml"}, scenarios.ManifestOptions{DefaultNamespace: namespace})
	if err != nil {
		return nil, err
	}
	objects, err := manifests.Objects(nil)
	if err != nil {
		return nil, err
	}
	return manifest.Of(objects), nil
}

func TestEveryKindThatMakesPodsBecomesOnePod(t *testing.T) {
	for kind, version := range map[string]string{
		"Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "ReplicaSet": "apps/v1", "ReplicationController": "v1",
		"Job": "batch/v1", "CronJob": "batch/v1",
	} {
		t.Run(kind, func(t *testing.T) {
			template := "template: {metadata: {labels: {app: web}}, spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}}"
			if kind == "CronJob" {
				template = "jobTemplate: {spec: {" + template + "}}"
			}
			set := read(t, "apiVersion: "+version+"\nkind: "+kind+"\nmetadata: {name: web}\nspec: {"+template+"}\n")
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
			if got := set.Places["shop/web"]; got != (manifest.Place{File: "f.yaml", Line: 1, Column: 1}) {
				t.Errorf("place: want line 1, column 1 of f.yaml, got %+v", got)
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
