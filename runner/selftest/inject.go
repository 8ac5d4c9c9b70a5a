package selftest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/gapproof/gapproof/runner/internal/kube"
	"github.com/gapproof/gapproof/runner/plan"
	"github.com/gapproof/gapproof/scenarios"
)

// Machines acts on the lab's nodes from outside of them.
type Machines interface {
	// Exec runs a command in a node as root and returns what it printed; the error holds that too.
	Exec(ctx context.Context, node string, command ...string) ([]byte, error)
	// Pause freezes every process of a node, Unpause lets them go on; a node that is not paused is left as it is.
	Pause(ctx context.Context, node string) error
	Unpause(ctx context.Context, node string) error
	// ContinueAll lets every stopped process of every node go on, and names them.
	ContinueAll(ctx context.Context) ([]string, error)
}

// scene is what a fault can act on.
type scene struct {
	lab   Lab
	run   string
	proxy *proxy
	facts plan.Facts
	// stepped is by how much the clock of each named agent is off.
	stepped map[string]time.Duration
}

const (
	// goneInterval and goneLimit are for a deleted pod to be gone: its grace period is a second.
	goneInterval = 100 * time.Millisecond
	goneLimit    = 20 * time.Second
	// killInterval is shorter than the kubelet needs to start a container again.
	killInterval = 150 * time.Millisecond
)

// agentProgram and witnessProgram are the processes of probe and witness as the kernel names them, in fifteen letters.
const (
	agentProgram   = "gapproof-probe"
	witnessProgram = "gapproof-witnes"
)

// processes finds processes of a pod ($1, its UID as a pattern) with a name ($2) by their cgroup, whose path has the UID with dashes or
// with underscores, and runs $3 with each PID in $p. It fails when there is none.
const processes = `none=1
for c in $(grep -lsE "pod$1" /proc/[0-9]*/cgroup); do
  d=${c%/cgroup}; p=${d#/proc/}
  if [ "$(cat $d/comm 2>/dev/null)" = "$2" ]; then eval "$3" && none=0; fi
done
exit $none`

// each runs a piece of shell for the agent's process of a pod of the scenario.
func (s *scene) each(ctx context.Context, pod, shell string) error {
	namespace, name, _ := strings.Cut(pod, "/")
	got, err := s.lab.Cluster.Client.CoreV1().Pods(s.facts.Prefix+namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("finding the processes of %s: %w", pod, err)
	}
	if err := s.of(ctx, s.facts.Pods[pod].Node, got.UID, agentProgram, shell); err != nil {
		return fmt.Errorf("acting on the agent of %s: %w", pod, err)
	}
	return nil
}

// of runs a piece of shell for each process of that name of a pod on the node.
func (s *scene) of(ctx context.Context, node string, pod types.UID, program, shell string) error {
	_, err := s.lab.Machines.Exec(ctx, node, "sh", "-c", processes, "sh", strings.ReplaceAll(string(pod), "-", "."), program, shell)
	return err
}

// witness is the pod of the run's witness on the node of a pod of the scenario.
func (s *scene) witness(ctx context.Context, of string) (corev1.Pod, error) {
	node := s.facts.Pods[of].Node
	list, err := s.lab.Cluster.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, kube.ListRun(s.run))
	if err != nil {
		return corev1.Pod{}, fmt.Errorf("finding the witness of %s: %w", node, err)
	}
	for _, p := range list.Items {
		if p.Labels[kube.RoleLabel] == "witness" && p.Spec.NodeName == node {
			return p, nil
		}
	}
	return corev1.Pod{}, fmt.Errorf("finding the witness of %s: run %s has none there", node, s.run)
}

// eachPod is each for several pods.
func (s *scene) eachPod(ctx context.Context, pods []string, shell string) error {
	for _, pod := range pods {
		if err := s.each(ctx, pod, shell); err != nil {
			return err
		}
	}
	return nil
}

type injection = func(context.Context, *scene) (func(context.Context) error, error)

// nothingToEnd is for faults that stay: their world is removed anyway.
func nothingToEnd(context.Context) error { return nil }

func stopping(pods ...string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		end := func(ctx context.Context) error { return s.eachPod(ctx, pods, "kill -CONT $p") }
		return end, s.eachPod(ctx, pods, "kill -STOP $p")
	}
}

// keepKilling kills the agents, and again whenever the kubelet has started them anew.
func keepKilling(pods ...string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		if err := s.eachPod(ctx, pods, "kill -KILL $p"); err != nil {
			return nothingToEnd, err
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		var wg sync.WaitGroup
		for _, pod := range pods {
			wg.Go(func() {
				ticker := time.NewTicker(killInterval)
				defer ticker.Stop()
				for {
					select {
					case <-ctx.Done():
						return
					case <-ticker.C:
						_ = s.each(ctx, pod, "kill -KILL $p") // mostly there is none
					}
				}
			})
		}
		return func(context.Context) error {
			cancel()
			wg.Wait()
			return nil
		}, nil
	}
}

func deleting(pods ...string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		for _, pod := range pods {
			namespace, name, _ := strings.Cut(pod, "/")
			if err := s.remove(ctx, s.facts.Prefix+namespace, name); err != nil {
				return nothingToEnd, err
			}
		}
		return nothingToEnd, nil
	}
}

// remove deletes a pod and returns when it is gone.
func (s *scene) remove(ctx context.Context, namespace, name string) error {
	api := s.lab.Cluster.Client.CoreV1().Pods(namespace)
	if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("deleting pod %s/%s: %w", namespace, name, err)
	}
	_, err := kube.Poll(ctx, "pod "+namespace+"/"+name+" to be gone", goneInterval, goneLimit, func(ctx context.Context) (bool, string, error) {
		_, err := api.Get(ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), "it is still there", nil
	})
	return err
}

// signallingWitness sends a signal to the witness on the node of the pod, and the last one at the end, if there is one.
func signallingWitness(pod, signal, last string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		p, err := s.witness(ctx, pod)
		if err != nil {
			return nothingToEnd, err
		}
		end := nothingToEnd
		if last != "" {
			end = func(ctx context.Context) error {
				return s.of(ctx, p.Spec.NodeName, p.UID, witnessProgram, "kill -"+last+" $p")
			}
		}
		return end, s.of(ctx, p.Spec.NodeName, p.UID, witnessProgram, "kill -"+signal+" $p")
	}
}

// deletingWitness deletes the pod of the witness on the node of the pod.
func deletingWitness(pod string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		p, err := s.witness(ctx, pod)
		if err == nil {
			err = s.remove(ctx, p.Namespace, p.Name)
		}
		return nothingToEnd, err
	}
}

// deaf aborts the listening TCP sockets inside the pods' network namespaces (sock_diag's destroy, as ss -K has it).
func deaf(pods ...string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		const kill = `nsenter -t $p -n ss -HK -t state listening "sport = :80" | grep -q .`
		return nothingToEnd, s.eachPod(ctx, pods, kill)
	}
}

// elsewhere moves the TCP listeners of the pods to another port.
func elsewhere(pods ...string) func(scenarios.World) scenarios.World {
	return func(w scenarios.World) scenarios.World {
		var moved []scenarios.Namespace
		for _, ns := range w.Namespaces {
			all := ns.Pods
			ns.Pods = nil
			for _, p := range all {
				for _, name := range pods {
					if ns.Name+"/"+p.Name != name {
						continue
					}
					ports := p.Ports
					p.Ports = nil
					for _, port := range ports {
						if port.Port == 80 {
							port.Port = 8080
						}
						p.Ports = append(p.Ports, port)
					}
				}
				ns.Pods = append(ns.Pods, p)
			}
			moved = append(moved, ns)
		}
		w.Namespaces = moved
		return w
	}
}

func clockStepped(pods ...string) injection {
	return func(_ context.Context, s *scene) (func(context.Context) error, error) {
		s.stepped = map[string]time.Duration{}
		for _, pod := range pods {
			s.stepped[pod] = steppedBy
		}
		return nothingToEnd, nil
	}
}

func refusing(_ context.Context, s *scene) (func(context.Context) error, error) {
	s.proxy.refuse()
	return func(context.Context) error { s.proxy.heal(); return nil }, nil
}

func cutting(_ context.Context, s *scene) (func(context.Context) error, error) {
	s.proxy.refuse()
	s.proxy.cut()
	return func(context.Context) error { s.proxy.heal(); return nil }, nil
}

func delayedBy(d time.Duration) injection {
	return func(_ context.Context, s *scene) (func(context.Context) error, error) {
		s.proxy.slow(d)
		return func(context.Context) error { s.proxy.heal(); return nil }, nil
	}
}

// stoppingEverywhere stops every process of that name on every node.
func stoppingEverywhere(program string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		everywhere := func(ctx context.Context, signal string) (int, error) {
			found := 0
			var faults []error
			for _, node := range s.lab.Nodes {
				out, err := s.lab.Machines.Exec(ctx, node, "sh", "-c", `pkill -"$1" -c -x "$2" || [ $? = 1 ]`, "sh", signal, program)
				if err != nil {
					faults = append(faults, err)
				} else if n := strings.TrimSpace(string(out)); n != "0" {
					found++
				}
			}
			return found, errors.Join(faults...)
		}
		end := func(ctx context.Context) error {
			_, err := everywhere(ctx, "CONT")
			return err
		}
		found, err := everywhere(ctx, "STOP")
		if err == nil && found == 0 {
			err = fmt.Errorf("stopping %s: no node runs it", program)
		}
		return end, err
	}
}

// signalling sends a signal to every process of that name on the node of the pod, and the last one at the end, if there is one.
func signalling(pod, program, signal, last string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		node := s.facts.Pods[pod].Node
		end := func(ctx context.Context) error {
			if last == "" {
				return nil
			}
			_, err := s.lab.Machines.Exec(ctx, node, "pkill", "-"+last, "-x", program)
			return err
		}
		_, err := s.lab.Machines.Exec(ctx, node, "pkill", "-"+signal, "-x", program)
		return end, err
	}
}

func pausing(pod string) injection {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		node := s.facts.Pods[pod].Node
		return func(ctx context.Context) error { return s.lab.Machines.Unpause(ctx, node) }, s.lab.Machines.Pause(ctx, node)
	}
}
