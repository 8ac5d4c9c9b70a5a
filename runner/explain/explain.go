package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/manifest"
	"github.com/gapproof/gapproof/runner/reach"
)

// Errors of questions that nothing can be said to. The first two are faults of the question.
var (
	// ErrUnknown is in the error of a question that names a Service the set lacks, or a port that the Service lacks; see also [reach.ErrUnknownPod].
	ErrUnknown = errors.New("there is no such Service or port")
	// ErrNoBackend is in the error of a question about a Service that no pod stands behind: policies are judged after the translation to a pod,
	// and there is none.
	ErrNoBackend = errors.New("no pod stands behind the Service")
)

// Options narrow a question, and say what the set does not.
type Options struct {
	// Family is the one that is asked about; FirstAddress is every family that both ends have.
	Family reach.Family
	// PodRanges are the cluster's pod networks, which addresses that files do not state are assumed to be of. Default: any that pods commonly have.
	PodRanges []netip.Prefix
}

// Report is the whole answer to one question.
type Report struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Port
	// Verdict is allow when every answer allows, deny when any denies, else unknown.
	Verdict reach.Verdict `json:"verdict"`
	Answers []Answer      `json:"answers"`
}

// Answer is the derived verdict about one pair of ends.
type Answer struct {
	// Destination is "namespace/pod" or the address, and Port the one policies see: after a Service's translation.
	Destination string `json:"destination"`
	Port
	// Families are the address families that it holds for, "IPv4" and "IPv6"; families that are decided otherwise have an answer of their own.
	Families []string `json:"families,omitempty"`
	// Verdict is unknown where it rests on an address that was assumed; the sides are what holds at that address.
	Verdict reach.Verdict `json:"verdict"`
	Egress  reach.Side    `json:"egress"`
	Ingress reach.Side    `json:"ingress"`
	Notes   []Note        `json:"notes,omitempty"`
	// Assumed are the addresses that files do not state and that a side rests on.
	Assumed []Assumption `json:"assumed,omitempty"`
	// Unreachable says why no such connection comes about, whatever policies say; empty where one may.
	Unreachable string `json:"unreachable,omitempty"`
}

// Note is a place where clusters differ that had a part in the answer.
type Note struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// Ask derives the answer. set must be what the engine was compiled from; lines come from it. Errors match reach.ErrUnknownPod, [ErrUnknown],
// [ErrNoBackend] or [ErrNoFamily], or tell of a question without any pod.
func Ask(engine *reach.Engine, set *manifest.Set, source, destination Target, port Port, o Options) (*Report, error) {
	r := &Report{Source: source.String(), Destination: destination.String(), Port: port}
	ends := []end{{destination.Endpoint, port}}
	if destination.Service != "" {
		var err error
		if ends, err = backends(set, destination.Service, port); err != nil {
			return nil, fmt.Errorf("finding what stands behind %s: %w", destination, err)
		}
	}
	l := newLocator(set, o.PodRanges)
	for _, e := range ends {
		connections := l.connections(source.Endpoint, e.Endpoint)
		if o.Family != reach.FirstAddress {
			connections = slices.DeleteFunc(connections, func(c connection) bool { return c.family != o.Family })
			if len(connections) == 0 {
				return nil, fmt.Errorf("asking about %s to %s over %s: %w", source, e.Endpoint, o.Family, ErrNoFamily)
			}
		}
		var answers []Answer
		for _, c := range connections {
			a, err := l.answer(engine, e, c)
			if err != nil {
				return nil, withNearest(err, set, source, destination)
			}
			locate(set, &a.Egress)
			locate(set, &a.Ingress)
			if destination.Service != "" {
				for i := range a.Notes {
					if a.Notes[i].ID == reach.NoteSelfTraffic {
						a.Notes[i] = Note{reach.NoteHairpin, noteText(reach.NoteHairpin)}
					}
				}
			}
			if n := len(answers) - 1; n >= 0 && same(&answers[n], &a) {
				answers[n].Families = append(answers[n].Families, a.Families...)
				answers[n].Assumed = append(answers[n].Assumed, a.Assumed...)
				continue
			}
			answers = append(answers, a)
		}
		r.Answers = append(r.Answers, answers...)
	}
	r.Verdict = reach.Allow
	for i := range r.Answers {
		switch r.Answers[i].Verdict {
		case reach.Deny:
			r.Verdict = reach.Deny
		case reach.Unknown:
			if r.Verdict == reach.Allow {
				r.Verdict = reach.Unknown
			}
		}
	}
	return r, nil
}

// answer decides one connection.
func (l *locator) answer(engine *reach.Engine, e end, c connection) (Answer, error) {
	q := reach.Query{Source: c.source.Endpoint, Destination: c.destination.Endpoint, Protocol: e.Protocol, Port: e.Number}
	d, err := engine.Decide(q)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Destination: e.Endpoint.String(), Port: e.Port, Egress: d.Egress, Ingress: d.Ingress, Unreachable: c.none}
	if c.family != reach.FirstAddress {
		a.Families = []string{c.family.String()}
	}
	for _, id := range d.Notes {
		a.Notes = append(a.Notes, Note{id, noteText(id)})
	}
	if a.Assumed, err = l.assumptions(engine, q, c, d); err != nil {
		return Answer{}, err
	}
	a.Verdict = rests(d, a.Assumed)
	return a, nil
}

// same tells whether two families are decided alike: the same verdicts by the same rules. What a rule that came near lacked may be worded otherwise.
func same(a, b *Answer) bool {
	return a.Verdict == b.Verdict && sameSide(&a.Egress, &b.Egress) && sameSide(&a.Ingress, &b.Ingress) && slices.Equal(a.Notes, b.Notes) && len(a.Assumed) == len(b.Assumed)
}

func sameSide(a, b *reach.Side) bool {
	field := func(r *reach.Ref) string {
		if r == nil {
			return ""
		}
		return r.Policy + " " + r.Field
	}
	return a.Verdict == b.Verdict && field(a.Allowing) == field(b.Allowing) && field(a.Denying) == field(b.Denying) &&
		slices.EqualFunc(a.Passing, b.Passing, func(x, y reach.Ref) bool { return field(&x) == field(&y) })
}

// end is one destination and its port as policies see them.
type end struct {
	reach.Endpoint
	Port
}

// backends are the pods behind a Service, each with the port it is reached on.
func backends(set *manifest.Set, name string, port Port) ([]end, error) {
	i := slices.IndexFunc(set.Services, func(s manifest.Service) bool { return s.Namespace+"/"+s.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("finding service %s: %w", name, ErrUnknown)
	}
	s := &set.Services[i]
	at := slices.IndexFunc(s.Ports, func(p manifest.ServicePort) bool { return p.Protocol == port.Protocol && p.Port == port.Number })
	if at < 0 {
		var have []string
		for _, p := range s.Ports {
			have = append(have, fmt.Sprintf("%s/%d", p.Protocol, p.Port))
		}
		return nil, fmt.Errorf("%s, the Service has %s: %w", port, strings.Join(have, ", "), ErrUnknown)
	}
	var out []end
	for j := range set.World.Pods {
		p := &set.World.Pods[j]
		if !s.Selects(p) {
			continue
		}
		if on, ok := s.Ports[at].On(p); ok {
			out = append(out, end{reach.Endpoint{Namespace: p.Namespace, Pod: p.Name}, Port{port.Protocol, on}})
		}
	}
	if len(out) == 0 {
		return nil, ErrNoBackend
	}
	return out, nil
}

// withNearest adds to an error about an unknown pod which ones of its namespace there are.
func withNearest(err error, set *manifest.Set, ends ...Target) error {
	if !errors.Is(err, reach.ErrUnknownPod) {
		return err
	}
	for _, t := range ends {
		if t.Endpoint.Pod == "" || slices.ContainsFunc(set.World.Pods, func(p reach.Pod) bool {
			return p.Namespace == t.Endpoint.Namespace && p.Name == t.Endpoint.Pod
		}) {
			continue
		}
		return &UnknownPodError{Pod: t.String(), Known: podsOf(set, t.Endpoint.Namespace), err: err}
	}
	return err
}

// UnknownPodError is a question about a pod that is not there. It matches reach.ErrUnknownPod.
type UnknownPodError struct {
	// Pod is "namespace/pod" as it was asked for; Known are the pods of that namespace, or all of them when it has none, at most a few.
	Pod   string
	Known []string
	err   error
}

func (e *UnknownPodError) Error() string { return e.err.Error() }

// Unwrap is the engine's error.
func (e *UnknownPodError) Unwrap() error { return e.err }

// Hint names pods that there are.
func (e *UnknownPodError) Hint() string {
	if len(e.Known) == 0 {
		return "there is no pod at all"
	}
	return "there are " + strings.Join(e.Known, ", ")
}

// knownPods is how many pods a hint names.
const knownPods = 8

func podsOf(set *manifest.Set, namespace string) []string {
	var in, all []string
	for _, p := range set.World.Pods {
		name := p.Namespace + "/" + p.Name
		all = append(all, name)
		if p.Namespace == namespace {
			in = append(in, name)
		}
	}
	if len(in) == 0 {
		in = all
	}
	slices.Sort(in)
	return in[:min(len(in), knownPods)]
}

// locate gives every reference the line of its field, where the engine knows only that of the document.
func locate(set *manifest.Set, s *reach.Side) {
	at := func(r *reach.Ref) {
		if r == nil {
			return
		}
		if r.Tier != "" {
			if p := set.FindCluster(r.Policy); p != nil {
				place := p.Place(r.Field)
				r.File, r.Line = place.File, place.Line
			}
			return
		}
		if p := set.Find(r.Policy); p != nil {
			place := p.Place(r.Field)
			r.File, r.Line = place.File, place.Line
		}
	}
	for i := range s.Isolating {
		at(&s.Isolating[i])
	}
	for i := range s.Passing {
		at(&s.Passing[i])
	}
	at(s.Allowing)
	at(s.Denying)
	at(s.Nearest)
}

// noteText says what the engine takes where the API leaves something open. One that is not known here is told by its name alone.
func noteText(id string) string {
	for _, n := range reach.Notes() {
		if n.ID == id {
			return n.Open + "; taken here: " + n.Taken
		}
	}
	return id
}
