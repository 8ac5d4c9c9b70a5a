package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	strictjson "sigs.k8s.io/json"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/reach"
)

const (
	policyKind       = "NetworkPolicy"
	policyGroup      = "networking.k8s.io/"
	policyAPIVersion = policyGroup + "v1"
)

// File is the contents of one file; Name is what places call it.
type File struct {
	Name    string
	Content []byte
}

// Options say how to read.
type Options struct {
	// Namespace is that of objects that name none. Default: "default", as kubectl has it.
	Namespace string
}

// Read reads every document of every file, in order. Kinds that no policy can see are passed over. When no kube-system is among the files,
// the world gets one with the resolver's pod as CoreDNS has it, because nearly every policy speaks about it and hardly any
// directory holds it. The error is a Faults.
func Read(files []File, o Options) (*Set, error) {
	if o.Namespace == "" {
		o.Namespace = metav1.NamespaceDefault
	}
	r := reader{
		set: &Set{Places: map[string]Place{}}, namespace: o.Namespace,
		labels: map[string]map[string]string{}, policies: map[string]Place{}, last: inventedRange.Addr(),
	}
	for _, f := range files {
		r.file(f)
	}
	if len(r.faults) > 0 {
		return nil, r.faults
	}
	r.finish()
	return r.set, nil
}

type reader struct {
	set       *Set
	namespace string
	labels    map[string]map[string]string // of namespaces; nil for one that is only named in passing
	policies  map[string]Place
	faults    Faults
	last      netip.Addr // the last invented address
	invented  int
}

func (r *reader) fault(p Place, field, message string) {
	r.faults = append(r.faults, Fault{p, field, message})
}

var errorLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

func (r *reader) file(f File) {
	decoder := yaml.NewDecoder(bytes.NewReader(f.Content))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			place, message := Place{File: f.Name}, err.Error()
			if m := errorLine.FindStringSubmatch(message); m != nil {
				place.Line, _ = strconv.Atoi(m[1]) // no line at all: 0
				message = strings.TrimPrefix(message, m[0])
			}
			r.fault(place, "", "reading YAML: "+message)
			return
		}
		if len(doc.Content) == 1 {
			r.object(f.Name, doc.Content[0], topObject)
		}
	}
}

// nesting tells an object from an item of a list.
type nesting uint8

const (
	topObject nesting = iota
	listItem
)

func (r *reader) object(file string, n *yaml.Node, level nesting) {
	place := Place{file, n.Line}
	kind, version := scalarAt(n, "kind"), scalarAt(n, "apiVersion")
	if strings.HasSuffix(kind, "List") && level == topObject {
		if items := child(n, "items"); items != nil && items.Kind == yaml.SequenceNode {
			for _, item := range items.Content {
				if item.Kind == yaml.AliasNode {
					item = item.Alias
				}
				r.object(file, item, listItem)
			}
		}
		return
	}
	switch kind {
	case policyKind:
		if strings.HasPrefix(version, policyGroup) || !strings.Contains(version, "/") { // CNIs have kinds of the same name
			r.policy(place, n, version)
		}
	case clusterPolicyKind:
		if group, _, _ := strings.Cut(version, "/"); group == npav1alpha2.GroupName {
			r.clusterPolicy(place, n, version)
		}
	case "Namespace":
		var ns corev1.Namespace
		if version == "v1" && r.decode(place, n, &ns) && r.named(place, ns.Name) {
			r.set.Places[ns.Name] = place
			r.labels[ns.Name] = ns.Labels
		}
	case "Pod":
		var p corev1.Pod
		if version == "v1" && r.decode(place, n, &p) && r.named(place, p.Name) {
			r.pod(place, p.ObjectMeta, p.Labels, p.Spec, p.Status, kind)
		}
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob":
		var w workload
		if !r.decode(place, n, &w) || !r.named(place, w.Metadata.Name) {
			return
		}
		template := w.Spec.Template
		if kind == "CronJob" {
			template = w.Spec.JobTemplate.Spec.Template
		}
		r.pod(place, w.Metadata, template.Labels, template.Spec, corev1.PodStatus{}, kind)
	case "Service":
		var s corev1.Service
		if version == "v1" && r.decode(place, n, &s) && r.named(place, s.Name) {
			r.set.Services = append(r.set.Services, ServiceOf(&s, r.namespace))
		}
	}
}

// workload is what all the kinds that make pods have in common.
type workload struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Template    corev1.PodTemplateSpec `json:"template"`
		JobTemplate struct {
			Spec struct {
				Template corev1.PodTemplateSpec `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

// encoded is the document as JSON; false after a fault.
func (r *reader) encoded(place Place, n *yaml.Node) ([]byte, bool) {
	var plain any
	err := n.Decode(&plain)
	var out []byte
	if err == nil {
		out, err = json.Marshal(plain)
	}
	if err != nil {
		r.fault(place, "", "reading "+scalarAt(n, "kind")+": "+strings.TrimPrefix(err.Error(), "yaml: "))
		return nil, false
	}
	return out, true
}

func (r *reader) decode(place Place, n *yaml.Node, into any) bool {
	content, ok := r.encoded(place, n)
	if !ok {
		return false
	}
	if err := strictjson.UnmarshalCaseSensitivePreserveInts(content, into); err != nil {
		r.fault(place, "", "reading "+scalarAt(n, "kind")+": "+strings.TrimPrefix(err.Error(), "json: "))
		return false
	}
	return true
}

func (r *reader) named(place Place, name string) bool {
	if name == "" {
		r.fault(place, "metadata.name", "is missing")
	}
	return name != ""
}

var quotedPath = regexp.MustCompile(`unknown field "([^"]+)"`)

func (r *reader) policy(place Place, n *yaml.Node, version string) {
	if version != policyAPIVersion {
		r.fault(place, "apiVersion", "NetworkPolicy is of "+policyAPIVersion+", not of "+strconv.Quote(version))
		return
	}
	content, ok := r.encoded(place, n)
	if !ok {
		return
	}
	p := Policy{Lines: linesOf(n)}
	p.File, p.Line = place.File, place.Line
	strict, err := strictjson.UnmarshalStrict(content, &p.Spec)
	if err != nil {
		r.fault(place, "", "reading NetworkPolicy: "+strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	for _, e := range strict {
		if m := quotedPath.FindStringSubmatch(e.Error()); m != nil {
			r.fault(p.Place(m[1]), m[1], "unknown field")
			continue
		}
		r.fault(place, "", e.Error())
	}
	if !r.named(place, p.Spec.Name) {
		return
	}
	if p.Spec.Namespace == "" {
		p.Spec.Namespace = r.namespace
	}
	if first, twice := r.policies[p.Name()]; twice {
		r.fault(place, "metadata.name", "NetworkPolicy "+p.Name()+" is written already at "+first.String())
		return
	}
	r.policies[p.Name()] = place
	r.set.Policies = append(r.set.Policies, p)
}

func (r *reader) pod(place Place, meta metav1.ObjectMeta, labels map[string]string, spec corev1.PodSpec, status corev1.PodStatus, kind string) {
	namespace, name := meta.Namespace, meta.Name
	if namespace == "" {
		namespace = r.namespace
	}
	if _, taken := r.set.Places[namespace+"/"+name]; taken {
		name += "-" + strings.ToLower(kind)
	}
	if first, taken := r.set.Places[namespace+"/"+name]; taken {
		r.fault(place, "metadata.name", kind+" "+namespace+"/"+meta.Name+" is written already at "+first.String())
		return
	}
	if _, known := r.labels[namespace]; !known {
		r.labels[namespace] = nil
	}
	r.set.Places[namespace+"/"+name] = place
	r.set.Pods = SomePods
	p := PodOf(namespace, name, labels, spec, status)
	if len(p.IPs) == 0 {
		p.IPs = []netip.Addr{r.invent()}
	}
	r.set.World.Pods = append(r.set.World.Pods, p)
}

func (r *reader) invent() netip.Addr {
	r.invented++
	if next := r.last.Next(); inventedRange.Contains(next) {
		r.last = next // else the last one stands for all the rest: no directory has 131 072 workloads
	}
	return r.last
}

// PodOf is what policies can see of a pod.
func PodOf(namespace, name string, labels map[string]string, spec corev1.PodSpec, status corev1.PodStatus) reach.Pod {
	p := reach.Pod{Namespace: namespace, Name: name, Labels: labels, Node: spec.NodeName, HostNetwork: spec.HostNetwork}
	containers := slices.Clone(spec.Containers)
	for _, c := range spec.InitContainers { // sidecars listen as long as the pod lives, the others never to any purpose
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c)
		}
	}
	for _, c := range containers {
		for _, port := range c.Ports {
			if port.ContainerPort < 1 || port.ContainerPort > maxPort {
				continue
			}
			protocol := port.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			p.Ports = append(p.Ports, reach.Port{Name: port.Name, Protocol: protocol, Port: uint16(port.ContainerPort)})
		}
	}
	ips := status.PodIPs
	if len(ips) == 0 && status.PodIP != "" {
		ips = []corev1.PodIP{{IP: status.PodIP}}
	}
	for _, ip := range ips {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.IPs = append(p.IPs, a)
		}
	}
	return p
}

// ServiceOf is what matters to policies of a Service; namespace is that of one that names none.
func ServiceOf(s *corev1.Service, namespace string) Service {
	out := Service{Namespace: s.Namespace, Name: s.Name, Selector: s.Spec.Selector}
	if out.Namespace == "" {
		out.Namespace = namespace
	}
	for _, p := range s.Spec.Ports {
		if p.Port < 1 || p.Port > maxPort {
			continue
		}
		port := ServicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(p.Port), Target: p.TargetPort}
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if port.Target == (intstr.IntOrString{}) {
			port.Target = intstr.FromInt32(p.Port)
		}
		out.Ports = append(out.Ports, port)
	}
	return out
}

const resolverNamespace = metav1.NamespaceSystem

func (r *reader) finish() {
	if _, known := r.labels[resolverNamespace]; !known {
		r.labels[resolverNamespace] = nil
		const dnsPort = 53
		r.set.World.Pods = append(r.set.World.Pods, reach.Pod{
			Namespace: resolverNamespace, Name: "coredns", Labels: map[string]string{"k8s-app": "kube-dns"}, IPs: []netip.Addr{r.invent()},
			Ports: []reach.Port{{Name: "dns", Protocol: corev1.ProtocolUDP, Port: dnsPort}, {Name: "dns-tcp", Protocol: corev1.ProtocolTCP, Port: dnsPort}},
		})
		r.invented--
	}
	for _, name := range slices.Sorted(maps.Keys(r.labels)) {
		r.set.World.Namespaces = append(r.set.World.Namespaces, reach.Namespace{Name: name, Labels: r.labels[name]})
	}
	if r.invented == 0 && r.set.Pods == SomePods {
		r.set.Addresses = Real
	}
}
