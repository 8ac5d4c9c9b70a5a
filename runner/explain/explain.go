package explain

import (
	"errors"
	"fmt"
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

// Report is the whole answer to one question.
type Report struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Port
	// Verdict is allow when every answer allows, deny when any denies.
	Verdict reach.Verdict `json:"verdict"`
	Answers []Answer      `json:"answers"`
}

// Answer is the derived verdict about one pair of ends.
type Answer struct {
	// Destination is "namespace/pod" or the address, and Port the one policies see: after a Service's translation.
	Destination string `json:"destination"`
	Port
	Verdict reach.Verdict `json:"verdict"`
	Egress  reach.Side    `json:"egress"`
	Ingress reach.Side    `json:"ingress"`
	Notes   []Note        `json:"notes,omitempty"`
}

// Note is a place where clusters differ that had a part in the answer.
type Note struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// Ask derives the answer. set must be what the engine was compiled from; lines come from it. Errors match reach.ErrUnknownPod, [ErrUnknown] or
// [ErrNoBackend], or tell of a question without any pod.
func Ask(engine *reach.Engine, set *manifest.Set, source, destination Target, port Port) (*Report, error) {
	r := &Report{Source: source.String(), Destination: destination.String(), Port: port, Verdict: reach.Allow}
	ends := []end{{destination.Endpoint, port}}
	if destination.Service != "" {
		var err error
		if ends, err = backends(set, destination.Service, port); err != nil {
			return nil, fmt.Errorf("finding what stands behind %s: %w", destination, err)
		}
	}
	for _, e := range ends {
		d, err := engine.Decide(reach.Query{Source: source.Endpoint, Destination: e.Endpoint, Protocol: e.Protocol, Port: e.Number})
		if err != nil {
			return nil, withNearest(err, set, source, destination)
		}
		locate(set, &d.Egress)
		locate(set, &d.Ingress)
		a := Answer{Destination: e.Endpoint.String(), Port: e.Port, Verdict: d.Verdict, Egress: d.Egress, Ingress: d.Ingress}
		for _, id := range d.Notes {
			if id == reach.NoteSelfTraffic && destination.Service != "" {
				id = reach.NoteHairpin
			}
			a.Notes = append(a.Notes, Note{id, noteText(id)})
		}
		if d.Verdict != reach.Allow {
			r.Verdict = reach.Deny
		}
		r.Answers = append(r.Answers, a)
	}
	return r, nil
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
