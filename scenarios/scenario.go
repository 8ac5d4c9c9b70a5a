package scenarios

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// The only apiVersion, and the kinds of file: a scenario, and a world that several scenarios share.
const (
	APIVersion = "gapproof.dev/v1alpha1"
	Kind       = "Scenario"
	WorldKind  = "World"
)

// Scenario is one file: a world, policies, steps and intent, as a person writes them.
type Scenario struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        Metadata `json:"metadata"`
	World           World    `json:"world"`
	// Policies are the NetworkPolicies the steps may name, inline or from files.
	Policies Policies `json:"policies,omitzero"`
	// Steps run in order. Without any there is one step named "policies" that applies every policy and expects Expect.
	Steps []Step `json:"steps,omitempty"`
	// Expect is the intent of the last step when that step has none of its own.
	Expect *Expect `json:"expect,omitempty"`

	// File is the path the scenario was loaded from. Not part of the language.
	File string `json:"-"`
	// WorldFile is the path the world was read from; empty when it is written in the scenario. Not part of the language.
	WorldFile string `json:"-"`
	// Places are where namespaces ("shop") and pods ("shop/web") are written. Not part of the language.
	Places map[string]Place `json:"-"`
	// Omissions are what World.From and Policies.Manifests say and a world cannot. Not part of the language.
	Omissions []Omission `json:"-"`
	// Ignored counts, by kind, the objects of World.From and Policies.Manifests that neither of them reads. Not part of the language.
	Ignored map[string]int `json:"-"`
}

// Metadata names a scenario.
type Metadata struct {
	// Name is a DNS label and equals the file name without its ending.
	Name string `json:"name"`
	// Title is one sentence saying what is shown.
	Title string `json:"title,omitempty"`
	// Tags select scenarios on the command line. The tag "hole" marks one that is meant to fail.
	Tags []string `json:"tags,omitempty"`
	// Controls are identifiers of regulations, such as "pci-dss-4.0/1.3.1".
	Controls []string `json:"controls,omitempty"`
}

// World is namespaces, pods and Services. Policies are not part of it. It is written out, taken from a file, or derived from manifests.
type World struct {
	// File is the path of a World file, relative to the scenario file. Nothing else may be given with it. Loading puts the
	// file's namespaces and Services in its place and leaves File empty, so that equal worlds are equal values.
	File string `json:"file,omitempty"`
	// From lists paths of manifests, relative to the scenario file, whose workloads become pods: whatever kubectl apply takes, with -f
	// (YAML files with objects of any kind, as helm template prints them, and directories of them) or with -k (directories with a
	// kustomization). What is written in Namespaces and Services comes on top. Loading puts the pods in its place and leaves From empty.
	From []string `json:"from,omitempty"`
	// DefaultNamespace is for those objects of From that name no namespace.
	DefaultNamespace string      `json:"defaultNamespace,omitempty"`
	Namespaces       []Namespace `json:"namespaces,omitempty"`
	Services         []Service   `json:"services,omitempty"`
	Reach            Reach       `json:"reach,omitzero"`
}

// Reach says what a world's pods attempt beyond TCP, UDP and SCTP to pods and Services in the cluster's first address family.
type Reach struct {
	// Families are the address families of attempts, IPv4 and IPv6, each planned for itself. Default: the cluster's first one. A family that
	// the cluster has not makes its attempts skipped. Services get an address of each family, a lookup asks for the records of each.
	Families []corev1.IPFamily `json:"families,omitempty"`
	// ICMP also plans an echo request between each two pods. NetworkPolicy does not speak about ICMP (semantics note "icmp").
	ICMP bool `json:"icmp,omitempty"`
	// Nodes are places ("a", "b", …) whose node addresses are destinations: "node:a" on the ports that the world's hostNetwork pods
	// there listen on, and "node:a:namespace/name" on the node ports of a Service of type NodePort, which go by the Service's own ports.
	Nodes []string `json:"nodes,omitempty"`
	// Outside are hosts that are no part of the cluster, both sources and destinations, written "outside:NAME". They are attempted by every pod and
	// attempt, but for those with addresses of their own, pods and node addresses, but no Services, whose addresses mean something inside of the
	// cluster alone. Only the lab has such hosts: elsewhere the scenario is skipped.
	Outside []OutsideHost `json:"outside,omitempty"`
	// APIServer also plans an attempt of every pod at the cluster's API server, "api-server", by the Service kubernetes in the namespace default:
	// one TLS handshake, by which the server proves who it is, and no request. It is judged on the servers' own addresses and their port.
	APIServer bool `json:"apiServer,omitempty"`
}

// OutsideHost is one host outside the cluster: in the lab a container on the lab's network, with routes to the pods, so that both ends see each
// other's own address on the way in. On the way out most CNIs put the node's address in the place of the pod's.
type OutsideHost struct {
	// Name is a DNS label.
	Name string `json:"name"`
	// Ports are listened on, TCP and UDP; they have no names. Default: TCP 80.
	Ports []Port `json:"ports,omitzero"`
	// Addresses are those that the host stands for, one of a family, such as 169.254.169.254 for a cloud's metadata service: the lab's nodes get
	// a route to it. It is a destination alone then. Link-local IPv4 addresses are admitted, private ones and those for documentation, of both
	// families, for packets that miss the host must not reach a stranger. Default: the addresses that the lab's network gives it.
	Addresses []string `json:"addresses,omitempty"`
}

// Addrs are Addresses that are valid, IPv4 first.
func (h OutsideHost) Addrs() []netip.Addr {
	var out []netip.Addr
	for _, s := range h.Addresses {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// WorldFile is a file of kind World: a world for several scenarios to share. A run builds it once for all of them.
type WorldFile struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        WorldMetadata `json:"metadata"`
	Namespaces      []Namespace   `json:"namespaces"`
	Services        []Service     `json:"services,omitempty"`
	Reach           Reach         `json:"reach,omitzero"`
}

// WorldMetadata names a World file.
type WorldMetadata struct {
	// Name is a DNS label and equals the file name without its ending.
	Name string `json:"name"`
	// Title is one sentence saying what the world is.
	Title string `json:"title,omitempty"`
}

// Namespace holds its pods.
type Namespace struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	Pods   []Pod             `json:"pods,omitempty"`
}

// Pod is one probe pod: both a source and a destination.
type Pod struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
	// Ports are listened on. Default: TCP 80. An empty list means none.
	Ports []Port `json:"ports,omitzero"`
	// Node says where it runs: "" for anywhere, "a", "b", … for named places that are pairwise different nodes (a is the first
	// schedulable node in name order).
	Node string `json:"node,omitempty"`
	// HostNetwork runs the pod in its node's network namespace. Its ports must then be unique on the node and from 1024 to 9999.
	HostNetwork bool `json:"hostNetwork,omitempty"`
}

// Port is one listener.
type Port struct {
	// Name is the port's name for policies with named ports. Optional.
	Name string `json:"name,omitempty"`
	Port uint16 `json:"port"`
	// Protocol is TCP, UDP or SCTP. Default: TCP.
	Protocol corev1.Protocol `json:"protocol,omitempty"`
}

// Service is a Service of the world. One that selects no pod is made all the same: a step may give a pod its labels.
type Service struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Selector  map[string]string `json:"selector"`
	Ports     []ServicePort     `json:"ports"`
	// Lookup also plans a DNS attempt for the Service's name from every pod, each an attempt of its own. A headless Service, which has
	// no address to attempt, is always looked up.
	Lookup bool `json:"lookup,omitempty"`
	// Type is ClusterIP or NodePort. Default: ClusterIP.
	Type corev1.ServiceType `json:"type,omitempty"`
	// ClusterIP is empty, or "None" for a headless Service, whose name resolves to its pods.
	ClusterIP string `json:"clusterIP,omitempty"`
}

// ServicePort maps a Service port to the pods' port.
type ServicePort struct {
	Port uint16 `json:"port"`
	// TargetPort is a number, or the name of a port, which may be another number in each pod. Default: Port.
	TargetPort intstr.IntOrString `json:"targetPort,omitzero"`
	Protocol   corev1.Protocol    `json:"protocol,omitempty"`
}

// Policies are gathered from every source in this order: Inline, Files, Manifests.
type Policies struct {
	Inline []networkingv1.NetworkPolicy `json:"inline,omitempty"`
	// Cluster are ClusterNetworkPolicies. Where the cluster does not serve their kind the scenario is skipped, and the report says so.
	// Steps name them without a namespace. Whatever they select, only the pods of the world are subject to them.
	Cluster []npav1alpha2.ClusterNetworkPolicy `json:"cluster,omitempty"`
	// Files are paths of multi-document YAML files or directories of them, relative to the scenario file, with policies of both kinds.
	Files []string `json:"files,omitempty"`
	// Manifests are paths like those of World.From, relative to the scenario file. Every NetworkPolicy and
	// ClusterNetworkPolicy is taken, and other kinds are counted.
	Manifests []string `json:"manifests,omitempty"`
	// DefaultNamespace is for those policies of Manifests that name no namespace.
	DefaultNamespace string `json:"defaultNamespace,omitempty"`

	// Loaded is Inline and the NetworkPolicies of Files and Manifests with their origins, in order. Filled by loading.
	Loaded []Policy `json:"-"`
	// LoadedCluster is Cluster and the ClusterNetworkPolicies of Files and Manifests likewise.
	LoadedCluster []ClusterPolicy `json:"-"`
}

// HasCluster tells whether there is any ClusterNetworkPolicy, which not every cluster serves.
func (p Policies) HasCluster() bool { return len(p.LoadedCluster) > 0 || len(p.Cluster) > 0 }

// Policy is one NetworkPolicy and where it was written.
type Policy struct {
	Spec networkingv1.NetworkPolicy
	// File is the path it was read from; the kustomization file if a kustomization renders to it.
	File string
	// Line is the first line of the document or list item in File, counted from 1; 0 when unknown.
	Line int
	// Template is the template of a chart that Helm rendered it from, as its Source comment says; else empty.
	Template string
	// Lines are the places of its fields; nil where Line is 0.
	Lines Lines
}

// ClusterPolicy is one ClusterNetworkPolicy and where it was written; its fields are those of [Policy]. The status is left out: it is the
// implementation's.
type ClusterPolicy struct {
	Spec     npav1alpha2.ClusterNetworkPolicy
	File     string
	Line     int
	Template string
	Lines    Lines
}

// Step changes policies or labels, then observes.
type Step struct {
	Name string `json:"name"`
	// Apply names policies of the scenario as "namespace/name", ClusterNetworkPolicies as "name"; "*" stands for all of both.
	Apply []string `json:"apply,omitempty"`
	// Replace holds new versions of policies that are in effect, whole and in place.
	Replace []networkingv1.NetworkPolicy `json:"replace,omitempty"`
	// ReplaceCluster is the same for ClusterNetworkPolicies.
	ReplaceCluster []npav1alpha2.ClusterNetworkPolicy `json:"replaceCluster,omitempty"`
	// Delete names policies in effect as Apply does; "*" stands for all of them.
	Delete  []string  `json:"delete,omitempty"`
	Relabel []Relabel `json:"relabel,omitempty"`
	// Restart deletes pods ("namespace/pod") and makes them again as they are now, on the same node; each comes back with a new address,
	// but for hostNetwork pods. Pods change after policies and labels: ${pod:…} in a policy of the same step is the address before.
	Restart []string `json:"restart,omitempty"`
	// Move makes pods again on another node. The world must say where they are.
	Move []Move `json:"move,omitempty"`
	// Scale removes pods, or brings back removed ones.
	Scale  []Scale `json:"scale,omitempty"`
	Expect *Expect `json:"expect,omitempty"`

	// Replacing is Replace with origins. Filled by loading.
	Replacing []Policy `json:"-"`
	// ReplacingCluster is ReplaceCluster with origins.
	ReplacingCluster []ClusterPolicy `json:"-"`
}

// Move names a pod and the place ("a", "b", …) it goes to.
type Move struct {
	Pod  string `json:"pod"`
	Node string `json:"node"`
}

// Scale sets how many of a pod there are, 0 or 1: attempts from and to a pod that is not there are skipped.
type Scale struct {
	Pod      string `json:"pod"`
	Replicas int    `json:"replicas"`
}

// Relabel sets (value) or removes (null) labels of one pod or namespace.
type Relabel struct {
	// Exactly one of Pod ("namespace/pod") and Namespace.
	Pod       string             `json:"pod,omitempty"`
	Namespace string             `json:"namespace,omitempty"`
	Labels    map[string]*string `json:"labels"`
}

// Expect is intent. Without any Expect the derived verdicts alone are the promise. An attempt that may come back to its source (to the pod
// itself, or to a Service that it stands behind) is covered only by an entry that names both ends in full: no policy can keep a pod
// from itself, so neither an asterisk nor Exhaustive means it.
type Expect struct {
	// Exhaustive means: and every planned attempt that no entry names is denied, as far as it can be judged: not where a pod is gone, or
	// where the API leaves open what a CNI does.
	Exhaustive bool   `json:"exhaustive,omitempty"`
	Allow      []Rule `json:"allow,omitempty"`
	Deny       []Rule `json:"deny,omitempty"`
}

// Rule names attempts by source, destination, ports and families.
type Rule struct {
	// From lists "namespace/pod", "namespace/*" or "*" for every pod, "outside:NAME" or "outside:*" for hosts outside the cluster.
	From []string `json:"from"`
	// To lists the same, the same after "service:" for Services, "dns" for the lookups of Services' names, "node:a" for all that is
	// attempted at a node's address, and "node:a:namespace/name" for one Service's node ports.
	To []string `json:"to"`
	// Ports list "TCP/80", "UDP/53", and "ICMP" for echoes; empty means every planned port. A Service is named by its own port, at a node too, a lookup by UDP/53.
	Ports []string `json:"ports,omitempty"`
	// Families narrow it to attempts of these; empty means every planned one. They must be among those of the world's Reach.
	Families []corev1.IPFamily `json:"families,omitempty"`
}
