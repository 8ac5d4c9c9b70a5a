package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/probes"
	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// exhaustiveField ends the path of the field that speaks for what no entry names.
const exhaustiveField = ".exhaustive"

// intended is one person's verdict on one attempt and the field that holds it.
type intended struct {
	verdict reach.Verdict
	field   string
}

// intent is what expect says about every attempt in the world w of its step, by index. A rule that names no attempt would promise nothing while it seems to,
// and two rules that contradict each other have no meaning: both are faults.
func (b *builder) intent(expect *scenarios.Expect, path string, w reach.World) []intended {
	in := make([]intended, len(b.attempts))
	if expect == nil {
		return in
	}
	mark := func(rules []scenarios.Rule, list string, verdict reach.Verdict) {
		for i, r := range rules {
			field := fmt.Sprintf("%s.%s[%d]", path, list, i)
			named := false
			for j, a := range b.attempts {
				if !r.Names(b.asNamed(a, w)) {
					continue
				}
				named = true
				switch {
				case in[j].verdict == reach.Unknown:
					in[j] = intended{verdict, field}
				case in[j].verdict != verdict:
					b.faultf("%s: contradicts %s about %s", field, in[j].field, a.ID)
				}
			}
			if !named {
				b.faultf("%s: names no planned attempt (from %s, to %s, ports %s)", field,
					strings.Join(r.From, " "), strings.Join(r.To, " "), strings.Join(r.Ports, " "))
			}
		}
	}
	mark(expect.Allow, "allow", reach.Allow)
	mark(expect.Deny, "deny", reach.Deny)
	if expect.Exhaustive {
		for i, a := range b.attempts {
			if in[i].verdict == reach.Unknown && !b.loopsBack(a, w) {
				in[i] = intended{reach.Deny, path + exhaustiveField}
			}
		}
	}
	return in
}

// loopsBack tells whether an attempt may end where it began: at the pod itself, or at a Service that the pod stands behind in the
// world w. Only a rule that writes both ends out speaks for such traffic.
func (b *builder) loopsBack(a attempt, w reach.World) bool {
	if a.service == nil {
		return slices.Contains(a.Responders, a.Source)
	}
	return slices.Contains(podStrings(b.backends(w, a.service)), a.Source)
}

// asNamed is the attempt in the words of rules.
func (b *builder) asNamed(a attempt, w reach.World) scenarios.Attempt {
	port := fmt.Sprintf("%s/%d", a.Protocol, a.Port)
	if a.Protocol == probes.ICMP {
		port = scenarios.ICMP
	}
	return scenarios.Attempt{
		Source:      a.Source,
		Destination: a.Destination,
		Port:        port,
		LoopsBack:   b.loopsBack(a, w),
		Family:      apiFamily(a.Family),
	}
}
