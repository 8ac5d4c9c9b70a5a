package manifest

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	strictjson "sigs.k8s.io/json"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/reach"
)

const (
	clusterPolicyKind       = "ClusterNetworkPolicy"
	clusterPolicyAPIVersion = npav1alpha2.GroupName + "/v1alpha2"
)

// ClusterPolicy is a ClusterNetworkPolicy with the lines of its fields.
type ClusterPolicy struct {
	reach.ClusterPolicy
	Lines Lines
}

// Place is where a field was written, or what it lies within.
func (p *ClusterPolicy) Place(field string) Place {
	if line := p.Lines.Of(field); line > 0 {
		return Place{p.File, line}
	}
	return Place{p.File, p.Line}
}

// BareCluster are the ClusterNetworkPolicies as the engine takes them.
func (s *Set) BareCluster() []reach.ClusterPolicy {
	out := make([]reach.ClusterPolicy, len(s.Cluster))
	for i := range s.Cluster {
		out[i] = s.Cluster[i].ClusterPolicy
	}
	return out
}

// FindCluster is the ClusterNetworkPolicy of that name; nil when there is none.
func (s *Set) FindCluster(name string) *ClusterPolicy {
	for i := range s.Cluster {
		if s.Cluster[i].Spec.Name == name {
			return &s.Cluster[i]
		}
	}
	return nil
}

func (r *reader) clusterPolicy(place Place, n *yaml.Node, version string) {
	if version != clusterPolicyAPIVersion {
		r.fault(place, "apiVersion", clusterPolicyKind+" is of "+clusterPolicyAPIVersion+", not of "+strconv.Quote(version))
		return
	}
	content, ok := r.encoded(place, n)
	if !ok {
		return
	}
	p := ClusterPolicy{Lines: linesOf(n)}
	p.File, p.Line = place.File, place.Line
	strict, err := strictjson.UnmarshalStrict(content, &p.Spec)
	if err != nil {
		r.fault(place, "", "reading "+clusterPolicyKind+": "+strings.TrimPrefix(err.Error(), "json: "))
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
	p.Spec.Status = npav1alpha2.ClusterNetworkPolicyStatus{}
	if first := r.set.FindCluster(p.Spec.Name); first != nil {
		r.fault(place, "metadata.name", clusterPolicyKind+" "+p.Spec.Name+" is written already at "+first.Place("").String())
		return
	}
	r.set.Cluster = append(r.set.Cluster, p)
}
