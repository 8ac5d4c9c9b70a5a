package scenarios

import (
	"encoding/json"
	"slices"

	"go.yaml.in/yaml/v3"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

const (
	clusterPolicyGroup      = npav1alpha2.GroupName
	clusterPolicyAPIVersion = clusterPolicyGroup + "/v1alpha2"
	clusterPolicyKind       = "ClusterNetworkPolicy"
	clusterPolicyListKind   = "ClusterNetworkPolicyList"
)

// locatedCluster is a ClusterNetworkPolicy and where its faults belong.
type locatedCluster struct {
	ClusterPolicy
	document *document
	path     *field.Path // nil: the policy is the whole document
}

// inlineCluster is inline for ClusterNetworkPolicies.
func (d *document) inlineCluster(list []npav1alpha2.ClusterNetworkPolicy, at string) []locatedCluster {
	out := make([]locatedCluster, 0, len(list))
	for i, p := range list {
		each := item(at, i)
		if p.APIVersion != "" {
			checkType(d, each, p.APIVersion, clusterPolicyAPIVersion)
		}
		if p.Kind != "" && p.Kind != clusterPolicyKind {
			d.fault(child(each, "kind"), p.Kind, "write kind: "+clusterPolicyKind, "%s is not a %s", p.Kind, clusterPolicyKind)
		}
		out = append(out, locatedCluster{
			ClusterPolicy: ClusterPolicy{Spec: p, File: d.file, Line: d.at(each), Lines: linesOf(d.file, nodeAt(d.node, each))}, document: d,
			path: field.NewPath(at).Index(i),
		})
	}
	return out
}

// statusless takes the status out of policies that a cluster printed. A person who writes one makes a mistake, which validation tells.
func (d *document) statusless(list []locatedCluster) []locatedCluster {
	for i := range list {
		list[i].Spec.Status = npav1alpha2.ClusterNetworkPolicyStatus{}
	}
	return list
}

// anyList is a List whose items may be of different kinds.
type anyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []json.RawMessage `json:"items"`
}

// list reads a List as `kubectl get networkpolicies,clusternetworkpolicies -o yaml` prints it. An item that does not say what it is, is a
// NetworkPolicy.
func (d *document) list(node *yaml.Node) gathered {
	var head anyList
	d.decode(node, "", &head)
	checkType(d, "", head.APIVersion, listAPIVersion)
	items := value(node, "items")
	if items == nil || items.Kind != yaml.SequenceNode {
		return gathered{} // told by decoding
	}
	var out gathered
	for i, n := range items.Content {
		at := item("items", i)
		path := field.NewPath("items").Index(i)
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		if topLevel(n, "kind") == clusterPolicyKind {
			var p npav1alpha2.ClusterNetworkPolicy
			d.decode(n, at, &p)
			checkType(d, at, p.APIVersion, clusterPolicyAPIVersion)
			p.Status = npav1alpha2.ClusterNetworkPolicyStatus{}
			out.cluster = append(out.cluster, locatedCluster{ClusterPolicy: ClusterPolicy{Spec: p, File: d.file, Line: d.at(at), Lines: linesOf(d.file, n)}, document: d, path: path})
			continue
		}
		var p networkingv1.NetworkPolicy
		d.decode(n, at, &p)
		if p.APIVersion != "" {
			checkType(d, at, p.APIVersion, policyAPIVersion)
		}
		if p.Kind != "" && p.Kind != policyKind {
			d.fault(child(at, "kind"), p.Kind, "write kind: "+policyKind, "%s is not a %s", p.Kind, policyKind)
		}
		out.network = append(out.network, located{Policy: Policy{Spec: p, File: d.file, Line: d.at(at), Lines: linesOf(d.file, n)}, document: d, path: path})
	}
	return out
}

// clusterPolicy decodes a ClusterNetworkPolicy.
func (r *manifestReader) clusterPolicy(m *manifest) locatedCluster {
	doc := m.document(r.sink)
	var p npav1alpha2.ClusterNetworkPolicy
	doc.decode(m.node, "", &p)
	checkType(doc, "", m.apiVersion, clusterPolicyAPIVersion)
	p.Status = npav1alpha2.ClusterNetworkPolicyStatus{}
	return locatedCluster{ClusterPolicy: ClusterPolicy{Spec: p, File: m.file, Line: m.line(), Template: m.template, Lines: m.lines()}, document: doc}
}

// checkClusterPolicies validates every ClusterNetworkPolicy and returns the names that steps may use, in order.
func (c *checker) checkClusterPolicies() []string {
	var known []string
	for _, p := range c.cluster {
		name := c.checkClusterPolicy(p)
		if slices.Contains(known, name) {
			p.document.fault(p.path.Child("metadata", "name").String(), name, "", "policy %s is given twice", name)
			continue
		}
		known = append(known, name)
	}
	return known
}

// checkClusterPolicy validates one and returns its name.
func (c *checker) checkClusterPolicy(p locatedCluster) string {
	v := clusterValidator{written: p.document.written, cidrs: policyValidator{hosts: c.isHost}}
	p.document.fieldErrors(v.policy(&p.Spec, p.path))
	return p.Spec.Name
}

// written tells whether a field stands in the document.
func (d *document) written(at *field.Path) bool {
	_, is := d.lines[at.String()]
	return is
}
