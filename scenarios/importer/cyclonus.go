package importer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/gapproof/gapproof/scenarios"
)

// The probe model of cyclonus v0.5.6 (pkg/cli/analyze.go, pkg/connectivity/probe), whose JSON has the names of the Go fields.
type (
	cyclonusModel struct {
		Probes    []cyclonusPort
		Resources struct {
			Namespaces map[string]map[string]string
			Pods       []cyclonusPod
		}
	}
	cyclonusPort struct {
		Protocol string
		Port     intstr.IntOrString
	}
	cyclonusPod struct {
		Namespace, Name string
		Labels          map[string]string
		IP, ServiceIP   string
		Containers      []struct {
			Name     string
			Port     uint16
			Protocol string
			PortName string
		}
	}
)

// The test cases of cyclonus v0.5.6 (pkg/generator).
type (
	cyclonusCase struct {
		Description string
		Tags        map[string]bool
		Steps       []cyclonusStep
	}
	cyclonusStep struct {
		Probe *struct {
			AllAvailable bool
			PortProtocol *cyclonusPort
			Mode         string
		}
		Actions []cyclonusAction
	}
	cyclonusAction struct {
		CreatePolicy, UpdatePolicy       *struct{ Policy *cyclonusPolicy }
		DeletePolicy                     *struct{ Namespace, Name string }
		SetNamespaceLabels               *cyclonusLabels
		SetPodLabels                     *cyclonusLabels
		CreateNamespace, DeleteNamespace *cyclonusLabels
		CreatePod, DeletePod             *cyclonusLabels
		ReadNetworkPolicies              *struct{ Namespaces []string }
	}
	cyclonusLabels struct {
		Namespace, Pod string
		Labels         map[string]string
	}
	// cyclonusPolicy has the status that the API had when the cases were written.
	cyclonusPolicy struct {
		networkingv1.NetworkPolicy `json:",inline"`
		Status                     map[string]json.RawMessage `json:"status"`
	}
)

// Cyclonus reads a probe model (a mapping with Probes and Resources) as one scenario, named as the file is, or test cases (a list of them, or
// one) as a scenario each, in the world that cyclonus makes by default. Neither has intent. The error is a [scenarios.Faults].
func Cyclonus(file string, content []byte) (*Import, error) {
	switch shape(content) {
	case listOfCases:
		var list []cyclonusCase
		lines, err := scenarios.Decode(file, content, &list)
		if err != nil {
			return nil, err
		}
		return importCases(&notes{file: file, lines: lines}, list, func(i int) string { return fmt.Sprintf("[%d].", i) })
	case oneCase:
		var one cyclonusCase
		lines, err := scenarios.Decode(file, content, &one)
		if err != nil {
			return nil, err
		}
		return importCases(&notes{file: file, lines: lines}, []cyclonusCase{one}, func(int) string { return "" })
	default:
		var m cyclonusModel
		lines, err := scenarios.Decode(file, content, &m)
		if err != nil {
			return nil, err
		}
		return importModel(&notes{file: file, lines: lines}, &m)
	}
}

// form is what a file of cyclonus holds.
type form uint8

const (
	model form = iota
	listOfCases
	oneCase
)

var caseKey = regexp.MustCompile(`(?m)^\s*(?:\{\s*)?"?(?:Description|Steps)"?\s*:`)

// shape tells the formats apart by how they begin; what is neither is left to the strictness of decoding.
func shape(content []byte) form {
	text := strings.TrimSpace(string(content))
	switch {
	case strings.HasPrefix(text, "[") || strings.HasPrefix(text, "- "):
		return listOfCases
	case caseKey.MatchString(text):
		return oneCase
	default:
		return model
	}
}

// protocolOf reads a protocol in letters of any size, as cyclonus does; "" when it is none.
func protocolOf(s string) corev1.Protocol {
	switch p := corev1.Protocol(strings.ToUpper(s)); p {
	case corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
		return p
	default:
		return ""
	}
}

func importModel(n *notes, m *cyclonusModel) (*Import, error) {
	base := path.Base(filepath.ToSlash(n.file))
	s := scenario(strings.TrimSuffix(base, path.Ext(base)), "probe model "+base)
	namespaces := map[string]*scenarios.Namespace{}
	for _, name := range slices.Sorted(maps.Keys(m.Resources.Namespaces)) {
		if !isLabel(name) {
			n.fault("Resources.Namespaces["+name+"]", name, "lower-case letters, digits and -", "%q is not a DNS label", name)
		}
		namespaces[name] = &scenarios.Namespace{Name: name, Labels: m.Resources.Namespaces[name]}
	}
	if len(namespaces) == 0 {
		n.fault("Resources.Namespaces", "", "", "is missing")
	}
	listening := listeners{}
	for i, p := range m.Resources.Pods {
		n.pod(fmt.Sprintf("Resources.Pods[%d]", i), p, namespaces, listening)
	}
	n.probes(m.Probes, listening)
	for _, name := range slices.Sorted(maps.Keys(namespaces)) {
		s.World.Namespaces = append(s.World.Namespaces, *namespaces[name])
	}
	return n.result([]*scenarios.Scenario{s})
}

// listeners are the ports that pods listen on, such as "TCP/80", by what a probe may call them: the port itself, or a name such as
// "TCP/serve-80-tcp", which may be another number from pod to pod.
type listeners map[string]map[string]struct{}

func (l listeners) add(call, port string) {
	if l[call] == nil {
		l[call] = map[string]struct{}{}
	}
	l[call][port] = struct{}{}
}

// probes compares what a model probes with what is probed here: every port that a pod listens on.
func (n *notes) probes(list []cyclonusPort, l listeners) {
	probed := map[string]struct{}{}
	for i, p := range list {
		at := fmt.Sprintf("Probes[%d]", i)
		protocol := protocolOf(p.Protocol)
		if protocol == "" {
			n.fault(at+".Protocol", p.Protocol, "TCP, UDP or SCTP", "%q is not a protocol", p.Protocol)
			continue
		}
		call := string(protocol) + "/" + p.Port.String()
		if len(l[call]) == 0 {
			n.omit(at, "probe "+call, "no pod listens there: it is left out")
		}
		maps.Copy(probed, l[call])
	}
	for _, port := range slices.Sorted(maps.Keys(l)) {
		_, isPort := l[port][port]
		if _, is := probed[port]; isPort && !is && len(list) > 0 {
			n.omit("Probes", "port "+port, "is not probed in the file; here every port is that a pod listens on")
		}
	}
}

// pod adds one pod of a model to its namespace, and its ports to listening.
func (n *notes) pod(at string, p cyclonusPod, namespaces map[string]*scenarios.Namespace, listening listeners) {
	ns := namespaces[p.Namespace]
	if ns == nil {
		n.fault(at+".Namespace", p.Namespace, "name it in Resources.Namespaces", "the model has no namespace %q", p.Namespace)
		return
	}
	switch {
	case !isLabel(p.Name):
		n.fault(at+".Name", p.Name, "lower-case letters, digits and -", "%q is not a DNS label", p.Name)
		return
	case slices.ContainsFunc(ns.Pods, func(o scenarios.Pod) bool { return o.Name == p.Name }):
		n.fault(at+".Name", p.Name, "", "pod %s/%s is given twice", p.Namespace, p.Name)
		return
	}
	object := "pod " + p.Namespace + "/" + p.Name
	if p.IP != "" || p.ServiceIP != "" {
		n.omit(at, object, "its addresses are left out: they are the cluster's to give")
	}
	pod := scenarios.Pod{Name: p.Name, Labels: p.Labels, Ports: []scenarios.Port{}}
	for i, c := range p.Containers {
		at := fmt.Sprintf("%s.Containers[%d]", at, i)
		protocol := protocolOf(cmp.Or(c.Protocol, "TCP"))
		if protocol == "" {
			n.fault(at+".Protocol", c.Protocol, "TCP, UDP or SCTP", "%q is not a protocol", c.Protocol)
			continue
		}
		if c.Port == 0 {
			n.fault(at+".Port", "", "a number from 1 to 65535", "is missing")
			continue
		}
		if slices.ContainsFunc(pod.Ports, func(o scenarios.Port) bool { return o.Port == c.Port && o.Protocol == protocol }) {
			n.omit(at, object, "%s is given twice: the second is left out", scenarios.FormatPort(protocol, c.Port))
			continue
		}
		name := c.PortName
		if name != "" && slices.ContainsFunc(pod.Ports, func(o scenarios.Port) bool { return o.Name == name }) {
			n.omit(at, object, "two ports are named %s; the name is kept for the first", name)
			name = ""
		}
		pod.Ports = append(pod.Ports, scenarios.Port{Name: name, Port: c.Port, Protocol: protocol})
		port := scenarios.FormatPort(protocol, c.Port)
		listening.add(port, port)
		if name != "" {
			listening.add(string(protocol)+"/"+name, port)
		}
	}
	ns.Pods = append(ns.Pods, pod)
}

// defaultWorld is the one that cyclonus generate makes without flags: three namespaces of three pods, with two ports of three protocols.
func defaultWorld() scenarios.World {
	var w scenarios.World
	for _, name := range []string{"x", "y", "z"} {
		ns := scenarios.Namespace{Name: name, Labels: map[string]string{"ns": name}}
		for _, name := range []string{"a", "b", "c"} {
			pod := scenarios.Pod{Name: name, Labels: map[string]string{"pod": name}}
			for _, number := range []uint16{80, 81} {
				for _, protocol := range []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP} {
					pod.Ports = append(pod.Ports, scenarios.Port{Name: fmt.Sprintf("serve-%d-%s", number, strings.ToLower(string(protocol))), Port: number, Protocol: protocol})
				}
			}
			ns.Pods = append(ns.Pods, pod)
		}
		w.Namespaces = append(w.Namespaces, ns)
	}
	return w
}

func importCases(n *notes, list []cyclonusCase, prefix func(int) string) (*Import, error) {
	if len(list) == 0 {
		n.fault("", "", "a list of cases, as cyclonus generates", "holds no case")
	}
	var out []*scenarios.Scenario
	names := map[string]struct{}{}
	for i := range list {
		c := newCase(n, prefix(i), &list[i])
		if !c.convert() {
			continue
		}
		c.scenario.Metadata.Name = unique(names, c.scenario.Metadata.Name)
		out = append(out, c.scenario)
	}
	return n.result(out)
}

// unique is a name with a number behind it where it is taken.
func unique(taken map[string]struct{}, name string) string {
	chosen := name
	for i := 2; ; i++ {
		if _, is := taken[chosen]; !is {
			taken[chosen] = struct{}{}
			return chosen
		}
		suffix := fmt.Sprintf("-%d", i)
		chosen = slug(name[:min(len(name), 63-len(suffix))]) + suffix
	}
}

// caseImport is one test case on its way to a scenario.
type caseImport struct {
	*notes
	at       string
	from     *cyclonusCase
	scenario *scenarios.Scenario
	world    scenarios.World
	// labels are those in effect, of namespaces ("x") and pods ("x/a"): cyclonus replaces sets, a scenario names what changes.
	labels   map[string]map[string]string
	written  map[string]struct{} // policies that are inline
	inEffect map[string]struct{}
}

func newCase(n *notes, at string, from *cyclonusCase) *caseImport {
	c := &caseImport{
		notes: n, at: at, from: from, world: defaultWorld(), labels: map[string]map[string]string{},
		written: map[string]struct{}{}, inEffect: map[string]struct{}{},
	}
	for _, ns := range c.world.Namespaces {
		c.labels[ns.Name] = ns.Labels
		for _, p := range ns.Pods {
			c.labels[ns.Name+"/"+p.Name] = p.Labels
		}
	}
	return c
}

// convert tells whether anything is left of the case.
func (c *caseImport) convert() bool {
	title := c.from.Description
	tags := slices.Sorted(maps.Keys(c.from.Tags))
	c.scenario = scenario(cmp.Or(title, strings.Join(tags, "-")), title)
	for _, tag := range tags {
		c.scenario.Metadata.Tags = append(c.scenario.Metadata.Tags, slug(tag)) // one of theirs has a slash
	}
	c.scenario.World = c.world
	for i := range c.from.Steps {
		at := fmt.Sprintf("%sSteps[%d]", c.at, i)
		step := scenarios.Step{Name: fmt.Sprintf("step-%d", i+1)}
		for j := range c.from.Steps[i].Actions {
			if !c.action(fmt.Sprintf("%s.Actions[%d]", at, j), &c.from.Steps[i].Actions[j], &step) {
				c.omit(at, c.object(), "step %d and what follows it are left out with it", i+1)
				return c.finish()
			}
		}
		c.probe(at, &c.from.Steps[i])
		c.scenario.Steps = append(c.scenario.Steps, step)
	}
	return c.finish()
}

func (c *caseImport) object() string { return fmt.Sprintf("case %q", c.from.Description) }

// finish drops what no step that is left applies, and tells whether there is a step.
func (c *caseImport) finish() bool {
	applied := map[string]struct{}{}
	for _, s := range c.scenario.Steps {
		for _, name := range s.Apply {
			applied[name] = struct{}{}
		}
	}
	c.scenario.Policies.Inline = slices.DeleteFunc(c.scenario.Policies.Inline, func(p networkingv1.NetworkPolicy) bool {
		_, is := applied[p.Namespace+"/"+p.Name]
		return !is
	})
	if len(c.scenario.Steps) == 0 {
		c.omit(strings.TrimSuffix(c.at, "."), c.object(), "has no step that is left: it is left out")
		return false
	}
	return true
}

func (c *caseImport) probe(at string, s *cyclonusStep) {
	if s.Probe == nil {
		return
	}
	if p := s.Probe.PortProtocol; p != nil && !s.Probe.AllAvailable {
		c.omit(at+".Probe", c.object(), "probes %s/%s alone; here every port is that a pod listens on", p.Protocol, p.Port.String())
	}
	if s.Probe.Mode != "" && s.Probe.Mode != "pod-ip" {
		c.omit(at+".Probe", c.object(), "goes through a Service for each pod (%s); here attempts go to the pods", s.Probe.Mode)
	}
}

// action puts one action into a step, and tells whether a scenario can say it. Within a step policies are applied before they are replaced
// and deleted; where the case has another order, what is in effect in the end counts.
func (c *caseImport) action(at string, a *cyclonusAction, step *scenarios.Step) bool {
	switch {
	case a.CreatePolicy != nil && a.CreatePolicy.Policy != nil:
		return c.create(at+".CreatePolicy.Policy", a.CreatePolicy.Policy, step)
	case a.UpdatePolicy != nil && a.UpdatePolicy.Policy != nil:
		p := bare(a.UpdatePolicy.Policy)
		name := p.Namespace + "/" + p.Name
		if _, is := c.inEffect[name]; !is {
			c.fault(at+".UpdatePolicy", name, "create it in an earlier action", "policy %s is not in effect here", name)
			return true
		}
		c.addresses(at+".UpdatePolicy.Policy", p)
		step.Replace = append(slices.DeleteFunc(step.Replace, func(o networkingv1.NetworkPolicy) bool { return o.Namespace+"/"+o.Name == name }), p)
	case a.DeletePolicy != nil:
		name := a.DeletePolicy.Namespace + "/" + a.DeletePolicy.Name
		if _, is := c.inEffect[name]; !is {
			c.fault(at+".DeletePolicy", name, "create it in an earlier action", "policy %s is not in effect here", name)
			return true
		}
		delete(c.inEffect, name)
		step.Delete = append(step.Delete, name)
	case a.SetNamespaceLabels != nil:
		l := a.SetNamespaceLabels
		return c.relabel(at+".SetNamespaceLabels", l.Namespace, l.Labels, scenarios.Relabel{Namespace: l.Namespace}, step)
	case a.SetPodLabels != nil:
		l := a.SetPodLabels
		name := l.Namespace + "/" + l.Pod
		return c.relabel(at+".SetPodLabels", name, l.Labels, scenarios.Relabel{Pod: name}, step)
	case a.CreateNamespace != nil, a.DeleteNamespace != nil, a.CreatePod != nil, a.DeletePod != nil:
		c.omit(at, c.object(), "makes or removes a namespace or pod; a world is the same in all steps")
		return false
	case a.ReadNetworkPolicies != nil:
		c.omit(at, c.object(), "reads policies from a cluster; a scenario holds its own")
		return false
	default:
		c.fault(at, "", "", "is no action of cyclonus v0.5.6")
	}
	return true
}

func (c *caseImport) create(at string, from *cyclonusPolicy, step *scenarios.Step) bool {
	p := bare(from)
	name := p.Namespace + "/" + p.Name
	if _, is := c.inEffect[name]; is {
		c.fault(at, name, "update it instead", "policy %s is in effect already", name)
		return true
	}
	c.addresses(at, p)
	c.inEffect[name] = struct{}{}
	deletedHere := slices.Index(step.Delete, name)
	if deletedHere >= 0 { // deleted and made anew in one step: replaced
		step.Delete = slices.Delete(step.Delete, deletedHere, deletedHere+1)
		step.Replace = append(slices.DeleteFunc(step.Replace, func(o networkingv1.NetworkPolicy) bool { return o.Namespace+"/"+o.Name == name }), p)
		return true
	}
	step.Apply = append(step.Apply, name)
	if _, again := c.written[name]; again { // made anew, maybe with another content
		step.Replace = append(step.Replace, p)
		return true
	}
	c.written[name] = struct{}{}
	c.scenario.Policies.Inline = append(c.scenario.Policies.Inline, p)
	return true
}

// bare is what a person would write of a policy.
func bare(p *cyclonusPolicy) networkingv1.NetworkPolicy {
	return networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, Labels: p.Labels},
		Spec:       *p.Spec.DeepCopy(),
	}
}

// addresses tells of ipBlocks, whose addresses are those of the cluster the case was generated for.
func (c *caseImport) addresses(at string, p networkingv1.NetworkPolicy) {
	tell := func(at string, b *networkingv1.IPBlock) {
		if b != nil && !strings.HasSuffix(b.CIDR, "/0") { // every address means the same in any cluster
			c.omit(at+".ipBlock", c.object(), "%s is kept as it is, and means pods of the cluster it was generated for; ${pod:NAMESPACE/POD} names one of the world's", b.CIDR)
		}
	}
	for i, r := range p.Spec.Ingress {
		for j, peer := range r.From {
			tell(fmt.Sprintf("%s.spec.ingress[%d].from[%d]", at, i, j), peer.IPBlock)
		}
	}
	for i, r := range p.Spec.Egress {
		for j, peer := range r.To {
			tell(fmt.Sprintf("%s.spec.egress[%d].to[%d]", at, i, j), peer.IPBlock)
		}
	}
}

// relabel names what changes when the labels of one object become another set.
func (c *caseImport) relabel(at, name string, labels map[string]string, r scenarios.Relabel, step *scenarios.Step) bool {
	old, known := c.labels[name]
	if !known {
		c.omit(at, c.object(), "labels %s, which cyclonus' default world does not have", name)
		return false
	}
	r.Labels = map[string]*string{}
	for k := range old {
		if _, stays := labels[k]; !stays {
			r.Labels[k] = nil
		}
	}
	for k, v := range labels {
		if was, had := old[k]; (!had || was != v) && k != corev1.LabelMetadataName {
			r.Labels[k] = &v
		}
	}
	c.labels[name] = maps.Clone(labels)
	if len(r.Labels) > 0 {
		step.Relabel = append(step.Relabel, r)
	}
	return true
}
