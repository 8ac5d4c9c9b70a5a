package differential

import (
	"math/rand/v2"
	"testing"

	"github.com/gapproof/gapproof/runner/reach"
)

// withoutExcepts is a matcher with a fault: it knows no except.
func withoutExcepts(c Case) (reach.Verdict, error) {
	c = clone(c)
	for _, p := range c.Policies {
		for _, r := range p.Spec.Ingress {
			for _, from := range r.From {
				if from.IPBlock != nil {
					from.IPBlock.Except = nil
				}
			}
		}
		for _, r := range p.Spec.Egress {
			for _, to := range r.To {
				if to.IPBlock != nil {
					to.IPBlock.Except = nil
				}
			}
		}
	}
	return Ours(c)
}

func TestShrinkLeavesOnlyWhatShowsTheFault(t *testing.T) {
	fails := func(c Case) bool {
		ours, err := Ours(c)
		faulty, _ := withoutExcepts(c)
		return err == nil && ours != faulty
	}
	const wanted = 20
	found := 0
	for seed := uint64(0); found < wanted; seed++ {
		g := worldGenerator{rand.New(rand.NewPCG(seed, 0)), true}
		c := Case{World: g.world(), Policies: g.policies()}
		c.Query = g.query(c.World)
		if !fails(c) {
			continue
		}
		found++
		small := Shrink(c, fails)
		if !fails(small) {
			t.Fatalf("seed %d: the shrunk case does not fail\n%s", seed, small)
		}
		if len(small.Policies) != 1 || len(small.World.Pods) > 2 {
			t.Fatalf("seed %d: want one policy and at most two pods\n%s", seed, small)
		}
		spec := small.Policies[0].Spec
		rules := len(spec.Ingress) + len(spec.Egress)
		if rules > 2 || len(spec.PodSelector.MatchLabels)+len(spec.PodSelector.MatchExpressions) != 0 {
			t.Fatalf("seed %d: want at most two rules (one may be there for its type) and no selector\n%s", seed, small)
		}
	}
}

func TestADisagreementThatNothingExplainsIsFound(t *testing.T) {
	g := worldGenerator{rand.New(rand.NewPCG(1, 0)), true}
	c := Case{World: g.world(), Policies: g.policies()}
	c.Query = reach.Query{Source: reach.Endpoint{Namespace: c.World.Pods[0].Namespace, Pod: c.World.Pods[0].Name}, Destination: reach.Endpoint{Namespace: c.World.Pods[1].Namespace, Pod: c.World.Pods[1].Name}, Protocol: "TCP", Port: 80}
	if d, ok := explained(c); ok {
		t.Errorf("a strict world is explained by %s:\n%s", d.ID, c)
	}
}
