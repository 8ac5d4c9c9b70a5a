package importer

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/gapproof/gapproof/scenarios"
)

// The format of netassert v2 (https://github.com/controlplaneio/netassert/blob/main/internal/data/types.go): a list of tests.
type (
	netassertTest struct {
		Name           string        `json:"name"`
		Type           string        `json:"type"`
		Protocol       string        `json:"protocol"`
		TargetPort     uint16        `json:"targetPort"`
		TimeoutSeconds int           `json:"timeoutSeconds"`
		Attempts       int           `json:"attempts"`
		ExitCode       int           `json:"exitCode"`
		Src            *netassertEnd `json:"src"`
		Dst            *netassertEnd `json:"dst"`
		Pass           bool          `json:"pass"`
		FailureReason  string        `json:"failureReason"`
	}
	netassertEnd struct {
		K8sResource *netassertResource `json:"k8sResource"`
		Host        *struct {
			Name string `json:"name"`
		} `json:"host"`
	}
	netassertResource struct {
		Kind      string `json:"kind"`
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	}
)

// String is "deployment shop/web".
func (r netassertResource) String() string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// NetassertOptions say what is known besides the tests. The zero value is ready for use.
type NetassertOptions struct {
	// Manifests are written into world.from of the scenario, which is then made of the user's own workloads. Default: none, so that the
	// world has one pod for each workload that a test names, without labels.
	Manifests []string
}

// Netassert reads a file of netassert v2 tests as one scenario, named as the file is: what a test wants to succeed is allowed, what it wants to
// fail is denied. file names the scenario and is told in omissions and faults. The error is a [scenarios.Faults].
func Netassert(file string, content []byte, o NetassertOptions) (*Import, error) {
	var tests []netassertTest
	lines, err := scenarios.Decode(file, content, &tests)
	if err != nil {
		return nil, err
	}
	n := netassert{notes: notes{file: file, lines: lines}, options: o, pods: map[netassertResource]string{}, taken: map[string]netassertResource{}, ports: map[string][]scenarios.Port{}, names: map[string]int{}}
	if len(tests) == 0 {
		n.fault("", "", "", "holds no test")
	}
	base := path.Base(filepath.ToSlash(file))
	s := scenario(strings.TrimSuffix(base, path.Ext(base)), "tests of "+base)
	s.Expect = &scenarios.Expect{}
	for i := range tests {
		n.test(fmt.Sprintf("[%d]", i), &tests[i], s.Expect)
	}
	if len(n.faults) == 0 {
		n.world(s)
	}
	if len(s.Expect.Allow)+len(s.Expect.Deny) == 0 {
		s.Expect = nil
		if len(n.faults) == 0 {
			return n.result(nil)
		}
	}
	return n.result([]*scenarios.Scenario{s})
}

type netassert struct {
	notes
	options NetassertOptions
	pods    map[netassertResource]string // → "namespace/pod"
	taken   map[string]netassertResource // the other way round
	ports   map[string][]scenarios.Port  // of the destinations
	names   map[string]int               // of tests → line
	rules   []struct {
		name, from, to, port string
		allow                bool
	} // in order
}

// test adds one test to the intent, with the defaults and rules of netassert.
func (n *netassert) test(at string, t *netassertTest, e *scenarios.Expect) {
	faults := len(n.faults)
	n.checkTest(at, t)
	if len(n.faults) > faults {
		return
	}
	object := "test " + t.Name
	if t.Attempts != 0 || t.TimeoutSeconds != 0 {
		n.omit(at, object, "attempts and timeoutSeconds are left out: every attempt is a single shot, with the limits of the run")
	}
	if t.Pass || t.FailureReason != "" {
		n.omit(at, object, "pass and failureReason are left out: they are results")
	}
	if t.Dst.Host != nil {
		n.omit(at+".dst.host", object, "%s is outside the cluster, and a world holds pods and Services alone: the test is left out", t.Dst.Host.Name)
		return
	}
	from, to := n.pod(at+".src", object, *t.Src.K8sResource), n.pod(at+".dst", object, *t.Dst.K8sResource)
	if from == "" || to == "" {
		return
	}
	protocol := corev1.Protocol(strings.ToUpper(cmp.Or(t.Protocol, "tcp")))
	port := scenarios.FormatPort(protocol, t.TargetPort)
	allow := t.ExitCode == 0
	for _, r := range n.rules {
		if r.from == from && r.to == to && r.port == port {
			if r.allow != allow {
				n.omit(at, object, "wants the opposite of test %s: it is left out", r.name)
			} else {
				n.omit(at, object, "wants the same as test %s: it is left out", r.name)
			}
			return
		}
	}
	n.rules = append(n.rules, struct {
		name, from, to, port string
		allow                bool
	}{t.Name, from, to, port, allow})
	listener := scenarios.Port{Port: t.TargetPort, Protocol: protocol}
	if !slices.Contains(n.ports[to], listener) {
		n.ports[to] = append(n.ports[to], listener)
	}
	rule := scenarios.Rule{From: []string{from}, To: []string{to}, Ports: []string{port}}
	if allow {
		e.Allow = append(e.Allow, rule)
	} else {
		e.Deny = append(e.Deny, rule)
	}
}

func (n *netassert) checkTest(at string, t *netassertTest) {
	if t.Name == "" {
		n.fault(at+".name", "", "", "is missing")
	} else if first, twice := n.names[t.Name]; twice {
		n.fault(at+".name", t.Name, "", "test %s is given already in line %d", t.Name, first)
	} else {
		n.names[t.Name] = n.lines.At(at + ".name").Line
	}
	if t.Type != "k8s" {
		n.fault(at+".type", t.Type, "write type: k8s", "%q is not a type of test", t.Type)
	}
	if !slices.Contains([]string{"", "tcp", "udp"}, t.Protocol) {
		n.fault(at+".protocol", t.Protocol, "tcp or udp", "%q is not a protocol", t.Protocol)
	}
	if t.TargetPort == 0 {
		n.fault(at+".targetPort", "", "a number from 1 to 65535", "is missing")
	}
	switch {
	case t.Src == nil || t.Src.K8sResource == nil:
		n.fault(at+".src", "", "a source is a k8sResource", "is missing")
	case t.Src.Host != nil:
		n.fault(at+".src.host", t.Src.Host.Name, "a source is a k8sResource", "a host is no source")
	default:
		n.checkResource(at+".src.k8sResource", t.Src.K8sResource)
	}
	switch {
	case t.Dst == nil || t.Dst.K8sResource == nil && t.Dst.Host == nil:
		n.fault(at+".dst", "", "a destination is a k8sResource or a host", "is missing")
	case t.Dst.K8sResource != nil && t.Dst.Host != nil:
		n.fault(at+".dst", "", "", "is a k8sResource and a host at once")
	case t.Dst.K8sResource != nil:
		n.checkResource(at+".dst.k8sResource", t.Dst.K8sResource)
	}
}

func (n *netassert) checkResource(at string, r *netassertResource) {
	if !slices.Contains([]string{"deployment", "statefulset", "daemonset", "pod"}, r.Kind) {
		n.fault(at+".kind", r.Kind, "deployment, statefulset, daemonset or pod", "%q is not a kind", r.Kind)
	}
	for _, f := range []struct{ name, value string }{{"name", r.Name}, {"namespace", r.Namespace}} {
		if f.value == "" {
			n.fault(at+"."+f.name, "", "", "is missing")
		}
	}
}

// pod is the pod that stands for a workload, named as World.From names the first of its pods. "" when no scenario can name it.
func (n *netassert) pod(at, object string, r netassertResource) string {
	if name, known := n.pods[r]; known {
		return name
	}
	name := strings.ReplaceAll(r.Name, ".", "-")
	if r.Kind != "pod" {
		name += "-0"
	}
	full := r.Namespace + "/" + name
	switch other, taken := n.taken[full]; {
	case !isLabel(name) || !isLabel(r.Namespace):
		n.omit(at, object, "%s is no name for a pod of a world: the test is left out", r)
		return ""
	case taken:
		n.omit(at, object, "%s would have the pod of %s: the test is left out", r, other)
		return ""
	}
	n.pods[r], n.taken[full] = full, r
	return full
}

// world is that of the manifests, or one pod for each workload.
func (n *netassert) world(s *scenarios.Scenario) {
	if len(n.options.Manifests) > 0 {
		s.World.From = n.options.Manifests
		return
	}
	byNamespace := map[string][]scenarios.Pod{}
	for _, full := range slices.Sorted(maps.Keys(n.taken)) {
		namespace, name, _ := strings.Cut(full, "/")
		ports := n.ports[full]
		if ports == nil {
			ports = []scenarios.Port{}
		}
		byNamespace[namespace] = append(byNamespace[namespace], scenarios.Pod{Name: name, Ports: ports})
	}
	for _, namespace := range slices.Sorted(maps.Keys(byNamespace)) {
		s.World.Namespaces = append(s.World.Namespaces, scenarios.Namespace{Name: namespace, Pods: byNamespace[namespace]})
	}
	if len(n.taken) > 0 {
		n.omit("", "labels of the workloads", "are not in the file, so that no policy selects the pods: name the manifests in world.from")
	}
}
