package scenarios

// population follows, step by step, which pods are there and at which places, as far as the scenario says.
type population struct {
	gone   map[string]bool
	places map[string]string
}

func newPopulation(w World) population {
	p := population{gone: map[string]bool{}, places: map[string]string{}}
	for _, ns := range w.Namespaces {
		for _, pod := range ns.Pods {
			p.places[ns.Name+"/"+pod.Name] = pod.Node
		}
	}
	return p
}

// checkPodChanges validates what a step does to pods. A pod changes at most once in a step: two changes have no order.
func (c *checker) checkPodChanges(at string, s Step, p population) {
	changed := map[string]struct{}{}
	// known tells whether pod is one of the world's that has not changed in this step yet.
	known := func(at, pod string) bool {
		if !c.isPod(pod) {
			c.fault(at, pod, c.nearPod(pod), "the world has no pod %s", pod)
			return false
		}
		if _, twice := changed[pod]; twice {
			c.fault(at, pod, "use a step for each", "pod %s changes twice in this step", pod)
			return false
		}
		changed[pod] = struct{}{}
		return true
	}
	present := func(at, pod string) bool {
		if p.gone[pod] {
			c.fault(at, pod, "scale it to 1 in an earlier step", "pod %s is not there in this step", pod)
		}
		return !p.gone[pod]
	}
	for i, r := range s.Relabel {
		if r.Pod != "" && p.gone[r.Pod] {
			present(item(at+".relabel", i)+".pod", r.Pod)
		}
	}
	for i, pod := range s.Restart {
		if at := item(at+".restart", i); known(at, pod) {
			present(at, pod)
		}
	}
	for i, m := range s.Move {
		at := item(at+".move", i)
		if !nodeForm.MatchString(m.Node) {
			c.fault(at+".node", m.Node, "a, b, c … are pairwise different nodes", "%q is not one lower-case letter", m.Node)
		}
		if !known(at+".pod", m.Pod) || !present(at+".pod", m.Pod) {
			continue
		}
		switch p.places[m.Pod] {
		case "":
			c.fault(at+".pod", m.Pod, "write node at the pod in the world", "pod %s has no place to be moved from", m.Pod)
		case m.Node:
			c.fault(at+".node", m.Node, "", "pod %s is on node %s already", m.Pod, m.Node)
		}
		if pod, _ := c.scenario.World.Pod(m.Pod); pod.HostNetwork {
			c.fault(at+".pod", m.Pod, "restart it, or scale it to 0", "a hostNetwork pod stays on its node, whose address it has")
		}
		p.places[m.Pod] = m.Node
	}
	for i, r := range s.Scale {
		at := item(at+".scale", i)
		if r.Replicas != 0 && r.Replicas != 1 {
			c.fault(at+".replicas", r.Replicas, "0 or 1", "%d is not 0 or 1", r.Replicas)
			continue
		}
		if !known(at+".pod", r.Pod) {
			continue
		}
		if gone := r.Replicas == 0; gone == p.gone[r.Pod] {
			c.fault(at+".replicas", r.Replicas, "", "pod %s has %d replicas already", r.Pod, r.Replicas)
		}
		p.gone[r.Pod] = r.Replicas == 0
	}
}
