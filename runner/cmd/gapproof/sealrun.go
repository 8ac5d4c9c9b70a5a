package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/gapproof/gapproof/runner/cluster"
	"github.com/gapproof/gapproof/runner/seal"
	"github.com/gapproof/gapproof/runner/seal/gate"
)

// sealMode says what a run does about the seal of its cluster.
type sealMode string

// The modes.
const (
	// sealAuto proves the seal of a sealed cluster.
	sealAuto sealMode = "auto"
	// sealRequire refuses to run where no seal could be proven.
	sealRequire sealMode = "require"
	sealOff     sealMode = "off"
)

func parseSealMode(s string) (sealMode, error) {
	if m := sealMode(s); slices.Contains([]sealMode{sealAuto, sealRequire, sealOff}, m) {
		return m, nil
	}
	return "", usageError{fmt.Errorf("--seal: %q is not auto, require or off", s)}
}

// sealing is a run on a sealed cluster. Nil is a run whose report says nothing of a seal.
type sealing struct {
	cluster *cluster.Cluster
	began   seal.Reading
	// unchecked says why the seal cannot be put to the proof.
	unchecked string
	pods      *addresses
	stop      func()
}

// beginSeal reads the gate's counters and begins to note pods' addresses, so that what is dropped during the run can be told and named. permitted
// says why this process may not ask the kernel. What was asked for and cannot be had is refused before the run has made anything.
func (a *app) beginSeal(ctx context.Context, at *place, mode sealMode, signs *signer, permitted func() error) (*sealing, error) {
	wanted := ""
	switch {
	case signs != nil:
		wanted = "--statement"
	case mode == sealRequire:
		wanted = "--seal require"
	}
	switch {
	case mode == sealOff:
		return nil, nil
	case at.lab == nil && wanted != "":
		return nil, usageError{fmt.Errorf("%s: only a lab cluster made by gapproof up can be sealed", wanted)}
	case at.lab != nil && at.lab.Seal == nil && wanted != "":
		return nil, hinted{usageError{fmt.Errorf("%s: cluster %s was brought up without --sealed", wanted, at.lab.Name)},
			"gapproof up --sealed --replace --cluster " + at.lab.Name}
	case at.lab == nil || at.lab.Seal == nil:
		return nil, nil
	}
	if err := signs.checkLock(at.lab); err != nil {
		return nil, err
	}
	s := &sealing{cluster: at.lab, pods: newAddresses(), stop: func() {}}
	if err := permitted(); err != nil {
		if wanted != "" {
			return nil, hinted{usageError{fmt.Errorf("%s: %w", wanted, err)}, "sudo gapproof run"}
		}
		s.unchecked = err.Error()
		fmt.Fprintf(a.err, "the seal of cluster %s will not be proven: %v\n  hint: run as root, or --seal off leaves it out of the report\n", at.lab.Name, err)
		return s, nil
	}
	var spec seal.Spec
	if err := readJSON(filepath.Join(at.lab.Seal.Dir, specFile), &spec); err != nil {
		return nil, err
	}
	var err error
	if s.began, _, err = gate.Read(spec); err != nil { // faults show when it is read again
		return nil, err
	}
	s.stop, err = s.pods.follow(ctx, at.Client)
	return s, err
}

func (s *sealing) close() {
	if s != nil {
		s.stop()
	}
}

// prove puts the seal to the proof after the run; nil without one. What keeps it from being proven is in the proof, never an error: the run's
// own results are not lost for it.
func (s *sealing) prove(ctx context.Context, a *app) *sealReport {
	if s == nil {
		return nil
	}
	unchecked := s.unchecked
	if unchecked == "" && ctx.Err() != nil {
		unchecked = "the run ended before: " + context.Cause(ctx).Error()
	}
	if unchecked == "" {
		end := a.waiting("sending canaries from every node of cluster " + s.cluster.Name)
		started := time.Now()
		r, err := proveSeal(ctx, s.cluster, &s.began, s.pods)
		end()
		if r.Verdict != "" { // what could not be asked is among its doubts
			a.done("seal of "+s.cluster.Name+": "+string(r.Verdict), time.Since(started))
			return &r
		}
		unchecked = err.Error()
	}
	r := newSealReport(s.cluster)
	// A description of the gate that cannot be read is left out: nothing is judged by it.
	_ = readJSON(filepath.Join(s.cluster.Seal.Dir, specFile), &r.Spec)
	r.judge(seal.Facts{Unchecked: unchecked})
	return &r
}

// addresses remembers which pods had which address. All methods may be called at once.
type addresses struct {
	mu sync.Mutex
	of map[netip.Addr][]string
}

func newAddresses() *addresses { return &addresses{of: map[netip.Addr][]string{}} }

// add remembers a pod. One on its node's network has the node's address and is left out.
func (a *addresses) add(p *corev1.Pod) {
	if p.Spec.HostNetwork {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	name := p.Namespace + "/" + p.Name
	for _, ip := range p.Status.PodIPs {
		if at, err := netip.ParseAddr(ip.IP); err == nil && !slices.Contains(a.of[at], name) {
			a.of[at] = append(a.of[at], name)
		}
	}
}

// holdersShown is how many pods that had one address in turn are named: more tell a reader nothing.
const holdersShown = 3

// name is the pod that had the address, or those that had it in turn; empty when none is known.
func (a *addresses) name(at netip.Addr) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	pods := a.of[at]
	switch n := len(pods); {
	case n == 0:
		return ""
	case n > holdersShown:
		return fmt.Sprintf("pod %s or %d others", pods[0], n-1)
	default:
		return "pod " + strings.Join(pods, " or ")
	}
}

// follow remembers every pod from now on until stop is called: those of a run are gone when it ends.
func (a *addresses) follow(ctx context.Context, client kubernetes.Interface) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactory(client, 0)
	_, err = factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { a.add(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { a.add(o.(*corev1.Pod)) },
	})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("following the cluster's pods: %w", err)
	}
	factory.Start(ctx.Done())
	return func() {
		cancel()
		factory.Shutdown()
	}, nil
}
