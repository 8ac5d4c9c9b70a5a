package plan

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gapproof/gapproof/runner/reach"
	"github.com/gapproof/gapproof/scenarios"
)

// Remade are the pods, as the scenario names them, that the step of this index takes away or makes again, in the order of its changes.
func (p *Plan) Remade(step int) []string {
	var pods []string
	for _, c := range p.Steps[step].Changes {
		if r := c.Remake; r != nil {
			pods = append(pods, strings.TrimPrefix(r.Namespace, p.facts.Prefix)+"/"+r.Pod)
		}
	}
	return pods
}

// remake changes pods, and moves on to the facts since.
func (b *builder) remake(st *state, w scenarios.Step, index int) []Change {
	var changes []Change
	var made []podName
	add := func(name string, r Remake) {
		for _, ns := range b.scenario.World.Namespaces {
			for _, p := range ns.Pods {
				pod := podName{ns.Name, p.Name}
				if pod.String() != name {
					continue
				}
				r.Namespace, r.Pod = b.names.namespace(pod.namespace), pod.name
				if n := worldIndex(st.world, r.Namespace, r.Pod); !r.Gone && n >= 0 {
					r.Labels = maps.Clone(st.world.Pods[n].Labels)
					made = append(made, pod)
				}
				st.gone[name] = r.Gone
				changes = append(changes, Change{Remake: &r})
			}
		}
	}
	for _, name := range w.Restart {
		add(name, Remake{})
	}
	for _, m := range w.Move {
		add(m.Pod, Remake{Place: m.Node})
	}
	for _, s := range w.Scale {
		add(s.Pod, Remake{Gone: s.Replicas == 0})
	}
	if len(changes) == 0 {
		return nil
	}
	b.facts = b.after(index, w, made)
	for _, pod := range made {
		facts := b.facts.Pods[pod.String()]
		n := worldIndex(st.world, b.names.namespace(pod.namespace), pod.name)
		st.world.Pods[n].IPs, st.world.Pods[n].Node = facts.Addresses(), facts.Node
	}
	return changes
}

// after are the facts once a step has made pods again: what the cluster told, else the ones before, with new addresses if those were
// invented.
func (b *builder) after(index int, w scenarios.Step, made []podName) Facts {
	if known, ok := b.later[index]; ok {
		return known
	}
	f := b.facts
	f.Pods = maps.Clone(f.Pods)
	for _, pod := range made {
		facts := f.Pods[pod.String()]
		if n := slices.IndexFunc(w.Move, func(m scenarios.Move) bool { return m.Pod == pod.String() }); n >= 0 {
			facts.Node = f.Places[w.Move[n].Node]
			if f.Invented {
				facts.Node = "node-" + w.Move[n].Node
			}
		}
		if written, _ := b.scenario.World.Pod(pod.String()); f.Invented && !written.HostNetwork {
			facts.IP = b.spare(&b.spares, spareAddresses)
			for i := range facts.Others {
				facts.Others = slices.Clone(facts.Others)
				facts.Others[i] = b.spare(&b.spares6, spareAddresses6)
			}
		}
		f.Pods[pod.String()] = facts
	}
	return f
}

// spareAddresses are for pods that are made again offline: what [Offline] leaves of its ranges.
var (
	spareAddresses  = netip.MustParsePrefix("198.19.192.0/18")
	spareAddresses6 = netip.MustParsePrefix("2001:2:0:5::/64")
)

// spare invents the next address of a pod that is made again, out of the range.
func (b *builder) spare(s *addresses, of netip.Prefix) netip.Addr {
	s.prefix = of
	a := s.next()
	if s.fault != nil {
		b.faultf("steps: inventing addresses of pods that are made again: %w", s.fault)
	}
	return a
}

// latest are the facts since the last step that the cluster told about.
func (b *builder) latest() Facts {
	f, last := b.facts, -1
	for i, known := range b.later {
		if i > last {
			f, last = known, i
		}
	}
	return f
}

// present is the world without the pods that are gone. They keep their place in the state, for their return.
func (b *builder) present(st state) reach.World {
	w := st.world
	w.Pods = nil
	for _, p := range st.world.Pods {
		if !b.goneInCluster(st, p) {
			w.Pods = append(w.Pods, p)
		}
	}
	return w
}

func (b *builder) goneInCluster(st state, p reach.Pod) bool {
	for name, gone := range st.gone {
		if pod := parsePod(name); gone && b.names.namespace(pod.namespace) == p.Namespace && pod.name == p.Name {
			return true
		}
	}
	return false
}

// there tells whether the pod is in w; the zero name, which stands for none, is.
func (b *builder) there(w reach.World, pod podName) bool {
	return pod == podName{} || worldIndex(w, b.names.namespace(pod.namespace), pod.name) >= 0
}

// worldIndex is the index of a pod by its name in the cluster, or -1.
func worldIndex(w reach.World, namespace, name string) int {
	return slices.IndexFunc(w.Pods, func(p reach.Pod) bool { return p.Namespace == namespace && p.Name == name })
}
