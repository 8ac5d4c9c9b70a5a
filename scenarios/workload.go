package scenarios

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// maxReplicas is how many pods stand for a workload, however many replicas it asks for. Pods of one template differ in nothing that a policy
// sees but their address and node, so two of them show what more would: from one to the other, on one node or across.
const maxReplicas = 2

// Omission is something that a manifest says and a world cannot.
type Omission struct {
	// File and Line are where the object is written; Line is 0 when a kustomization renders to it.
	File string
	Line int
	// Object is the object, such as "Service shop/web".
	Object string
	// Reason says what is left out, and why or what stands for it.
	Reason string
}

// String is "file:line: object: reason".
func (o Omission) String() string {
	return Place{File: o.File, Line: o.Line}.String() + ": " + o.Object + ": " + o.Reason
}

// worldMaker gathers a world from manifests.
type worldMaker struct {
	register
	reader     *manifestReader
	namespaces map[string]*Namespace
	services   []Service
	pending    []*manifest // Services, which need all pods
	places     map[string]Place
}

// worldFrom derives a world from manifests, in whatever order they come, and the places of its parts. Its namespaces are in name order, pods
// and Services as they come.
func worldFrom(r *manifestReader, defaultNamespace string, list []*manifest) (World, map[string]Place) {
	w := worldMaker{register: newRegister(r.sink, defaultNamespace), reader: r, namespaces: map[string]*Namespace{}, places: map[string]Place{}}
	for _, m := range list {
		w.object(m)
	}
	for _, m := range w.pending {
		w.service(m)
	}
	var out World
	for _, name := range slices.Sorted(maps.Keys(w.namespaces)) {
		out.Namespaces = append(out.Namespaces, *w.namespaces[name])
	}
	out.Services = w.services
	return out, w.places
}

func (w *worldMaker) omit(m *manifest, format string, args ...any) { w.reader.omit(m, format, args...) }

func (w *worldMaker) object(m *manifest) {
	switch m.role() {
	case aNamespace:
		w.namespaceObject(m)
	case aService:
		if w.enter(m) {
			w.pending = append(w.pending, m)
		}
	case aWorkload:
		if w.enter(m) {
			w.workload(m)
		}
	case aPolicy:
		// a policy is not part of a world, but it shows that its namespace is
		if ns := cmp.Or(m.namespace, w.defaultNamespace); ns != "" && !slices.Contains(reserved(), ns) {
			w.namespace(ns)
		}
	}
}

func (w *worldMaker) namespace(name string) *Namespace {
	if w.namespaces[name] == nil {
		w.namespaces[name] = &Namespace{Name: name}
	}
	return w.namespaces[name]
}

// enter tells whether a namespaced object is to be read, and fills in its namespace.
func (w *worldMaker) enter(m *manifest) bool {
	if !w.register.enter(m) {
		return false
	}
	if slices.Contains(reserved(), m.namespace) {
		w.omit(m, "namespace %s belongs to the cluster, so nothing is put there", m.namespace)
		return false
	}
	return true
}

func (w *worldMaker) namespaceObject(m *manifest) {
	if slices.Contains(reserved(), m.name) {
		w.omit(m, "belongs to the cluster, so its labels are left as they are")
		return
	}
	labels, doc := w.reader.namespaceLabels(m)
	if w.enterClusterWide(m, doc) && doc.dnsLabel("metadata.name", m.name) {
		w.namespace(m.name).Labels = labels
		w.places[m.name] = m.place()
	}
}

// workload adds the pods of one object.
func (w *worldMaker) workload(m *manifest) {
	o := w.reader.workload(m)
	if o.pod.Spec.HostNetwork {
		w.omit(m, "runs in the network of its node, which no world has: it is left out")
		w.namespace(m.namespace)
		return
	}
	ports := w.ports(m, o)
	for i := range w.replicas(m, o.spec) {
		ordinal := i
		if m.kind == "StatefulSet" {
			ordinal += int(o.spec.Ordinals.Start)
		}
		w.pod(m, o.document, o.spec, o.pod.Metadata.Labels, ordinal, ports)
	}
}

// replicas is how many pods stand for the workload.
func (w *worldMaker) replicas(m *manifest, spec workloadSpec) int {
	wanted := 1
	switch m.kind {
	case "Pod":
		return 1
	case "DaemonSet":
		w.omit(m, "has a pod on every node; %d pods stand for them, wherever they run", maxReplicas)
		return maxReplicas
	case "Job", "CronJob":
		if spec.Parallelism != nil {
			wanted = int(*spec.Parallelism)
		}
	default:
		if spec.Replicas != nil {
			wanted = int(*spec.Replicas)
		}
	}
	switch {
	case wanted > maxReplicas:
		w.omit(m, "asks for %d pods; %d stand for them", wanted, maxReplicas)
	case wanted <= 0:
		w.omit(m, "asks for no pods and has none")
		w.namespace(m.namespace)
	}
	return max(0, min(wanted, maxReplicas))
}

// pod adds the pod of one ordinal, with the labels that the workload's controller would add, as far as they are known beforehand.
func (w *worldMaker) pod(m *manifest, doc *document, spec workloadSpec, labels map[string]string, ordinal int, ports []Port) {
	ns := w.namespace(m.namespace)
	name := m.name
	if m.kind != "Pod" {
		name += "-" + strconv.Itoa(ordinal)
	}
	all := maps.Clone(labels)
	add := func(key, value string) {
		if all == nil {
			all = map[string]string{}
		}
		if len(validation.IsValidLabelValue(value)) == 0 {
			all[key] = value
		}
	}
	switch m.kind {
	case "StatefulSet":
		add("statefulset.kubernetes.io/pod-name", name)
		add("apps.kubernetes.io/pod-index", strconv.Itoa(ordinal))
	case "Job":
		add("batch.kubernetes.io/job-name", m.name)
		add("job-name", m.name)
		if spec.CompletionMode == "Indexed" {
			add("batch.kubernetes.io/job-completion-index", strconv.Itoa(ordinal))
		}
	}
	chosen, renamed := w.podName(ns, m, name)
	if renamed {
		w.omit(m, "its pod %s is named %s", name, chosen)
	}
	if len(validation.IsDNS1123Label(chosen)) > 0 {
		doc.fault("metadata.name", m.name, "lower-case letters, digits and -", "%q is not a name for pods", m.name)
		return
	}
	ns.Pods = append(ns.Pods, Pod{Name: chosen, Labels: all, Ports: slices.Clone(ports)})
	w.places[ns.Name+"/"+chosen] = m.place()
}

// podName makes a DNS label that no pod of the namespace has yet; names of the API may be longer, have dots, and be shared by workloads of
// different kinds.
func (w *worldMaker) podName(ns *Namespace, m *manifest, name string) (chosen string, renamed bool) {
	taken := func(n string) bool {
		return slices.ContainsFunc(ns.Pods, func(p Pod) bool { return p.Name == n })
	}
	fit := func(stem, suffix string) string {
		stem = strings.ReplaceAll(stem, ".", "-")
		if room := validation.DNS1123LabelMaxLength - len(suffix); len(stem) > room {
			stem = strings.TrimRight(stem[:room], "-")
		}
		return stem + suffix
	}
	suffix := strings.TrimPrefix(name, m.name)
	chosen = fit(m.name, suffix)
	for i := 0; taken(chosen); i++ {
		more := "-" + strings.ToLower(m.kind)
		if i > 0 {
			more += "-" + strconv.Itoa(i)
		}
		chosen = fit(m.name, more+suffix)
	}
	return chosen, chosen != name
}

// ports are the listeners of a pod's containers. A pod without any listens on nothing.
func (w *worldMaker) ports(m *manifest, o workloadObject) []Port {
	out := []Port{}
	for _, l := range o.listeners {
		port := l.Port
		if l.hostPort != 0 {
			w.omit(m, "port %d of its node, which leads to %s, is left out", l.hostPort, FormatPort(port.Protocol, port.Port))
		}
		if j := slices.IndexFunc(out, func(o Port) bool { return o.Port == port.Port && o.Protocol == port.Protocol }); j >= 0 {
			out[j].Name = cmp.Or(out[j].Name, port.Name)
			continue
		}
		if port.Name != "" && slices.ContainsFunc(out, func(o Port) bool { return o.Name == port.Name }) {
			w.omit(m, "two ports are named %s; the name is kept for the first", port.Name)
			port.Name = ""
		}
		out = append(out, port)
	}
	return out
}

// service adds a Service whose backends are all there.
func (w *worldMaker) service(m *manifest) {
	o, ok := w.reader.service(m)
	if !ok {
		return
	}
	ns := w.namespace(m.namespace)
	s := Service{Name: m.name, Namespace: m.namespace, Selector: o.Spec.Selector}
	backends := ns.behind(s.Selector)
	switch {
	case o.Spec.Type == string(corev1.ServiceTypeExternalName):
		w.omit(m, "is a name for something outside (type ExternalName): it is left out")
		return
	case o.Spec.ClusterIP == corev1.ClusterIPNone:
		w.omit(m, "is headless (clusterIP None), so that its name leads to the pods themselves: it is left out")
		return
	case len(s.Selector) == 0:
		w.omit(m, "has no selector, so that its endpoints are not known: it is left out")
		return
	case len(backends) == 0:
		w.omit(m, "selects no pod: it is left out")
		return
	}
	if t := o.Spec.Type; t == string(corev1.ServiceTypeNodePort) || t == string(corev1.ServiceTypeLoadBalancer) {
		w.omit(m, "is reached from outside (type %s); it is kept with its cluster address alone", t)
	}
	if len(o.Spec.ExternalIPs) > 0 {
		w.omit(m, "its external addresses are left out")
	}
	for _, p := range o.Spec.Ports {
		if port, ok := w.servicePort(m, p, backends); ok {
			s.Ports = append(s.Ports, port)
		}
	}
	if len(s.Ports) == 0 {
		w.omit(m, "has no port that is left: it is left out")
		return
	}
	w.services = append(w.services, s)
}

// behind are the pods with all of the labels.
func (n *Namespace) behind(selector map[string]string) []*Pod {
	var out []*Pod
	for i := range n.Pods {
		if len(selector) > 0 && hasLabels(n.Pods[i].Labels, selector) {
			out = append(out, &n.Pods[i])
		}
	}
	return out
}

// servicePort resolves one port. A number that the backends do not declare becomes one of theirs, since a declaration is only for the reader
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#ports); a name must be known to every backend.
func (w *worldMaker) servicePort(m *manifest, p servicePort, backends []*Pod) (ServicePort, bool) {
	out := ServicePort{Port: p.Port, TargetPort: p.TargetPort, Protocol: p.Protocol}
	name := ""
	if p.TargetPort.Type == intstr.String {
		name = p.TargetPort.StrVal
	}
	if name == "" {
		number := uint16(out.TargetPort.IntVal)
		for _, pod := range backends {
			if !slices.ContainsFunc(pod.Ports, func(l Port) bool { return l.Port == number && l.Protocol == out.Protocol }) {
				pod.Ports = append(pod.Ports, Port{Port: number, Protocol: out.Protocol})
			}
		}
		return out, true
	}
	for _, pod := range backends {
		i := slices.IndexFunc(pod.Ports, func(l Port) bool { return l.Name == name && l.Protocol == out.Protocol })
		if i < 0 {
			w.omit(m, "its port %s is left out: pod %s has no %s port named %s", FormatPort(out.Protocol, out.Port), pod.Name, out.Protocol, name)
			return out, false
		}
	}
	return out, true
}
