package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

const (
	anyPod         = "*"
	anyPodOfSuffix = "/*"
	// dnsTarget names every lookup in a rule's to.
	dnsTarget = "dns"
	// lookupPort is how a rule with ports names a lookup.
	lookupPort = "UDP/53"
)

// intended is one person's verdict on one attempt and the field that holds it.
type intended struct {
	verdict reach.Verdict
	field   string
}

// intent is what expect says about every attempt, by index. A rule that names no attempt would promise nothing while it seems to,
// and two rules that contradict each other have no meaning: both are faults.
func (b *builder) intent(expect *scenarios.Expect, path string) []intended {
	in := make([]intended, len(b.attempts))
	if expect == nil {
		return in
	}
	mark := func(rules []scenarios.Rule, list string, verdict reach.Verdict) {
		for i, r := range rules {
			field := fmt.Sprintf("%s.%s[%d]", path, list, i)
			named := false
			for j, a := range b.attempts {
				if !ruleNames(r, a) {
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
			if in[i].verdict == reach.Unknown && !loopsBack(a) {
				in[i] = intended{reach.Deny, path + ".exhaustive"}
			}
		}
	}
	return in
}

// ruleNames tells whether rule r names attempt a.
func ruleNames(r scenarios.Rule, a attempt) bool {
	if !portsName(r.Ports, a) {
		return false
	}
	if loopsBack(a) {
		return slices.Contains(r.From, a.Source) && slices.Contains(r.To, a.Destination)
	}
	return slices.ContainsFunc(r.From, func(p string) bool { return patternNames(p, a.Source) }) &&
		slices.ContainsFunc(r.To, func(p string) bool { return patternNames(p, a.Destination) })
}

// loopsBack tells whether an attempt may end where it began: to the pod itself, or to a Service the pod stands behind. Only a
// rule that writes both ends out speaks for such traffic.
func loopsBack(a attempt) bool {
	return slices.Contains(a.Responders, a.Source)
}

// patternNames tells whether a pattern of from or to names an end. "*" and "namespace/*" stand for pods; after "service:" they
// stand for Services.
func patternNames(pattern, end string) bool {
	if strings.HasPrefix(end, "dns:") {
		return pattern == dnsTarget
	}
	if service, ok := strings.CutPrefix(end, "service:"); ok {
		pattern, ok = strings.CutPrefix(pattern, "service:")
		if !ok {
			return false
		}
		end = service
	}
	if namespace, ok := strings.CutSuffix(pattern, anyPodOfSuffix); ok {
		return strings.HasPrefix(end, namespace+"/")
	}
	return pattern == anyPod || pattern == end
}

// portsName tells whether a rule's ports name the attempt's.
func portsName(ports []string, a attempt) bool {
	if len(ports) == 0 {
		return true
	}
	if a.Kind == Lookup {
		return slices.Contains(ports, lookupPort)
	}
	return slices.Contains(ports, fmt.Sprintf("%s/%d", a.Protocol, a.Port))
}
