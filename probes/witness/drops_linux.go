package witness

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/gapproof/gapproof/probes"
)

// reasonEnum is the kernel's type whose values are the drop reasons, since Linux 5.17.
const reasonEnum = "skb_drop_reason"

// Prefixes of the values' names: reports go without them, as the kernel's own trace output does.
const (
	reasonPrefix      = "SKB_DROP_REASON_"
	reasonOtherPrefix = "SKB_"
)

// noDrop are reasons by which the kernel gives up something else than the packet on its way: nothing was dropped, it was delivered,
// it was a copy for a host that a flooded link does not mean, or a copy for a sniffer.
var noDrop = []string{"NOT_DROPPED_YET", "CONSUMED", "OTHERHOST", "PACKET_SOCK_ERROR"}

// watchDrops loads and attaches the best drop program that the kernel takes, and sets the level by it. A refusal is logged, no error.
func (w *Witness) watchDrops(most probes.Level) {
	if most >= probes.Full {
		err := w.watchReasons()
		if err == nil {
			w.level = probes.Full
			return
		}
		w.opts.Log.Info("drops are watched without their reason", "node", w.opts.Node, "err", err)
	}
	if err := w.watchPlain(); err != nil {
		w.opts.Log.Info("drops are not watched", "node", w.opts.Node, "err", err)
		return
	}
	w.level = probes.NoDropReason
}

func (w *Witness) watchReasons() error {
	reasons, err := loadReasons()
	if err != nil {
		return err
	}
	spec, err := loadDrop()
	if err != nil {
		return fmt.Errorf("reading the drop program: %w", err)
	}
	var skip [256]uint8
	for number, name := range reasons {
		for _, no := range noDrop {
			if name == no && int64(number) < int64(len(skip)) {
				skip[number] = 1
			}
		}
	}
	if err := spec.Variables[dropVarNoDrop].Set(skip); err != nil {
		return fmt.Errorf("telling the drop program which reasons are none: %w", err)
	}
	var objects dropObjects
	if err := w.loadWithFlows(spec, &objects); err != nil {
		return fmt.Errorf("loading the drop program: %w", err)
	}
	attached, err := link.AttachTracing(link.TracingOptions{Program: objects.WitnessDrop})
	if err != nil {
		return errors.Join(fmt.Errorf("attaching the drop program: %w", err), objects.Close())
	}
	w.reasons = reasons
	return w.keep(attached, objects.Owners, objects.Calls, objects.WitnessDrop, objects.Flows)
}

func (w *Witness) watchPlain() error {
	spec, err := loadDropPlain()
	if err != nil {
		return fmt.Errorf("reading the plain drop program: %w", err)
	}
	var objects dropPlainObjects
	if err := w.loadWithFlows(spec, &objects); err != nil {
		return fmt.Errorf("loading the plain drop program: %w", err)
	}
	attached, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: dropTracepoint, Program: objects.WitnessDropPlain})
	if err != nil {
		return errors.Join(fmt.Errorf("attaching the plain drop program: %w", err), objects.Close())
	}
	return w.keep(attached, objects.Owners, objects.Calls, objects.WitnessDropPlain, objects.Flows)
}

// loadWithFlows loads a program onto the table of flows that the taps use.
func (w *Witness) loadWithFlows(spec *ebpf.CollectionSpec, objects any) error {
	spec.Maps[tapMapFlows].MaxEntries = MaxFlows
	spec.Maps[dropMapOwners].MaxEntries = MaxPods + 1 // the node's own
	spec.Maps[dropMapCalls].MaxEntries = MaxFlows * callSize
	return spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{tapMapFlows: w.flows}})
}

// keep holds on to the link, to the table of owners and to the calls, which are heard from now on, and lets go of what the link holds by itself.
func (w *Witness) keep(attached link.Link, owners, calls *ebpf.Map, program *ebpf.Program, flows *ebpf.Map) error {
	reader, err := ringbuf.NewReader(calls)
	if err != nil {
		err = fmt.Errorf("opening the drop program's calls: %w", err)
		return errors.Join(err, attached.Close(), owners.Close(), calls.Close(), program.Close(), flows.Close())
	}
	w.drop, w.owners, w.calls = attached, owners, calls
	w.hear(reader)
	if err := errors.Join(program.Close(), flows.Close()); err != nil {
		return fmt.Errorf("closing what the drop program was loaded with: %w", err)
	}
	return nil
}

// loadReasons is the running kernel's drop reasons by number, without their prefix.
func loadReasons() (map[uint32]string, error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's BTF: %w", err)
	}
	var reasons *btf.Enum
	if err := kernel.TypeByName(reasonEnum, &reasons); err != nil {
		return nil, fmt.Errorf("finding %s in the kernel's BTF: %w", reasonEnum, err)
	}
	names := make(map[uint32]string, len(reasons.Values))
	for _, value := range reasons.Values {
		name, ok := strings.CutPrefix(value.Name, reasonPrefix)
		if !ok {
			name = strings.TrimPrefix(name, reasonOtherPrefix)
		}
		names[uint32(value.Value)] = name
	}
	return names, nil
}

// reasonName is the kernel's name for the number, or the number itself: subsystems have reasons of their own, which the core's type
// does not name.
func reasonName(reasons map[uint32]string, number uint32) string {
	if name, ok := reasons[number]; ok {
		return name
	}
	return fmt.Sprintf("%#x", number)
}
