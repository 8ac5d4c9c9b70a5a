package scenarios

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checker validates one scenario whose world has been read. Nothing it finds keeps it from looking further.
type checker struct {
	*document
	scenario *Scenario
	policies []located
	cluster  []locatedCluster
	// replacing has the located form of each step's Replace and ReplaceCluster.
	replacing []gathered
	// listening has, for every destination a rule may name, the ports attempts go to. Filled by check.
	listening map[string][]string
	pods      []string // "namespace/pod", in the world's order
	resolves  bool     // some Service asks for lookups
	// services are the destinations that rules name with "service:", in the world's order, and backends the pods behind each.
	services []string
	backends map[string][]string
	nodes    []string // destinations that rules name with "node:"; backends has the pods that answer there
	outside  []string // ends that rules name with "outside:", in the world's order
	silent   []string // those of them that attempt nothing
}

func (c *checker) check() {
	c.survey()
	c.tags()
	known := c.checkPolicies()
	c.checkSteps(known)
	if c.scenario.Expect != nil {
		c.checkExpect("expect", c.scenario.Expect)
	}
	for i, s := range c.scenario.Steps {
		if s.Expect != nil && s.Expect != c.scenario.Expect {
			c.checkExpect(item("steps", i)+".expect", s.Expect)
		}
	}
}

// survey lists what rules may speak about.
func (c *checker) survey() {
	c.listening, c.backends = map[string][]string{}, map[string][]string{}
	for _, ns := range c.scenario.World.Namespaces {
		for _, pod := range ns.Pods {
			name := ns.Name + "/" + pod.Name
			c.pods = append(c.pods, name)
			for _, p := range pod.Ports {
				c.listening[name] = append(c.listening[name], FormatPort(p.Protocol, p.Port))
			}
			if c.scenario.World.Reach.ICMP {
				c.listening[name] = append(c.listening[name], ICMP)
			}
		}
	}
	for _, s := range c.scenario.World.Services {
		if s.Headless() {
			c.resolves = true
			continue // it has no address to attempt
		}
		name := servicePrefix + s.Namespace + "/" + s.Name
		c.services = append(c.services, name)
		c.backends[name] = c.scenario.World.Backends(s)
		c.resolves = c.resolves || s.Lookup
		for _, p := range s.Ports {
			c.listening[name] = append(c.listening[name], FormatPort(p.Protocol, p.Port))
		}
	}
	c.surveyNodes()
	c.surveyOutside()
	if c.resolves {
		c.listening[lookups] = []string{lookupPort}
	}
	if c.scenario.World.Reach.APIServer {
		c.listening[APIServer] = []string{apiServerPort}
	}
}

func (c *checker) surveyNodes() {
	w := c.scenario.World
	for _, place := range w.Reach.Nodes {
		name := nodePrefix + place
		for _, pod := range w.NodePods(place) {
			p, _ := w.Pod(pod)
			c.backends[name] = append(c.backends[name], pod)
			for _, l := range p.Ports {
				c.listening[name] = append(c.listening[name], FormatPort(l.Protocol, l.Port))
			}
		}
		if len(c.listening[name]) > 0 {
			c.nodes = append(c.nodes, name)
		}
		for _, s := range w.Services {
			if !s.OnNodes() {
				continue
			}
			at := name + ":" + s.Namespace + "/" + s.Name
			c.nodes = append(c.nodes, at)
			c.backends[at] = w.Backends(s)
			for _, p := range s.Ports {
				c.listening[at] = append(c.listening[at], FormatPort(p.Protocol, p.Port))
			}
		}
	}
}

func (c *checker) surveyOutside() {
	for _, host := range c.scenario.World.Reach.Outside {
		name := Outside(host.Name)
		c.outside = append(c.outside, name)
		if len(host.Addresses) > 0 {
			c.silent = append(c.silent, name)
		}
		for _, p := range host.Ports {
			c.listening[name] = append(c.listening[name], FormatPort(p.Protocol, p.Port))
		}
		if c.scenario.World.Reach.ICMP {
			c.listening[name] = append(c.listening[name], ICMP)
		}
	}
}

func (c *checker) loopsBack(source, destination string) bool {
	return source == destination || slices.Contains(c.backends[destination], source)
}

func (c *checker) isPod(name string) bool { return slices.Contains(c.pods, name) }

// isHost tells whether a placeholder may name it: a pod or a host outside.
func (c *checker) isHost(name string) bool { return c.isPod(name) || slices.Contains(c.outside, name) }

func (c *checker) isNamespace(name string) bool {
	return slices.ContainsFunc(c.scenario.World.Namespaces, func(ns Namespace) bool { return ns.Name == name })
}

// checkName holds a file's metadata.name to the file's own name.
func (d *document) checkName(file, at, name string) {
	switch stem := fileStem(file); {
	case name == "":
		d.fault(at, nil, "write name: "+stem, "is missing")
	case len(validation.IsDNS1123Label(name)) > 0:
		d.fault(at, name, "lower-case letters, digits and -", "%q is not a DNS label", name)
	case name != stem:
		d.fault(at, name, "name the file "+name+".yaml or write name: "+stem, "%s is not the name of the file, which is %s", name, stem)
	}
}

var (
	tagForm     = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)
	controlForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*/[A-Za-z0-9][A-Za-z0-9.()-]*$`)
	nodeForm    = regexp.MustCompile(`^[a-z]$`)
)

func (c *checker) tags() {
	for i, t := range c.scenario.Metadata.Tags {
		if !tagForm.MatchString(t) {
			c.fault(item("metadata.tags", i), t, "lower-case letters, digits, dots and -", "%q is not a tag", t)
		}
	}
	for i, t := range c.scenario.Metadata.Controls {
		if !controlForm.MatchString(t) {
			c.fault(item("metadata.controls", i), t, "such as pci-dss-4.0/1.3.1", "%q is not REGULATION/NUMBER", t)
		}
	}
}

// checkPolicies validates every policy and returns the names that steps may use, in order.
func (c *checker) checkPolicies() []string {
	var known []string
	for _, p := range c.policies {
		name := c.checkPolicy(p)
		if slices.Contains(known, name) {
			p.document.fault(p.path.Child("metadata", "name").String(), name, "", "policy %s is given twice", name)
			continue
		}
		known = append(known, name)
	}
	return append(known, c.checkClusterPolicies()...)
}

// checkPolicy validates one policy and returns its "namespace/name".
func (c *checker) checkPolicy(p located) string {
	p.document.fieldErrors(validatePolicy(&p.Spec, p.path, c.isHost))
	if ns := p.Spec.Namespace; ns != "" && !c.isNamespace(ns) {
		p.document.fault(p.path.Child("metadata", "namespace").String(), ns, "", "the world has no namespace %s", ns)
	}
	return p.Spec.Namespace + "/" + p.Spec.Name
}

// checkSteps follows which policies are in effect, as far as names go.
func (c *checker) checkSteps(known []string) {
	inEffect := map[string]struct{}{}
	applied := map[string]struct{}{}
	names := map[string]struct{}{}
	pods := newPopulation(c.scenario.World)
	for i, s := range c.scenario.Steps {
		at := item("steps", i)
		if s.Name == "" {
			c.fault(at+".name", nil, "", "is missing")
		} else if _, twice := names[s.Name]; twice {
			c.fault(at+".name", s.Name, "", "step %s is given twice", s.Name)
		}
		names[s.Name] = struct{}{}
		for j, name := range s.Apply {
			for _, n := range c.named(item(at+".apply", j), name, known) {
				inEffect[n], applied[n] = struct{}{}, struct{}{}
			}
		}
		if i < len(c.replacing) {
			for _, p := range c.replacing[i].network {
				c.checkReplaces(c.checkPolicy(p), p.path, inEffect)
			}
			for _, p := range c.replacing[i].cluster {
				c.checkReplaces(c.checkClusterPolicy(p), p.path, inEffect)
			}
		}
		for j, name := range s.Delete {
			c.checkDelete(item(at+".delete", j), name, known, inEffect)
		}
		for j, r := range s.Relabel {
			c.checkRelabel(item(at+".relabel", j), r)
		}
		c.checkPodChanges(at, s, pods)
	}
	for i, p := range c.policies {
		name := p.Spec.Namespace + "/" + p.Spec.Name
		if _, is := applied[name]; !is && slices.Index(known, name) == i {
			p.document.fault(p.path.Child("metadata", "name").String(), name, "name it in apply of a step", "no step applies policy %s", name)
		}
	}
	for _, p := range c.cluster {
		if _, is := applied[p.Spec.Name]; !is {
			p.document.fault(p.path.Child("metadata", "name").String(), p.Spec.Name, "name it in apply of a step", "no step applies policy %s", p.Spec.Name)
		}
	}
}

func (c *checker) checkReplaces(name string, at *field.Path, inEffect map[string]struct{}) {
	if _, is := inEffect[name]; !is {
		c.fault(at.Child("metadata", "name").String(), name, "apply it in an earlier step", "policy %s is not in effect here, so that nothing can be replaced", name)
	}
}

// named resolves a policy name of a step. An unknown one is a fault and stands for nothing.
func (c *checker) named(at, name string, known []string) []string {
	if name == every {
		return known
	}
	if !slices.Contains(known, name) {
		hint := "policies are named namespace/name, a " + clusterPolicyKind + " by its name alone"
		if near := nearestName(name, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		c.fault(at, name, hint, "the scenario has no policy %s", name)
		return nil
	}
	return []string{name}
}

func (c *checker) checkDelete(at, name string, known []string, inEffect map[string]struct{}) {
	if name == every {
		clear(inEffect)
		return
	}
	for _, n := range c.named(at, name, known) {
		if _, is := inEffect[n]; !is {
			c.fault(at, n, "apply it in an earlier step", "policy %s is not in effect here", n)
		}
		delete(inEffect, n)
	}
}

func (c *checker) checkRelabel(at string, r Relabel) {
	switch {
	case (r.Pod == "") == (r.Namespace == ""):
		c.fault(at, nil, "pod: namespace/name, or namespace: name", "wants exactly one of pod and namespace")
	case r.Pod != "" && !c.isPod(r.Pod):
		c.fault(at+".pod", r.Pod, c.nearPod(r.Pod), "the world has no pod %s", r.Pod)
	case r.Namespace != "" && !c.isNamespace(r.Namespace):
		c.fault(at+".namespace", r.Namespace, "", "the world has no namespace %s", r.Namespace)
	}
	if len(r.Labels) == 0 {
		c.fault(at+".labels", nil, "a null value removes a label", "is missing")
	}
	labels := map[string]string{}
	for k, v := range r.Labels {
		labels[k] = ""
		if v != nil {
			labels[k] = *v
		}
	}
	c.labels(at+".labels", labels)
	if _, owned := labels[corev1.LabelMetadataName]; owned && r.Namespace != "" {
		c.fault(entry(at+".labels", corev1.LabelMetadataName), nil, "", "belongs to the API server")
	}
}

func (c *checker) nearPod(name string) string {
	if near := nearestName(name, c.pods); near != "" {
		return "did you mean " + near + "?"
	}
	return "pods are named namespace/pod"
}

func (d *document) labels(at string, labels map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		one := map[string]string{key: labels[key]}
		for _, e := range metav1validation.ValidateLabels(one, field.NewPath(at)) {
			d.fault(entry(at, key), e.BadValue, "", "%s: %s", quoted(e.BadValue), withoutRegexp(e.Detail))
		}
	}
}

// resolved is a rule with its patterns expanded over the world.
type resolved struct {
	at   string
	rule *Rule
	// from and to are in the world's order.
	from, to []string
}

func (c *checker) checkExpect(at string, e *Expect) {
	allow := c.resolve(at+".allow", e.Allow)
	deny := c.resolve(at+".deny", e.Deny)
	for _, a := range allow {
		for _, d := range deny {
			c.contradiction(a, d)
		}
	}
}

func (c *checker) resolve(at string, rules []Rule) []resolved {
	out := make([]resolved, len(rules))
	for i := range rules {
		r := &rules[i]
		one := resolved{at: item(at, i), rule: r}
		if len(r.From) == 0 {
			c.fault(one.at+".from", nil, `"*" is every pod`, "is missing")
		}
		for j, p := range r.From {
			if at := item(one.at+".from", j); strings.HasPrefix(p, servicePrefix) || strings.HasPrefix(p, nodePrefix) || p == lookups || p == APIServer {
				c.fault(at, p, "a source is a pod, or a host outside", "%s is no source", p)
			} else {
				one.from = append(one.from, c.sources(at, p)...)
			}
		}
		if len(r.To) == 0 {
			c.fault(one.at+".to", nil, `"*" is every pod`, "is missing")
		}
		for j, p := range r.To {
			one.to = append(one.to, c.expand(item(one.at+".to", j), p)...)
		}
		c.checkPorts(one)
		c.families(one.at+".families", r.Families)
		for j, f := range r.Families {
			if !slices.Contains(c.scenario.World.Reach.Families, f) {
				c.fault(item(one.at+".families", j), f, "name it in world.reach.families", "the world has no attempts over %s", f)
			}
		}
		out[i] = one
	}
	return out
}

// sources lists the ends that a pattern of a source stands for.
func (c *checker) sources(at, pattern string) []string {
	all := c.expand(at, pattern)
	out := slices.DeleteFunc(slices.Clone(all), func(end string) bool { return slices.Contains(c.silent, end) })
	if len(all) > 0 && len(out) == 0 {
		c.fault(at, pattern, "a host outside with addresses of its own is a destination alone", "%s attempts nothing", pattern)
	}
	return out
}

// expand lists the destinations that a pattern stands for; a pattern that stands for nothing is a fault.
func (c *checker) expand(at, pattern string) []string {
	switch {
	case pattern == lookups:
		if !c.resolves {
			c.fault(at, pattern, "write lookup: true at a Service of the world", "no Service of the world is looked up")
		}
		return []string{lookups}
	case pattern == APIServer:
		if !c.scenario.World.Reach.APIServer {
			c.fault(at, pattern, "set world.reach.apiServer to true", "the world has no attempts at the API server")
		}
		return []string{APIServer}
	case strings.HasPrefix(pattern, servicePrefix):
		out := covered(pattern, c.services)
		if len(out) == 0 {
			c.fault(at, pattern, "Services are named service:namespace/name", "the world has no Service %s", strings.TrimPrefix(pattern, servicePrefix))
		}
		return out
	}
	if strings.HasPrefix(pattern, nodePrefix) {
		out := covered(pattern, c.nodes)
		if len(out) == 0 {
			c.fault(at, pattern, "nodes are named in world.reach.nodes", "nothing of the world is attempted at %s", pattern)
		}
		return out
	}
	if strings.HasPrefix(pattern, outsidePrefix) {
		out := covered(pattern, c.outside)
		if len(out) == 0 {
			c.fault(at, pattern, "hosts outside are named in world.reach.outside", "the world has no host %s", pattern)
		}
		return out
	}
	out := covered(pattern, c.pods)
	if len(out) == 0 {
		hint := c.nearPod(pattern)
		if namespace, isWild := strings.CutSuffix(pattern, "/"+every); isWild && c.isNamespace(namespace) {
			hint = "namespace " + namespace + " has no pods"
		}
		c.fault(at, pattern, hint, "the world has no pod %s", pattern)
	}
	return out
}

// covered are the ends that a pattern names, in their order.
func covered(pattern string, ends []string) []string {
	var out []string
	for _, e := range ends {
		if covers(pattern, e) {
			out = append(out, e)
		}
	}
	return out
}

func (c *checker) checkPorts(r resolved) {
	for i, p := range r.rule.Ports {
		at := item(r.at+".ports", i)
		if p == ICMP && !c.scenario.World.Reach.ICMP {
			c.fault(at, p, "set world.reach.icmp to true", "the world has no ICMP attempts")
			continue
		}
		if _, _, err := ParsePort(p); err != nil && p != ICMP {
			c.fault(at, p, "PROTOCOL/NUMBER, with TCP, UDP or SCTP", "%q is not a protocol and port", p)
			continue
		}
		listened := slices.ContainsFunc(r.to, func(to string) bool { return slices.Contains(c.listening[to], p) })
		if !listened && len(r.to) > 0 {
			c.fault(at, p, "add the port to the pod or Service in the world", "no destination of this entry listens on %s", p)
		}
	}
}

// contradiction records the first attempt that both rules name.
func (c *checker) contradiction(allow, deny resolved) {
	families := c.scenario.World.Reach.Families
	if len(families) == 0 {
		families = []corev1.IPFamily{""}
	}
	for _, to := range allow.to {
		if !slices.Contains(deny.to, to) {
			continue
		}
		for _, port := range c.listening[to] {
			if !allow.rule.namesPort(to, port) || !deny.rule.namesPort(to, port) {
				continue
			}
			for _, from := range allow.from {
				if IsOutside(from) && IsOutside(to) {
					continue // never planned
				}
				of := func(f corev1.IPFamily) Attempt {
					return Attempt{Source: from, Destination: to, Port: port, LoopsBack: c.loopsBack(from, to), Family: f}
				}
				if slices.ContainsFunc(families, func(f corev1.IPFamily) bool { return allow.rule.Names(of(f)) && deny.rule.Names(of(f)) }) {
					c.fault(deny.at, nil, "", "contradicts %s: both name %s to %s %s", allow.at, from, to, port)
					return
				}
			}
		}
	}
}
