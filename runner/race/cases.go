package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/generator"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/scenarios"
)

// The world of cyclonus' defaults, without SCTP.
const (
	// raceTag selects the cases that follow the Kubernetes e2e tests.
	raceTag = generator.TagUpstreamE2E
	// raceExclude leaves 20 steps of the tag's 23. What it leaves out denies all egress, and with it name lookups, which the timeout of
	// cyclonus' agnhost does not bound: that one step takes it minutes.
	raceExclude = generator.TagConflict + "," + generator.TagDeletePolicy
	// podLabel is the label that tells cyclonus' pods apart, and by which its Services select their one pod.
	podLabel = "pod"
	// namespaceLabel tells its namespaces apart.
	namespaceLabel = "ns"
	worldName      = "three-by-three"
	fileSuffix     = ".yaml"
)

func worldNamespaces() []string { return []string{"x", "y", "z"} }
func worldPods() []string       { return []string{"a", "b", "c"} }
func worldPorts() []uint16      { return []uint16{80, 81} }
func worldProtocols() []corev1.Protocol {
	return []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}
}
func portName(p uint16, protocol corev1.Protocol) string {
	return fmt.Sprintf("serve-%d-%s", p, strings.ToLower(string(protocol)))
}

// Case is one of cyclonus' test cases and the scenario that says the same.
type Case struct {
	// Title is cyclonus' description, which its output repeats.
	Title    string
	Scenario *scenarios.Scenario
	Steps    []CaseStep
}

// CaseStep is what comparing a step needs to know.
type CaseStep struct {
	// Ports are what cyclonus attempts in this step, such as "TCP/80", sorted.
	Ports []string
	// Unserved are the pods ("namespace/pod") whose labels no longer match the selector of their Service.
	Unserved []string
}

// cases converts every case of the tag, writes the scenarios and their world as files into dir, and loads them from there: what is run can be
// read and repeated with gapproof run. Nothing else in dir is read or touched. Cases with a tag in exclude are left out.
func cases(dir string, exclude []string) ([]Case, error) {
	if err := generator.ValidateTags(exclude); err != nil {
		return nil, fmt.Errorf("%w: -exclude: %w", errUsage, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("writing scenarios: %w", err)
	}
	world := worldFile()
	if err := writeYAML(filepath.Join(dir, worldName+fileSuffix), world); err != nil {
		return nil, err
	}
	// The pod address matters to ipBlock cases, of which this tag has none.
	all := generator.NewTestCaseGenerator(true, "192.0.2.1", worldNamespaces(), []string{raceTag}, exclude).GenerateTestCases()
	converted := make([]Case, len(all))
	paths := make([]string, len(all))
	for i, tc := range all {
		c, err := convert(i+1, tc, world.Namespaces)
		if err != nil {
			return nil, fmt.Errorf("converting case %d %q: %w", i+1, tc.Description, err)
		}
		converted[i] = c
		paths[i] = filepath.Join(dir, c.Scenario.Metadata.Name+fileSuffix)
		if err := writeYAML(paths[i], c.Scenario); err != nil {
			return nil, err
		}
	}
	loaded, err := scenarios.Load(paths...)
	if err != nil {
		return nil, fmt.Errorf("loading the converted cases: %w", err)
	}
	for i := range converted {
		converted[i].Scenario = loaded[i]
	}
	return converted, nil
}

func writeYAML(path string, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("writing a scenario: %w", err)
	}
	return nil
}

// worldFile is the world that cyclonus makes by default.
func worldFile() scenarios.WorldFile {
	w := scenarios.WorldFile{
		TypeMeta: metav1.TypeMeta{APIVersion: scenarios.APIVersion, Kind: scenarios.WorldKind},
		Metadata: scenarios.WorldMetadata{Name: worldName, Title: "cyclonus' namespaces, pods, labels and named ports"},
	}
	for _, n := range worldNamespaces() {
		ns := scenarios.Namespace{Name: n, Labels: map[string]string{namespaceLabel: n}}
		for _, p := range worldPods() {
			pod := scenarios.Pod{Name: p, Labels: map[string]string{podLabel: p}}
			for _, number := range worldPorts() {
				for _, protocol := range worldProtocols() {
					pod.Ports = append(pod.Ports, scenarios.Port{Name: portName(number, protocol), Port: number, Protocol: protocol})
				}
			}
			ns.Pods = append(ns.Pods, pod)
		}
		w.Namespaces = append(w.Namespaces, ns)
	}
	return w
}

// labelState follows the labels of namespaces ("x") and pods ("x/a") through a case: cyclonus replaces whole label sets, a scenario names
// what changes.
type labelState map[string]map[string]string

func newLabelState(namespaces []scenarios.Namespace) labelState {
	s := labelState{}
	for _, ns := range namespaces {
		s[ns.Name] = ns.Labels
		for _, p := range ns.Pods {
			s[ns.Name+"/"+p.Name] = p.Labels
		}
	}
	return s
}

// set replaces the labels of one object and returns what changes: values, or nil for labels that go.
func (s labelState) set(name string, labels map[string]string) (map[string]*string, error) {
	old, known := s[name]
	if !known {
		return nil, fmt.Errorf("setting labels: the world has no %q", name)
	}
	change := map[string]*string{}
	for k := range old {
		if _, stays := labels[k]; !stays {
			change[k] = nil
		}
	}
	for k, v := range labels {
		if was, had := old[k]; !had || was != v {
			change[k] = &v
		}
	}
	s[name] = maps.Clone(labels)
	return change, nil
}

// unserved are the pods that their own Service does not select any more, sorted. The selector is written once and never follows the pod.
func (s labelState) unserved() []string {
	var names []string
	for name, labels := range s {
		if _, pod, isPod := strings.Cut(name, "/"); isPod && labels[podLabel] != pod {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// convert turns one test case into a scenario; number makes its name unique and keeps the cases in order.
func convert(number int, tc *generator.TestCase, namespaces []scenarios.Namespace) (Case, error) {
	c := Case{Title: tc.Description, Scenario: &scenarios.Scenario{
		TypeMeta: metav1.TypeMeta{APIVersion: scenarios.APIVersion, Kind: scenarios.Kind},
		Metadata: scenarios.Metadata{Name: slug(number, tc.Description), Title: tc.Description, Tags: []string{raceTag}},
		World:    scenarios.World{File: worldName + fileSuffix},
	}}
	labels := newLabelState(namespaces)
	for i, from := range tc.Steps {
		step := scenarios.Step{Name: fmt.Sprintf("step-%d", i+1)}
		for j, action := range from.Actions {
			if err := c.add(&step, action, labels); err != nil {
				return Case{}, fmt.Errorf("step %d, action %d: %w", i+1, j+1, err)
			}
		}
		ports, err := attemptedPorts(from.Probe)
		if err != nil {
			return Case{}, fmt.Errorf("step %d: %w", i+1, err)
		}
		c.Scenario.Steps = append(c.Scenario.Steps, step)
		c.Steps = append(c.Steps, CaseStep{Ports: ports, Unserved: labels.unserved()})
	}
	return c, nil
}

// add puts one action into a step. The order of actions within a step may change with it; the state that they lead to does not.
func (c *Case) add(step *scenarios.Step, action *generator.Action, labels labelState) error {
	switch {
	case action.CreatePolicy != nil:
		p := policy(action.CreatePolicy.Policy)
		c.Scenario.Policies.Inline = append(c.Scenario.Policies.Inline, p)
		step.Apply = append(step.Apply, p.Namespace+"/"+p.Name)
	case action.UpdatePolicy != nil:
		step.Replace = append(step.Replace, policy(action.UpdatePolicy.Policy))
	case action.DeletePolicy != nil:
		step.Delete = append(step.Delete, action.DeletePolicy.Namespace+"/"+action.DeletePolicy.Name)
	case action.SetNamespaceLabels != nil:
		change, err := labels.set(action.SetNamespaceLabels.Namespace, action.SetNamespaceLabels.Labels)
		if err != nil {
			return err
		}
		step.Relabel = append(step.Relabel, scenarios.Relabel{Namespace: action.SetNamespaceLabels.Namespace, Labels: change})
	case action.SetPodLabels != nil:
		name := action.SetPodLabels.Namespace + "/" + action.SetPodLabels.Pod
		change, err := labels.set(name, action.SetPodLabels.Labels)
		if err != nil {
			return err
		}
		step.Relabel = append(step.Relabel, scenarios.Relabel{Pod: name, Labels: change})
	default:
		return fmt.Errorf("converting action %+v: a scenario cannot say this", *action)
	}
	return nil
}

// policy is a copy that cyclonus' next step cannot change.
func policy(p *networkingv1.NetworkPolicy) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, Spec: *p.Spec.DeepCopy()}
}

// attemptedPorts are the ports of a probe: all that the world listens on, or the one that the probe names.
func attemptedPorts(probe *generator.ProbeConfig) ([]string, error) {
	var ports []string
	for _, number := range worldPorts() {
		for _, protocol := range worldProtocols() {
			if only := probe.PortProtocol; !probe.AllAvailable && only != nil &&
				(only.Protocol != protocol || only.Port.String() != portName(number, protocol) && only.Port.IntValue() != int(number)) {
				continue
			}
			ports = append(ports, scenarios.FormatPort(protocol, number))
		}
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("probing %+v: no pod listens there", probe.PortProtocol)
	}
	slices.Sort(ports)
	return ports, nil
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// slug is a scenario name: the number, then what of the title fits into a DNS label.
func slug(number int, title string) string {
	title = strings.Trim(notInName.ReplaceAllString(strings.ToLower(title), "-"), "-")
	name := fmt.Sprintf("%02d-%s", number, title)
	if len(name) > validation.DNS1123LabelMaxLength {
		name = name[:validation.DNS1123LabelMaxLength]
	}
	return strings.Trim(name, "-")
}
