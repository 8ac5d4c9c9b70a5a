package differential

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/gapproof/gapproof/runner/reach"
)

// Case is a world, its policies and one question about it.
type Case struct {
	World    reach.World                  `json:"world"`
	Policies []networkingv1.NetworkPolicy `json:"policies"`
	Query    reach.Query                  `json:"query"`
}

// String is the case as YAML, with what each engine says.
func (c Case) String() string {
	text, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Sprintf("a case that cannot be written: %v", err)
	}
	ours, err := Ours(c)
	if err != nil {
		return fmt.Sprintf("%s# reach: %v\n", text, err)
	}
	return fmt.Sprintf("%s# reach: %s, cyclonus: %s\n", text, ours, Theirs(c))
}

// Disagree tells whether the two engines answer the case differently. A case that reach refuses is no disagreement: the API server would
// refuse it, too.
func (c Case) Disagree() bool {
	ours, err := Ours(c)
	return err == nil && ours != Theirs(c)
}

// Ours is the answer of reach; the error is that of compiling or deciding.
func Ours(c Case) (reach.Verdict, error) {
	e, err := Engine(c)
	if err != nil {
		return reach.Unknown, err
	}
	d, err := e.Decide(c.Query)
	return d.Verdict, err
}

// Engine compiles the case with reach, from the policies as written.
func Engine(c Case) (*reach.Engine, error) {
	policies := make([]reach.Policy, len(c.Policies))
	for i, p := range c.Policies {
		policies[i].Spec = p
	}
	return reach.Compile(c.World, policies)
}

// Theirs is the answer of cyclonus' matcher.
func Theirs(c Case) reach.Verdict { return NewCyclonus(c.World, c.Policies).Decide(c.Query) }

// Cyclonus is its matcher together with the world, which it wants anew with every question.
type Cyclonus struct {
	policy *matcher.Policy
	pods   map[[2]string]reach.Pod
	labels map[string]map[string]string
}

// NewCyclonus compiles the policies with cyclonus.
func NewCyclonus(w reach.World, policies []networkingv1.NetworkPolicy) *Cyclonus {
	c := &Cyclonus{pods: map[[2]string]reach.Pod{}, labels: map[string]map[string]string{}}
	defaulted := make([]*networkingv1.NetworkPolicy, len(policies))
	for i := range policies {
		defaulted[i] = Defaulted(policies[i])
	}
	c.policy = matcher.BuildNetworkPolicies(true, defaulted)
	for _, p := range w.Pods {
		c.pods[[2]string{p.Namespace, p.Name}] = p
	}
	for _, ns := range w.Namespaces {
		labels := map[string]string{}
		maps.Copy(labels, ns.Labels)
		labels[corev1.LabelMetadataName] = ns.Name
		c.labels[ns.Name] = labels
	}
	return c
}

// Decide is the verdict of both directions together.
func (c *Cyclonus) Decide(q reach.Query) reach.Verdict {
	traffic := &matcher.Traffic{
		Source: c.peer(q.Source), Destination: c.peer(q.Destination), ResolvedPort: int(q.Port), Protocol: q.Protocol,
		ResolvedPortName: cmp.Or(slices.Concat(portNames(c.pods[[2]string{q.Destination.Namespace, q.Destination.Pod}], q), []string{""})...),
	}
	if c.policy.IsTrafficAllowed(traffic).IsAllowed() {
		return reach.Allow
	}
	return reach.Deny
}

// portNames are the names that the pod gives the query's port.
func portNames(p reach.Pod, q reach.Query) []string {
	var out []string
	for _, port := range p.Ports {
		if port.Protocol == q.Protocol && port.Port == q.Port {
			out = append(out, port.Name)
		}
	}
	return out
}

func (c *Cyclonus) peer(e reach.Endpoint) *matcher.TrafficPeer {
	if e.Pod == "" {
		return &matcher.TrafficPeer{IP: e.Addr.String()}
	}
	p := c.pods[[2]string{e.Namespace, e.Pod}]
	return &matcher.TrafficPeer{
		IP:       p.IPs[0].String(),
		Internal: &matcher.InternalPeer{PodLabels: p.Labels, Namespace: p.Namespace, NamespaceLabels: c.labels[p.Namespace]},
	}
}

// Defaulted is the policy as the API server stores it: policyTypes and protocols filled in.
func Defaulted(p networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	out := p.DeepCopy()
	if len(out.Spec.PolicyTypes) == 0 {
		out.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(out.Spec.Egress) > 0 {
			out.Spec.PolicyTypes = append(out.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			if list[i].Protocol == nil {
				list[i].Protocol = new(corev1.ProtocolTCP)
			}
		}
	}
	for i := range out.Spec.Ingress {
		ports(out.Spec.Ingress[i].Ports)
	}
	for i := range out.Spec.Egress {
		ports(out.Spec.Egress[i].Ports)
	}
	return out
}
