package scenarios

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Object is one object of manifests that a policy can see, or a policy.
type Object struct {
	// Place is where it is written; without a line when a kustomization renders to it.
	Place
	// Template is the template of a chart that Helm rendered it from, as its Source comment says; else empty.
	Template string
	// Kind is the object's own; API stands for any of the kinds that make pods by the Pod that they make.
	Kind string
	// API is a *Namespace, *Pod, *Service, *NetworkPolicy or *ClusterNetworkPolicy. Policies are whole. Of the others there is what policies
	// can see: names, labels, ports with their protocol, hostNetwork, node and addresses of pods, selectors of Services.
	API runtime.Object
	// Lines are the places of a policy's fields; nil for others, and where there is no line.
	Lines Lines
}

// Manifests are the documents of files, directories and kustomizations, read but not yet decoded.
type Manifests struct {
	reader           *manifestReader
	list             []*manifest
	defaultNamespace string
}

// ReadManifests reads whatever kubectl apply takes, as World.From has it; of JSON files too, and of the path "-" the options' Input. Files
// that hold no object of the API, such as the values of a chart, are passed over; what is none beside one is a fault. The error is a Faults.
func ReadManifests(paths []string, o ManifestOptions) (*Manifests, error) {
	clean := make([]string, len(paths))
	for i, p := range paths {
		clean[i] = filepath.Clean(p)
	}
	return readManifests(osTree{}, clean, o)
}

// ReadManifestsFS is ReadManifests for the files of fsys.
func ReadManifestsFS(fsys fs.FS, paths []string, o ManifestOptions) (*Manifests, error) {
	clean := make([]string, len(paths))
	for i, p := range paths {
		clean[i] = path.Clean(p)
	}
	return readManifests(fsTree{fsys}, clean, o)
}

func readManifests(t tree, paths []string, o ManifestOptions) (*Manifests, error) {
	l := loader{tree: t, used: map[string]struct{}{}, input: o.Input}
	out := &Manifests{reader: newManifestReader(&l), defaultNamespace: o.DefaultNamespace}
	out.reader.sink, out.reader.strangers = &sink{}, passedOver
	seen := map[*manifest]struct{}{}
	for _, p := range paths {
		complain := func(_, format string, args ...any) { // the hints are about fields of scenarios
			message := strings.TrimPrefix(fmt.Sprintf(format, args...), "reading "+p+": ")
			out.reader.sink.add(Fault{File: p, Message: message, Hint: "name files or directories with .yaml, .yml or .json, or - for standard input"})
		}
		for _, m := range out.reader.path(p, complain) {
			if _, twice := seen[m]; !twice {
				seen[m] = struct{}{}
				out.list = append(out.list, m)
			}
		}
	}
	if faults := out.reader.sink.sorted(); len(faults) > 0 {
		return nil, faults
	}
	return out, nil
}

// Scenarios are the files that hold a Scenario, in order: they are for Load.
func (m *Manifests) Scenarios() []string {
	var out []string
	for _, each := range m.list {
		if each.apiVersion == APIVersion && each.kind == Kind && !slices.Contains(out, each.file) {
			out = append(out, each.file)
		}
	}
	return out
}

// Foreign are the policies of kinds that no verdict here takes into account, such as a CNI's own.
func (m *Manifests) Foreign() []Omission {
	omissions, _ := m.reader.account()
	return omissions
}

// Objects decodes the objects that a policy can see, and the policies, in order; those of the files in except are left out. Policies are
// decoded strictly and held to the rules of the API server, everything else is read only as far as it is seen. The error is a Faults.
func (m *Manifests) Objects(except map[string]struct{}) ([]Object, error) {
	r := m.reader
	r.sink = &sink{}
	known := newRegister(r.sink, m.defaultNamespace)
	var out []Object
	for _, each := range m.list {
		if _, left := except[each.file]; left {
			continue
		}
		if o, ok := r.object(each, &known); ok {
			out = append(out, o)
		}
	}
	if faults := r.sink.sorted(); len(faults) > 0 {
		return nil, faults
	}
	return out, nil
}

// object decodes one object; false for what no policy sees, and after a fault.
func (r *manifestReader) object(m *manifest, known *register) (Object, bool) {
	out := Object{Place: m.place(), Template: m.template, Kind: m.kind}
	switch m.role() {
	case aNamespace:
		labels, doc := r.namespaceLabels(m)
		out.API = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: m.name, Labels: labels}}
		return out, known.enterClusterWide(m, doc) && doc.dnsLabel("metadata.name", m.name)
	case aWorkload:
		if !known.enter(m) {
			return out, false
		}
		out.API = r.workload(m).asPod(m.namespace, m.name)
	case aService:
		if !known.enter(m) {
			return out, false
		}
		s, ok := r.service(m)
		out.API = s.asService(m.namespace, m.name)
		return out, ok
	case aPolicy:
		p := r.policy(m, known.defaultNamespace)
		if !known.enter(m) {
			return out, false
		}
		p.document.fieldErrors(validatePolicy(&p.Spec, nil, noHost))
		out.API, out.Lines = &p.Spec, p.Lines
	case aClusterPolicy:
		p := r.clusterPolicy(m)
		if !known.enterClusterWide(m, p.document) {
			return out, false
		}
		p.document.fieldErrors(clusterValidator{written: p.document.written, cidrs: policyValidator{hosts: noHost}}.policy(&p.Spec, nil))
		out.API, out.Lines = &p.Spec, p.Lines
	default:
		return out, false
	}
	return out, true
}

// noHost is what manifests have for placeholders to name: only a scenario has a world that fills them in.
func noHost(string) bool { return false }

// asPod is the pod that stands for all those of the workload, with one container for all.
func (o workloadObject) asPod(namespace, name string) *corev1.Pod {
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: maps.Clone(o.pod.Metadata.Labels)},
		Spec:       corev1.PodSpec{NodeName: o.pod.Spec.NodeName, HostNetwork: o.pod.Spec.HostNetwork},
		Status:     corev1.PodStatus{PodIP: o.pod.Status.PodIP},
	}
	for _, ip := range o.pod.Status.PodIPs {
		out.Status.PodIPs = append(out.Status.PodIPs, corev1.PodIP{IP: ip.IP})
	}
	if len(o.listeners) > 0 {
		out.Spec.Containers = make([]corev1.Container, 1)
	}
	for _, l := range o.listeners {
		out.Spec.Containers[0].Ports = append(out.Spec.Containers[0].Ports, corev1.ContainerPort{Name: l.Name, Protocol: l.Protocol, ContainerPort: int32(l.Port.Port), HostPort: l.hostPort})
	}
	return out
}

func (s service) asService(namespace, name string) *corev1.Service {
	out := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	out.Spec.Selector, out.Spec.ExternalIPs = s.Spec.Selector, s.Spec.ExternalIPs
	out.Spec.Type, out.Spec.ClusterIP = corev1.ServiceType(s.Spec.Type), s.Spec.ClusterIP
	for _, p := range s.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: int32(p.Port), TargetPort: p.TargetPort, NodePort: p.NodePort})
	}
	return out
}
