package seal

import (
	"fmt"
	"net/netip"
	"slices"
)

// Facts are what was found when a seal was put to the proof. Nothing in them is a judgement.
type Facts struct {
	// Unchecked says why the seal was not put to the proof at all; all else is empty then.
	Unchecked string `json:"unchecked,omitempty"`
	// Sources are those from which canaries must have come: every node and a pod.
	Sources []Expected `json:"sources"`
	// Rules are the ways in which the kernel's table is not the one the Spec describes.
	Rules []string `json:"rules,omitempty"`
	// Masquerades are rules that would give the lab's packets an address of this host if they got past the gate.
	Masquerades []string `json:"masquerades,omitempty"`
	// Last is the reading that the proof before this one ended with, Before the one this one began with and After the one it ended with.
	// Began is the reading that the run began with whose proof this is; nil for one that stands alone.
	Began  *Reading `json:"began,omitempty"`
	Last   Reading  `json:"last"`
	Before Reading  `json:"before"`
	After  Reading  `json:"after"`
	// Canaries and Names are what was sent on purpose.
	Canaries []Canary `json:"canaries"`
	Names    []Name   `json:"names"`
	// Foreign are images on nodes that the lock does not list.
	Foreign []NodeImage `json:"foreign,omitempty"`
	// Images is how many images were looked at, over all nodes.
	Images int `json:"images"`
	// Unknown is what could not be found out, and why.
	Unknown []string `json:"unknown,omitempty"`
}

// Canary is what one source sent to be counted in one rule.
type Canary struct {
	// From is the source, such as "node gapproof-dev-worker".
	From    string  `json:"from"`
	Counter Counter `json:"counter"`
	// Sent is how many packets left the source's socket, Counted how many the gate counted then.
	Sent    uint64 `json:"sent"`
	Counted uint64 `json:"counted"`
	// Left is how many of them a tap saw leave this host by another interface than the lab's.
	Left uint64 `json:"left"`
	// Fault says why not all were sent.
	Fault string `json:"fault,omitempty"`
}

// Name is a name that one source asked a resolver for.
type Name struct {
	From string `json:"from"`
	// Name is one that nobody else asks for, below a top-level domain that nobody has (RFC 6761).
	Name   string         `json:"name"`
	Asked  netip.AddrPort `json:"asked"`
	Answer Answer         `json:"answer"`
	// Recorded is how often the sink recorded the name.
	Recorded int    `json:"recorded"`
	Fault    string `json:"fault,omitempty"`
}

// Answer is what a resolver answered.
type Answer string

// The answers.
const (
	// AnswerNone is none within the time.
	AnswerNone Answer = "none"
	// AnswerNoName says that there is no such name.
	AnswerNoName Answer = "no such name"
	// AnswerFailure is any other refusal.
	AnswerFailure Answer = "failure"
	// AnswerAddress is an address, which nobody within the lab can have given.
	AnswerAddress Answer = "address"
)

// NodeImage is an image on a node.
type NodeImage struct {
	Node      string `json:"node"`
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	// Namespace is the container runtime's namespace that the image is in; empty in what earlier builds recorded, which looked at the kubelet's only.
	Namespace string `json:"namespace,omitempty"`
}

// podNamespace is the container runtime's namespace that the kubelet's images are in.
const podNamespace = "k8s.io"

// String names the image, and its namespace where that is not the one in which images are looked for.
func (i NodeImage) String() string {
	where := ""
	if i.Namespace != "" && i.Namespace != podNamespace {
		where = " in the container runtime's namespace " + i.Namespace
	}
	return fmt.Sprintf("image %s on node %s%s", i.Reference, i.Node, where)
}

// How many packets of each kind one source sends: different numbers, so that no kind can be taken for another.
const (
	SendTCP  = 1
	SendUDP  = 2
	SendICMP = 3
	SendHost = 2
	// SendResolver is one question.
	SendResolver = 1
)

// Sends is how many packets a source sends for each counter: nodes all of them, whichever families Kubernetes knows them by, and a pod those of
// the families that it has. Where the network has no IPv6, a node puts frames on the link by itself.
func (s Spec) Sends(k Kind) map[Counter]uint64 {
	out := map[Counter]uint64{}
	if k == NodeSource || s.podsHave(IPv4) {
		out[CanaryTCP], out[CanaryUDP], out[CanaryICMP], out[CanaryHost] = SendTCP, SendUDP, SendICMP, SendHost
	}
	if k == NodeSource {
		out[CanaryResolver] = SendResolver
	}
	if k == NodeSource || s.podsHave(IPv6) {
		out[CanaryTCP6], out[CanaryUDP6], out[CanaryICMP6] = SendTCP, SendUDP, SendICMP
	}
	return out
}

// Kind is what a canary's source is. The zero value is unknown.
type Kind uint8

// The kinds of sources.
const (
	SourceUnknown Kind = iota
	NodeSource
	PodSource
)

// kindNames are the kinds as files have them.
var kindNames = map[Kind]string{NodeSource: "node", PodSource: "pod"}

// MarshalText is "node" or "pod"; the zero value is an error.
func (k Kind) MarshalText() ([]byte, error) {
	name, ok := kindNames[k]
	if !ok {
		return nil, fmt.Errorf("writing the kind of a source: %d is none", k)
	}
	return []byte(name), nil
}

// UnmarshalText reads what MarshalText writes.
func (k *Kind) UnmarshalText(text []byte) error {
	for kind, name := range kindNames {
		if name == string(text) {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("reading the kind of a source: %q is not node or pod", text)
}

// Expected is one source that a proof must have heard of.
type Expected struct {
	From string `json:"from"`
	Kind Kind   `json:"kind"`
}

// Images compares what nodes have with the digests that are locked. closed is every digest the lock reaches: indexes, manifests and configs.
func Images(found []NodeImage, closed map[string]bool) (foreign []NodeImage) {
	for _, i := range found {
		if !closed[i.Digest] {
			foreign = append(foreign, i)
		}
	}
	slices.SortFunc(foreign, func(a, b NodeImage) int {
		return slices.Compare([]string{a.Node, a.Reference, a.Namespace}, []string{b.Node, b.Reference, b.Namespace})
	})
	return foreign
}
