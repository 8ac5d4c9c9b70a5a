package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Facts are what the cluster gave a world: addresses, nodes, names. They enter explicitly; planning asks nobody.
type Facts struct {
	// Pods by "namespace/pod" as written in the scenario.
	Pods map[string]PodFacts
	// Services are ClusterIPs by "namespace/name" as written in the scenario, in the cluster's order; headless ones have none.
	Services map[string][]netip.Addr
	// NodePorts are the numbers of node ports, by Service and its own port: "namespace/name:TCP/80".
	NodePorts map[string]uint16
	// Nodes by their names, and Places the names of the nodes that the scenario calls "a", "b", ….
	Nodes  map[string]NodeFacts
	Places map[string]string
	// Outside are the addresses of hosts outside the cluster, by "outside:NAME".
	Outside map[string][]netip.Addr `json:",omitempty"`
	// Resolver is the cluster's DNS: the pods behind its Service, with the labels of their namespace.
	Resolver Resolver
	// APIServer is the cluster's, in a world that attempts it.
	APIServer APIServer `json:",omitzero"`
	// ClusterDomain is the DNS suffix, such as "cluster.local".
	ClusterDomain string
	// Prefix is put before every namespace name in the cluster; empty in the lab.
	Prefix string
	// Invented marks facts that no cluster gave, as those of [Offline].
	Invented bool
}

// PodFacts are one pod's addresses and node.
type PodFacts struct {
	// IP is the first address, which is of the cluster's first family; Others are those of further families.
	IP     netip.Addr
	Others []netip.Addr `json:",omitempty"`
	Node   string
}

// Addresses are all of the pod's.
func (p PodFacts) Addresses() []netip.Addr { return append([]netip.Addr{p.IP}, p.Others...) }

// NodeFacts are a node's addresses.
type NodeFacts struct {
	// Addresses begin, in each family, with the one that attempts go to; the others are those that its packets may carry as well, such as a
	// tunnel's.
	Addresses []netip.Addr
}

// Resolver is the cluster's DNS service as policies see it.
type Resolver struct {
	Namespace reach.Namespace
	Pods      []reach.Pod
}

// APIServerName is what the certificate of an API server proves to pods, and [APIServer] its responder.
const APIServerName = "kubernetes.default.svc"

// APIServer is the cluster's API server as pods reach it: by the Service kubernetes in the namespace default.
type APIServer struct {
	// Addresses are the Service's, and Endpoints those of the servers behind it.
	Addresses []netip.Addr     `json:",omitempty"`
	Endpoints []netip.AddrPort `json:",omitempty"`
	// Authority are the PEM certificates by which pods know the servers.
	Authority string `json:",omitempty"`
}

// Kind is how the destination of an attempt was chosen. The zero value is unknown.
type Kind uint8

// The kinds of destination.
const (
	KindUnknown Kind = iota
	// PodIP goes to a pod's own address.
	PodIP
	// ClusterIP goes to a Service's address and is judged on its backends.
	ClusterIP
	// Lookup resolves a Service's name; it is judged on the resolver's pods.
	Lookup
	// NodeIP goes to a node's address, where a hostNetwork pod listens.
	NodeIP
	// NodePort goes to a node's address and a Service's node port; it is judged on the Service's backends.
	NodePort
	// OutsideIP goes to a host outside the cluster.
	OutsideIP
	// APIServerIP goes to the address of the API server's Service and is judged on the servers behind it.
	APIServerIP
)

var kindNames = [...]string{"unknown", "podIP", "clusterIP", "lookup", "nodeIP", "nodePort", "outsideIP", "apiServerIP"}

// String is the kind's name as reports print it.
func (k Kind) String() string {
	if int(k) >= len(kindNames) {
		return fmt.Sprintf("invalid(%d)", uint8(k))
	}
	return kindNames[k]
}

// MarshalText writes the name.
func (k Kind) MarshalText() ([]byte, error) {
	if int(k) >= len(kindNames) {
		return nil, fmt.Errorf("writing a kind of destination: %d has no name", uint8(k))
	}
	return []byte(kindNames[k]), nil
}

// UnmarshalText reads the name; anything else is an error.
func (k *Kind) UnmarshalText(b []byte) error {
	n := slices.Index(kindNames[:], string(b))
	if n < 0 {
		return fmt.Errorf("reading a kind of destination: %q is not one of %s", b, strings.Join(kindNames[:], ", "))
	}
	*k = Kind(n)
	return nil
}

// Planned is one attempt of a scenario, the same in every step.
type Planned struct {
	// ID is readable, unique in its scenario and stable between runs: "x/a>y/b:TCP/80", "x/a>y/b:ICMP", "x/a>service:y/web:TCP/80", "x/a>dns:web.y",
	// "x/a>node:b:TCP/8080", "x/a>node:b:y/web:TCP/80" (a node port is named by the Service's own port, since its number is the cluster's),
	// "x/a>outside:h:TCP/80", "outside:h>x/a:TCP/80", "x/a>api-server:TCP/443". Where the world asks for families, those over IPv6 are told by "TCP6/80", "ICMP6" and
	// "x/a>dns:web.y:AAAA". `gapproof run FILE --attempt ID` repeats just this one.
	ID string `json:"id"`
	// Source is "namespace/pod" or "outside:NAME"; Destination is one of these, "service:namespace/name", "node:place",
	// "node:place:namespace/name", "api-server" or "dns:name.namespace", all as written in the scenario.
	Source      string          `json:"source"`
	Destination string          `json:"destination"`
	Kind        Kind            `json:"kind"`
	Protocol    probes.Protocol `json:"protocol"`
	// Family is set where the world asks for families; a lookup's is that of the records. Else it is the cluster's first one.
	Family probes.Family `json:"family,omitzero"`
	Port   uint16        `json:"port,omitempty"`
	// Address is where the packet is sent; invalid for Lookup, where Name is the fully qualified name. Of an API server it is the certificate's.
	Address netip.AddrPort `json:"address,omitzero"`
	Name    string         `json:"name,omitempty"`
	// Responders are the identities (pods and hosts outside as in the scenario) that may answer: the destination, or every backend the
	// Service has before the first step; [APIServerName] for an API server.
	Responders []string `json:"responders,omitempty"`
	// Answers are the addresses a Lookup must return: the Service's, or for a headless one all its pods'.
	Answers []netip.Addr `json:"answers,omitempty"`
	// SameNode tells whether source and destination share a node; for Services: all backends do.
	SameNode bool `json:"sameNode"`
	// Lacking says why the attempt is not made at all: an end has no address of the family. Address and Answers are empty then.
	Lacking string `json:"lacking,omitempty"`
}

// Self tells whether the attempt stays inside one pod.
func (p Planned) Self() bool { return p.Kind == PodIP && p.Source == p.Destination }

// FromOutside tells whether a host outside the cluster makes the attempt.
func (p Planned) FromOutside() bool { return scenarios.IsOutside(p.Source) }

// Notation is protocol and port as IDs and reports have them: "TCP/80", "UDP6/53" over IPv6, "ICMP", and "DNS" for a lookup.
func (p Planned) Notation() string {
	text := notation(p.Protocol, p.Family)
	if p.Protocol != probes.DNS && p.Port != 0 {
		text += fmt.Sprintf("/%d", p.Port)
	}
	return text
}

// Records is the family of the records that a Lookup asks for: the world's, and without one that of the addresses it must return, as a cluster
// of IPv6 alone has no others. Unknown stands for IPv4.
func (p Planned) Records() probes.Family {
	if p.Family == probes.FamilyUnknown && len(p.Answers) > 0 && familyOf(p.Answers[0]) == probes.IPv6 {
		return probes.IPv6
	}
	return p.Family
}

// Plan is a scenario made concrete for one cluster. Attempts are in the order source, destination, protocol, port: sources as the
// world writes them, pods before hosts outside; destinations likewise, pods before echoes to them before Services before nodes before hosts
// outside before the API server before lookups; TCP before UDP before SCTP; IPv4 before IPv6.
type Plan struct {
	Scenario *scenarios.Scenario `json:"-"`
	Name     string              `json:"scenario"`
	// Invented tells that the addresses are not a cluster's; see [Facts].
	Invented bool      `json:"invented,omitempty"`
	Attempts []Planned `json:"attempts"`
	Steps    []Step    `json:"steps"`

	facts Facts
	later map[int]Facts // by step that changed pods: the facts since
	only  string        // the ID that Only selected
}

// Step is one step with the state it leads to.
type Step struct {
	Name string `json:"name"`
	// Changes are what to do in the cluster, in order: applies and replaces, deletes, relabels, pods. Names are the cluster's
	// (prefix applied, selectors on kubernetes.io/metadata.name rewritten).
	Changes []Change `json:"changes"`
	// World, Policies and ClusterPolicies are in effect after the changes, with the cluster's names.
	World           reach.World           `json:"-"`
	Policies        []reach.Policy        `json:"-"`
	ClusterPolicies []reach.ClusterPolicy `json:"-"`
	// Promises has one entry per attempt, same index.
	Promises []Promise `json:"promises"`
}

// Change is one change; exactly one field is set.
type Change struct {
	// Apply creates the policy or replaces the one of that name.
	Apply *reach.Policy `json:"apply,omitempty"`
	// Delete is "namespace/name" of a policy.
	Delete string `json:"delete,omitempty"`
	// ApplyCluster and DeleteCluster are the same for ClusterNetworkPolicies, which have a name alone. Their subjects are narrowed to the
	// world's namespaces.
	ApplyCluster  *reach.ClusterPolicy `json:"applyCluster,omitempty"`
	DeleteCluster string               `json:"deleteCluster,omitempty"`
	// Relabel sets and removes labels.
	Relabel *Relabel `json:"relabel,omitempty"`
	// Remake changes whether, where and as which instance a pod is there.
	Remake *Remake `json:"remake,omitempty"`
}

// Remake deletes a pod, if it is there, and makes it again unless it shall be gone.
type Remake struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Labels are those it comes back with.
	Labels map[string]string `json:"labels,omitempty"`
	// Place is where it goes, "a" or "b" …; empty for the node it was on.
	Place string `json:"place,omitempty"`
	Gone  bool   `json:"gone,omitempty"`
}

// Relabel sets (value) or removes (nil) labels. Pod is empty for the namespace itself.
type Relabel struct {
	Namespace string             `json:"namespace"`
	Pod       string             `json:"pod,omitempty"`
	Labels    map[string]*string `json:"labels"`
}

// Promise is what must hold for one attempt after one step.
type Promise struct {
	// Intended is the person's verdict, Unknown where the scenario states none.
	Intended reach.Verdict `json:"intended"`
	// IntendedBy is the field that says so, such as "steps[0].expect.deny[1]" or "steps[0].expect.exhaustive".
	IntendedBy string `json:"intendedBy,omitempty"`
	// Derived is the engine's decision. For several backends: their common decision; Unknown with a note when they differ.
	Derived reach.Decision `json:"derived"`
	// Backends are the Service's backends after this step where labels have changed them since the baseline: they replace
	// Responders, and the baseline does not speak for the path to them. Nil where nothing changed.
	Backends []string `json:"backends,omitempty"`
	// Skip says why this attempt cannot be judged after this step; empty when it can.
	Skip string `json:"skip,omitempty"`
}

// Verdict is the promise: intended where stated, else derived.
func (p Promise) Verdict() reach.Verdict {
	if p.Intended != reach.Unknown {
		return p.Intended
	}
	return p.Derived.Verdict
}
