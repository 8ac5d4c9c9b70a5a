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
	where := o.File
	if o.Line > 0 {
		where += ":" + strconv.Itoa(o.Line)
	}
	return where + ": " + o.Object + ": " + o.Reason
}

// The parts of workloads that a world is made from. They are decoded as partial documents.
type (
	objectMeta struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	}
	containerPort struct {
		Name          string          `json:"name"`
		ContainerPort uint16          `json:"containerPort"`
		Protocol      corev1.Protocol `json:"protocol"`
		HostPort      int32           `json:"hostPort"`
	}
	container struct {
		Ports         []containerPort `json:"ports"`
		RestartPolicy string          `json:"restartPolicy"`
	}
	podSpec struct {
		HostNetwork    bool        `json:"hostNetwork"`
		Containers     []container `json:"containers"`
		InitContainers []container `json:"initContainers"`
	}
	podTemplate struct {
		Metadata objectMeta `json:"metadata"`
		Spec     podSpec    `json:"spec"`
	}
	workloadSpec struct {
		Replicas       *int32      `json:"replicas"`
		Parallelism    *int32      `json:"parallelism"`
		CompletionMode string      `json:"completionMode"`
		Template       podTemplate `json:"template"`
		Ordinals       struct {
			Start int32 `json:"start"`
		} `json:"ordinals"`
		JobTemplate struct {
			Spec struct {
				Parallelism    *int32      `json:"parallelism"`
				CompletionMode string      `json:"completionMode"`
				Template       podTemplate `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	}
	workload struct {
		Metadata objectMeta   `json:"metadata"`
		Spec     workloadSpec `json:"spec"`
	}
	servicePort struct {
		Name       string             `json:"name"`
		Port       uint16             `json:"port"`
		TargetPort intstr.IntOrString `json:"targetPort"`
		Protocol   corev1.Protocol    `json:"protocol"`
		NodePort   int32              `json:"nodePort"`
	}
	service struct {
		Metadata objectMeta `json:"metadata"`
		Spec     struct {
			Type        string            `json:"type"`
			ClusterIP   string            `json:"clusterIP"`
			Selector    map[string]string `json:"selector"`
			Ports       []servicePort     `json:"ports"`
			ExternalIPs []string          `json:"externalIPs"`
		} `json:"spec"`
	}
)

// worldMaker gathers a world from manifests.
type worldMaker struct {
	reader           *manifestReader
	sink             *sink
	defaultNamespace string
	namespaces       map[string]*Namespace
	services         []Service
	given            map[string]*manifest // kind, namespace and name → first
	pending          []*manifest          // Services, which need all pods
}

// worldFrom derives a world from manifests, in whatever order they come. Its namespaces are in name order, pods and Services as they come.
func worldFrom(r *manifestReader, defaultNamespace string, list []*manifest) World {
	w := worldMaker{reader: r, sink: r.sink, defaultNamespace: defaultNamespace, namespaces: map[string]*Namespace{}, given: map[string]*manifest{}}
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
	return out
}

func (w *worldMaker) omit(m *manifest, format string, args ...any) { w.reader.omit(m, format, args...) }

func (w *worldMaker) object(m *manifest) {
	group, _, versioned := strings.Cut(m.apiVersion, "/")
	if !versioned {
		group = ""
	}
	switch group + "/" + m.kind {
	case "/Namespace":
		w.namespaceObject(m)
	case "/Service":
		if w.enter(m) {
			w.pending = append(w.pending, m)
		}
	case "/Pod", "/ReplicationController", "apps/Deployment", "apps/ReplicaSet", "apps/StatefulSet", "apps/DaemonSet", "batch/Job", "batch/CronJob":
		if w.enter(m) {
			w.workload(m)
		}
	case "networking.k8s.io/" + policyKind:
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
	m.taken = true
	m.namespace = cmp.Or(m.namespace, w.defaultNamespace)
	doc := m.document(w.sink)
	if m.name == "" {
		hint := ""
		if value(m.node, "metadata") != nil && value(value(m.node, "metadata"), "generateName") != nil {
			hint = "generateName gives no name to write intent about"
		}
		doc.fault("metadata.name", nil, hint, "is missing")
		return false
	}
	if m.namespace == "" {
		doc.lines["metadata"] = m.line()
		doc.fault("metadata.namespace", nil, namespaceHint, "%s names no namespace", m)
		return false
	}
	if slices.Contains(reserved(), m.namespace) {
		w.omit(m, "namespace %s belongs to the cluster, so nothing is put there", m.namespace)
		return false
	}
	if len(validation.IsDNS1123Label(m.namespace)) > 0 {
		doc.fault("metadata.namespace", m.namespace, "lower-case letters, digits and -", "%q is not a DNS label", m.namespace)
		return false
	}
	return w.first(m, doc)
}

// first tells whether an object is not given a second time.
func (w *worldMaker) first(m *manifest, doc *document) bool {
	if other := w.given[m.String()]; other != nil && other != m {
		doc.fault("metadata.name", m.name, "", "%s is given in %s too", m, Omission{File: other.file, Line: other.line()}.place())
		return false
	} else if other == m {
		return false // the same path twice
	}
	w.given[m.String()] = m
	return true
}

func (o Omission) place() string {
	if o.Line == 0 {
		return o.File
	}
	return o.File + ":" + strconv.Itoa(o.Line)
}

// partly decodes the known part of an object.
func (w *worldMaker) partly(m *manifest, into any) *document {
	doc := m.document(w.sink)
	doc.partial = true
	doc.decode(m.node, "", into)
	return doc
}

func (w *worldMaker) namespaceObject(m *manifest) {
	m.taken = true
	m.namespace = "" // it has none, whatever is written
	if slices.Contains(reserved(), m.name) {
		w.omit(m, "belongs to the cluster, so its labels are left as they are")
		return
	}
	var o struct {
		Metadata objectMeta `json:"metadata"`
	}
	doc := w.partly(m, &o)
	if !w.first(m, doc) || !doc.dnsLabel("metadata.name", o.Metadata.Name) {
		return
	}
	doc.labels("metadata.labels", o.Metadata.Labels)
	if name, set := o.Metadata.Labels[corev1.LabelMetadataName]; set && name != o.Metadata.Name {
		doc.fault(entry("metadata.labels", corev1.LabelMetadataName), name, "leave it out", "%s is not the namespace's name: the API server sets this label", name)
	}
	w.namespace(o.Metadata.Name).Labels = o.Metadata.Labels
}

// workload adds the pods of one object.
func (w *worldMaker) workload(m *manifest) {
	var o workload
	var pod podTemplate
	template := "spec.template"
	var doc *document
	if m.kind == "Pod" {
		doc, template = w.partly(m, &pod), ""
	} else {
		doc = w.partly(m, &o)
		pod = o.Spec.Template
	}
	if m.kind == "CronJob" {
		job := o.Spec.JobTemplate.Spec
		pod, template = job.Template, "spec.jobTemplate.spec.template"
		o.Spec.Parallelism, o.Spec.CompletionMode = job.Parallelism, job.CompletionMode
	}
	doc.labels(child(template, "metadata.labels"), pod.Metadata.Labels)
	if pod.Spec.HostNetwork {
		w.omit(m, "runs in the network of its node, which no world has: it is left out")
		w.namespace(m.namespace)
		return
	}
	ports := w.ports(m, doc, child(template, "spec"), pod.Spec)
	for i := range w.replicas(m, o.Spec) {
		ordinal := i
		if m.kind == "StatefulSet" {
			ordinal += int(o.Spec.Ordinals.Start)
		}
		w.pod(m, doc, o.Spec, pod.Metadata.Labels, ordinal, ports)
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
func (w *worldMaker) ports(m *manifest, doc *document, at string, spec podSpec) []Port {
	out := []Port{}
	add := func(at string, c container) {
		for i, p := range c.Ports {
			at := item(at+".ports", i)
			port := Port{Name: p.Name, Port: p.ContainerPort, Protocol: cmp.Or(p.Protocol, defaultProtocol)}
			switch {
			case port.Port == 0:
				doc.fault(at+".containerPort", nil, "a number from 1 to 65535", "is missing")
				continue
			case !isProtocol(port.Protocol):
				doc.fault(at+".protocol", port.Protocol, "TCP, UDP or SCTP", "%q is not a protocol", port.Protocol)
				continue
			case port.Name != "" && len(validation.IsValidPortName(port.Name)) > 0:
				doc.fault(at+".name", port.Name, "", "%q is not a name for a port", port.Name)
				continue
			}
			if p.HostPort != 0 {
				w.omit(m, "port %d of its node, which leads to %s, is left out", p.HostPort, FormatPort(port.Protocol, port.Port))
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
	}
	for i, c := range spec.Containers {
		add(item(at+".containers", i), c)
	}
	for i, c := range spec.InitContainers {
		if c.RestartPolicy == string(corev1.ContainerRestartPolicyAlways) { // a sidecar: it runs as long as the pod
			add(item(at+".initContainers", i), c)
		}
	}
	return out
}

// service adds a Service whose backends are all there.
func (w *worldMaker) service(m *manifest) {
	var o service
	doc := w.partly(m, &o)
	before := len(w.sink.faults)
	if len(validation.IsDNS1035Label(m.name)) > 0 {
		doc.fault("metadata.name", m.name, "lower-case letters, digits and -, a letter first", "%q is not a Service name", m.name)
	}
	doc.labels("spec.selector", o.Spec.Selector)
	if len(w.sink.faults) > before {
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
	for i, p := range o.Spec.Ports {
		if port, ok := w.servicePort(m, doc, item("spec.ports", i), p, backends); ok {
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

// servicePort takes one port over. A number that the backends do not declare becomes one of theirs, since a declaration is only for the reader
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/#ports); a name must be known to every backend.
func (w *worldMaker) servicePort(m *manifest, doc *document, at string, p servicePort, backends []*Pod) (ServicePort, bool) {
	out := ServicePort{Port: p.Port, Protocol: cmp.Or(p.Protocol, defaultProtocol)}
	switch {
	case p.Port == 0:
		doc.fault(at+".port", nil, "a number from 1 to 65535", "is missing")
		return out, false
	case !isProtocol(out.Protocol):
		doc.fault(at+".protocol", out.Protocol, "TCP, UDP or SCTP", "%q is not a protocol", out.Protocol)
		return out, false
	}
	name := ""
	switch {
	case p.TargetPort.Type == intstr.String && p.TargetPort.StrVal != "":
		name = p.TargetPort.StrVal
	case p.TargetPort.IntVal != 0:
		if len(validation.IsValidPortNum(int(p.TargetPort.IntVal))) > 0 {
			doc.fault(at+".targetPort", p.TargetPort.IntVal, "", "%d is not a port number from 1 to 65535", p.TargetPort.IntVal)
			return out, false
		}
		out.TargetPort = p.TargetPort
	default:
		out.TargetPort = intstr.FromInt32(int32(p.Port))
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
	out.TargetPort = p.TargetPort
	return out, true
}
