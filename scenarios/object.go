package scenarios

import (
	"cmp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// The parts of objects that a world or a policy can see. They are decoded as partial documents.
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
		NodeName       string      `json:"nodeName"`
		HostNetwork    bool        `json:"hostNetwork"`
		Containers     []container `json:"containers"`
		InitContainers []container `json:"initContainers"`
	}
	podTemplate struct {
		Metadata objectMeta `json:"metadata"`
		Spec     podSpec    `json:"spec"`
	}
	pod struct {
		Metadata objectMeta `json:"metadata"`
		Spec     podSpec    `json:"spec"`
		Status   struct {
			PodIP  string `json:"podIP"`
			PodIPs []struct {
				IP string `json:"ip"`
			} `json:"podIPs"`
		} `json:"status"`
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

func (m *manifest) place() Place {
	if m.rendered {
		return Place{File: m.file}
	}
	return placeOf(m.file, m.node)
}

// partly decodes the known part of an object.
func (r *manifestReader) partly(m *manifest, into any) *document {
	doc := m.document(r.sink)
	doc.partial = true
	doc.decode(m.node, "", into)
	return doc
}

// register knows which objects there are: each once, with a name and in a namespace.
type register struct {
	sink             *sink
	defaultNamespace string
	given            map[string]*manifest // kind, namespace and name → first
}

func newRegister(to *sink, defaultNamespace string) register {
	return register{sink: to, defaultNamespace: defaultNamespace, given: map[string]*manifest{}}
}

// enter fills in the namespace of a namespaced object, and tells whether the object has what it needs and is not given a second time.
func (r *register) enter(m *manifest) bool {
	m.taken = true
	m.namespace = cmp.Or(m.namespace, r.defaultNamespace)
	doc := m.document(r.sink)
	if m.name == "" {
		hint := ""
		if metadata := value(m.node, "metadata"); metadata != nil && value(metadata, "generateName") != nil {
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
	if len(validation.IsDNS1123Label(m.namespace)) > 0 {
		doc.fault("metadata.namespace", m.namespace, "lower-case letters, digits and -", "%q is not a DNS label", m.namespace)
		return false
	}
	return r.first(m, doc)
}

// enterClusterWide is enter for an object of no namespace that is decoded already.
func (r *register) enterClusterWide(m *manifest, doc *document) bool {
	m.taken = true
	m.namespace = "" // it has none, whatever is written
	if m.name == "" {
		doc.fault("metadata.name", nil, "", "is missing")
		return false
	}
	return r.first(m, doc)
}

// first tells whether an object is not given a second time.
func (r *register) first(m *manifest, doc *document) bool {
	switch other := r.given[m.String()]; other {
	case nil:
		r.given[m.String()] = m
		return true
	case m: // the same path twice
		return false
	default:
		doc.fault("metadata.name", m.name, "", "%s is given in %s too", m, other.place())
		return false
	}
}

// namespaceLabels decodes a Namespace.
func (r *manifestReader) namespaceLabels(m *manifest) (map[string]string, *document) {
	var o struct {
		Metadata objectMeta `json:"metadata"`
	}
	doc := r.partly(m, &o)
	doc.labels("metadata.labels", o.Metadata.Labels)
	if name, set := o.Metadata.Labels[corev1.LabelMetadataName]; set && name != o.Metadata.Name {
		doc.fault(entry("metadata.labels", corev1.LabelMetadataName), name, "leave it out", "%s is not the namespace's name: the API server sets this label", name)
	}
	return o.Metadata.Labels, doc
}

// workloadObject is an object that makes pods, or is one.
type workloadObject struct {
	document  *document
	spec      workloadSpec
	pod       pod // status is that of a Pod alone
	listeners []listener
}

// listener is one port of a container.
type listener struct {
	Port
	hostPort int32
}

// workload decodes an object that makes pods.
func (r *manifestReader) workload(m *manifest) workloadObject {
	var out workloadObject
	template := "spec.template"
	switch m.kind {
	case "Pod":
		out.document, template = r.partly(m, &out.pod), ""
	case "CronJob":
		var o workload
		out.document, template = r.partly(m, &o), "spec.jobTemplate.spec.template"
		job := o.Spec.JobTemplate.Spec
		o.Spec.Parallelism, o.Spec.CompletionMode = job.Parallelism, job.CompletionMode
		out.spec = o.Spec
		out.pod.Metadata, out.pod.Spec = job.Template.Metadata, job.Template.Spec
	default:
		var o workload
		out.document = r.partly(m, &o)
		out.spec = o.Spec
		out.pod.Metadata, out.pod.Spec = o.Spec.Template.Metadata, o.Spec.Template.Spec
	}
	out.document.labels(child(template, "metadata.labels"), out.pod.Metadata.Labels)
	at := child(template, "spec")
	for i, c := range out.pod.Spec.Containers {
		out.listen(item(at+".containers", i), c)
	}
	for i, c := range out.pod.Spec.InitContainers {
		if c.RestartPolicy == string(corev1.ContainerRestartPolicyAlways) { // a sidecar: it runs as long as the pod
			out.listen(item(at+".initContainers", i), c)
		}
	}
	return out
}

func (o *workloadObject) listen(at string, c container) {
	for i, p := range c.Ports {
		at := item(at+".ports", i)
		port := Port{Name: p.Name, Port: p.ContainerPort, Protocol: cmp.Or(p.Protocol, defaultProtocol)}
		switch {
		case port.Port == 0:
			o.document.fault(at+".containerPort", nil, "a number from 1 to 65535", "is missing")
		case !isProtocol(port.Protocol):
			o.document.fault(at+".protocol", port.Protocol, "TCP, UDP or SCTP", "%q is not a protocol", port.Protocol)
		case port.Name != "" && len(validation.IsValidPortName(port.Name)) > 0:
			o.document.fault(at+".name", port.Name, "", "%q is not a name for a port", port.Name)
		default:
			o.listeners = append(o.listeners, listener{port, p.HostPort})
		}
	}
}

// service decodes a Service, with the defaults of its ports; false after a fault.
func (r *manifestReader) service(m *manifest) (service, bool) {
	before := len(r.sink.faults)
	var o service
	doc := r.partly(m, &o)
	if len(validation.IsDNS1035Label(m.name)) > 0 {
		doc.fault("metadata.name", m.name, "lower-case letters, digits and -, a letter first", "%q is not a Service name", m.name)
	}
	doc.labels("spec.selector", o.Spec.Selector)
	for i := range o.Spec.Ports {
		at, p := item("spec.ports", i), &o.Spec.Ports[i]
		p.Protocol = cmp.Or(p.Protocol, defaultProtocol)
		if p.TargetPort == (intstr.IntOrString{}) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(int32(p.Port))
		}
		switch {
		case p.Port == 0:
			doc.fault(at+".port", nil, "a number from 1 to 65535", "is missing")
		case !isProtocol(p.Protocol):
			doc.fault(at+".protocol", p.Protocol, "TCP, UDP or SCTP", "%q is not a protocol", p.Protocol)
		case p.TargetPort.Type == intstr.Int && len(validation.IsValidPortNum(int(p.TargetPort.IntVal))) > 0:
			doc.fault(at+".targetPort", p.TargetPort.IntVal, "", "%d is not a port number from 1 to 65535", p.TargetPort.IntVal)
		}
	}
	return o, len(r.sink.faults) == before
}
