package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/config"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"

	"github.com/gapproof/gapproof/runner/reach"
)

const (
	// replicas is how many pods each StatefulSet of the tests has.
	replicas = 2
	// firstHostPort and hostPorts are the ports that the tests' hostNetwork pods take by default.
	firstHostPort, hostPorts = 34345, 8
	// limit bounds a stream, and how long a test tries again: an answer never changes by waiting.
	limit = 10 * time.Second
)

// cluster is the tests' objects.
type cluster struct {
	client client.Client
	pokes  atomic.Int64
}

// TestConformance runs every test, experimental features included.
func TestConformance(t *testing.T) {
	s := runtime.NewScheme()
	for _, install := range []func(*runtime.Scheme) error{scheme.AddToScheme, npav1alpha2.Install} {
		if err := install(s); err != nil {
			t.Fatal(err)
		}
	}
	c := &cluster{client: fake.NewClientBuilder().WithScheme(s).Build()}
	server := httptest.NewServer(c)
	defer server.Close()
	restConfig := &rest.Config{Host: server.URL}
	clientset, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		t.Fatal(err)
	}
	conformance := suite.New(suite.Options{
		Client: c.client, ClientSet: clientset, KubeConfig: *restConfig, EnableAllSupportedFeatures: true,
		TimeoutConfig: config.TimeoutConfig{CreateTimeout: limit, DeleteTimeout: limit, GetTimeout: limit, ManifestFetchTimeout: limit, RequestTimeout: limit, PokeTimeout: limit, PokeInterval: time.Millisecond},
	})
	conformance.Applier.FS = conformance.FS
	for port := firstHostPort; port < firstHostPort+hostPorts; port++ {
		conformance.HostNetworkPorts = append(conformance.HostNetworkPorts, port)
	}
	conformance.Applier.HostNetworkPorts = conformance.HostNetworkPorts
	conformance.Applier.MustApplyWithCleanup(t, c.client, conformance.TimeoutConfig, conformance.BaseManifests, false)
	if err := c.makePods(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, test := range tests.ConformanceTests {
		t.Run(test.ShortName, func(t *testing.T) {
			before := c.pokes.Load()
			test.Run(t, conformance)
			if c.pokes.Load() == before {
				t.Error("the test asked for no connection")
			}
		})
	}
	t.Logf("%d tests, %d connections asked for", len(tests.ConformanceTests), c.pokes.Load())
}

// makePods does the work of the StatefulSet controller and the kubelet.
func (c *cluster) makePods(ctx context.Context) error {
	var sets appsv1.StatefulSetList
	if err := c.client.List(ctx, &sets); err != nil {
		return fmt.Errorf("listing statefulSets: %w", err)
	}
	for i := range replicas {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i), Labels: map[string]string{corev1.LabelOSStable: "linux"}}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("172.18.0.%d", i+2)}}
		if err := c.client.Create(ctx, node); err != nil {
			return fmt.Errorf("creating node %s: %w", node.Name, err)
		}
		for n, set := range sets.Items {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: set.Namespace, Name: fmt.Sprintf("%s-%d", set.Name, i), Labels: set.Spec.Template.Labels}, Spec: set.Spec.Template.Spec}
			pod.Spec.NodeName = node.Name
			pod.Status.PodIP = fmt.Sprintf("10.244.%d.%d", i, n+2)
			if pod.Spec.HostNetwork {
				pod.Status.PodIP = node.Status.Addresses[0].Address
			}
			if err := c.client.Create(ctx, pod); err != nil {
				return fmt.Errorf("creating pod %s/%s: %w", pod.Namespace, pod.Name, err)
			}
		}
	}
	return nil
}

// ServeHTTP answers POST /api/v1/namespaces/NAMESPACE/pods/POD/exec?command=….
func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const wantParts = 7
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != wantParts || parts[6] != "exec" {
		http.NotFound(w, r)
		return
	}
	c.pokes.Add(1)
	remotecommand.ServeExec(w, r, executor{c, parts[3]}, parts[5], "", "", r.URL.Query()["command"],
		&remotecommand.Options{Stdout: true, Stderr: true}, limit, limit, remotecommand.SupportedStreamingProtocols)
}

// executor answers the connect command of agnhost in a pod of the namespace.
type executor struct {
	cluster   *cluster
	namespace string
}

// ExecInContainer runs "/agnhost connect --timeout=… --protocol=… address:port": silence for a connection, TIMEOUT for none.
func (e executor) ExecInContainer(ctx context.Context, pod, _, _ string, cmd []string, _ io.Reader, _, stderr io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	const wantWords = 5
	if len(cmd) != wantWords {
		return fmt.Errorf("executing %q: it is no connect command", cmd)
	}
	to, err := netip.ParseAddrPort(cmd[4])
	if err != nil {
		return fmt.Errorf("executing %q: %w", cmd, err)
	}
	engine, err := e.cluster.compile(ctx)
	if err != nil {
		return err
	}
	d, err := engine.Decide(reach.Query{
		Source: reach.Endpoint{Namespace: e.namespace, Pod: pod}, Destination: reach.Endpoint{Addr: to.Addr()},
		Protocol: corev1.Protocol(strings.ToUpper(strings.TrimPrefix(cmd[3], "--protocol="))), Port: to.Port(),
	})
	if err != nil {
		return err
	}
	if d.Verdict == reach.Allow {
		return nil
	}
	if _, err := io.WriteString(stderr, "TIMEOUT\n"); err != nil {
		return err
	}
	return errors.New("the connection timed out")
}

// compile makes the engine of the objects as they are now.
func (c *cluster) compile(ctx context.Context) (*reach.Engine, error) {
	var (
		namespaces corev1.NamespaceList
		pods       corev1.PodList
		nodes      corev1.NodeList
		policies   networkingv1.NetworkPolicyList
		ofCluster  npav1alpha2.ClusterNetworkPolicyList
	)
	for _, list := range []client.ObjectList{&namespaces, &pods, &nodes, &policies, &ofCluster} {
		if err := c.client.List(ctx, list); err != nil {
			return nil, fmt.Errorf("listing %T: %w", list, err)
		}
	}
	var w reach.World
	for _, n := range namespaces.Items {
		w.Namespaces = append(w.Namespaces, reach.Namespace{Name: n.Name, Labels: n.Labels})
	}
	for _, n := range nodes.Items {
		w.Nodes = append(w.Nodes, reach.Node{Name: n.Name, Labels: n.Labels, IPs: []netip.Addr{netip.MustParseAddr(n.Status.Addresses[0].Address)}})
	}
	for _, p := range pods.Items {
		pod := reach.Pod{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels, Node: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork, IPs: []netip.Addr{netip.MustParseAddr(p.Status.PodIP)}}
		for _, container := range p.Spec.Containers {
			for _, port := range container.Ports {
				pod.Ports = append(pod.Ports, reach.Port{Name: port.Name, Protocol: port.Protocol, Port: uint16(port.ContainerPort)})
			}
		}
		w.Pods = append(w.Pods, pod)
	}
	namespaced := make([]reach.Policy, len(policies.Items))
	for i, p := range policies.Items {
		namespaced[i].Spec = p
	}
	tiered := make([]reach.ClusterPolicy, len(ofCluster.Items))
	for i, p := range ofCluster.Items {
		tiered[i].Spec = p
	}
	return reach.Compile(w, namespaced, tiered...)
}
