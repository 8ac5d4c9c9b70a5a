package evidence

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	npav1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"github.com/gapproof/gapproof/runner/plan"
)

// heldPolicy is one policy that the API server held after a step, of either kind.
type heldPolicy struct {
	step string
	// key is "namespace/name", or the name alone of a ClusterNetworkPolicy.
	key              string
	apiVersion, kind string
	// spec is the JSON of its spec, in the one form that encoding/json gives its type; or err says why there is none.
	spec []byte
	err  error
}

// policies holds the NetworkPolicies that the API server returned after every step against those that the plan has in effect then.
func (v *verifier) policies(rec record) {
	var all []heldPolicy
	for _, s := range rec.policies {
		h := heldPolicy{step: s.Step, key: s.Policy.Namespace + "/" + s.Policy.Name, apiVersion: s.Policy.APIVersion, kind: s.Policy.Kind}
		h.spec, h.err = json.Marshal(s.Policy.Spec)
		all = append(all, h)
	}
	v.held(rec, rec.folder+"/"+policiesFile, networkingv1.SchemeGroupVersion.String()+" "+policyKind, all, func(st plan.Step) (planned []heldPolicy) {
		for _, p := range st.Policies {
			h := heldPolicy{key: p.Spec.Namespace + "/" + p.Spec.Name}
			h.spec, h.err = json.Marshal(defaulted(p.Spec.Spec))
			planned = append(planned, h)
		}
		return planned
	})
}

// clusterPolicies does the same with ClusterNetworkPolicies, whose API fills in no defaults.
func (v *verifier) clusterPolicies(rec record) {
	var all []heldPolicy
	for _, s := range rec.cluster {
		u := unstructured.Unstructured{Object: s.Policy}
		h := heldPolicy{step: s.Step, key: u.GetName(), apiVersion: u.GetAPIVersion(), kind: u.GetKind()}
		var spec npav1alpha2.ClusterNetworkPolicySpec
		raw, err := json.Marshal(s.Policy["spec"])
		if err == nil {
			err = strictly(raw, &spec)
		}
		h.spec, h.err = remarshal(spec, err)
		all = append(all, h)
	}
	kind := npav1alpha2.GroupVersion.Group + "/" + npav1alpha2.GroupVersion.Version + " " + clusterPolicyKind
	v.held(rec, rec.folder+"/"+clusterPoliciesFile, kind, all, func(st plan.Step) (planned []heldPolicy) {
		for _, p := range st.ClusterPolicies {
			h := heldPolicy{key: p.Spec.Name}
			h.spec, h.err = json.Marshal(p.Spec.Spec)
			planned = append(planned, h)
		}
		return planned
	})
}

// remarshal is v's JSON, unless reading it has failed.
func remarshal(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// held compares all, one per line of file and in its order, with what is planned after each step. Kind is the one that all must have.
func (v *verifier) held(rec record, file, kind string, all []heldPolicy, planned func(plan.Step) []heldPolicy) {
	type place struct {
		heldPolicy
		line int
	}
	held := map[string]map[string]place{}
	last := place{}
	for i, h := range all {
		line := i + 1
		if !slices.ContainsFunc(rec.plan.Steps, func(st plan.Step) bool { return st.Name == h.step }) {
			v.add(file, line, "", "step %q: the scenario has none of that name", h.step)
		}
		if held[h.step] == nil {
			held[h.step] = map[string]place{}
		}
		if got := h.apiVersion + " " + h.kind; got != kind {
			v.add(file, line, "", "step %q: policy %s is of %s, want %s", h.step, h.key, got, kind)
		}
		switch _, twice := held[h.step][h.key]; {
		case twice:
			v.add(file, line, "", "step %q: policy %s is there twice", h.step, h.key)
		case i > 0 && h.step == last.step && h.key < last.key, i > 0 && v.stepIndex(rec, h.step) < v.stepIndex(rec, last.step):
			v.add(file, line, "", "step %q: policy %s is behind %s of step %q", h.step, h.key, last.key, last.step)
		}
		last = place{h, line}
		held[h.step][h.key] = last
	}
	for n, p := range rec.plans {
		st := p.Steps[n]
		if n >= len(rec.steps) && held[st.Name] == nil {
			continue // the run ended before it
		}
		for _, want := range planned(st) {
			got, ok := held[st.Name][want.key]
			delete(held[st.Name], want.key)
			switch err := errors.Join(want.err, got.err); {
			case !ok:
				v.add(file, 0, "", "step %q: policy %s is planned and the API server did not hold it", st.Name, want.key)
			case err != nil:
				v.add(file, got.line, "", "step %q: policy %s: %v", st.Name, want.key, err)
			case !bytes.Equal(want.spec, got.spec):
				v.add(file, got.line, "", "step %q: policy %s: the API server held %s, planned is %s", st.Name, want.key, got.spec, want.spec)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(held[st.Name])) {
			v.add(file, held[st.Name][key].line, "", "step %q: policy %s: the API server held it and it is not planned", st.Name, key)
		}
		delete(held, st.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		for _, key := range slices.Sorted(maps.Keys(held[name])) {
			v.add(file, held[name][key].line, "", "step %q: policy %s: the run did not come to that step", name, key)
		}
	}
}

// stepIndex is where a step is in the scenario, or -1.
func (v *verifier) stepIndex(rec record, name string) int {
	return slices.IndexFunc(rec.plan.Steps, func(st plan.Step) bool { return st.Name == name })
}

// defaulted is a spec as the API server stores it: SetDefaults_NetworkPolicy and SetDefaults_NetworkPolicyPort in
// https://github.com/kubernetes/kubernetes/blob/master/pkg/apis/networking/v1/defaults.go.
func defaulted(spec networkingv1.NetworkPolicySpec) networkingv1.NetworkPolicySpec {
	spec = *spec.DeepCopy()
	if len(spec.PolicyTypes) == 0 {
		spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	tcp := corev1.ProtocolTCP
	protocols := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = &tcp
			}
		}
	}
	for i := range spec.Ingress {
		protocols(spec.Ingress[i].Ports)
	}
	for i := range spec.Egress {
		protocols(spec.Egress[i].Ports)
	}
	return spec
}
