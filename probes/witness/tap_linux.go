package witness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// tap is a packet socket in one pod's network namespace, whose filter notes what passes. The socket receives nothing. It holds the
// namespace, so that its inode number stays the pod's.
type tap struct{ socket int }

// Adopt makes the pods those whose network namespaces this witness answers for, beside the node's own: the packets that leave and reach
// them are seen from now on, and the drops inside. It replaces the pods of the call before. The error names every pod that could
// not be adopted; the others are.
//
// The namespace of a pod on the host's network is the node's own. What it sends is seen, what reaches it is not, because nothing tells
// it from what the node passes on; a drop there is the node's, whoever else lives in it.
func (w *Witness) Adopt(pods []Pod) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var faults []error
	wanted := make(map[Pod]bool)
	holders := make(map[uint64]string)
	for _, pod := range pods {
		if other, taken := holders[pod.NetNS]; taken && other != pod.Identity {
			faults = append(faults, fmt.Errorf("adopting pod %s: its network namespace %d is that of pod %s", pod.Identity, pod.NetNS, other))
			continue
		}
		holders[pod.NetNS] = pod.Identity
		wanted[pod] = true
	}
	for pod, t := range w.taps {
		if wanted[pod] {
			continue
		}
		if err := errors.Join(t.close(), w.disown(pod)); err != nil {
			faults = append(faults, fmt.Errorf("giving up pod %s: %w", pod.Identity, err))
		}
		delete(w.taps, pod)
	}
	var fresh []Pod
	for _, pod := range pods {
		if _, have := w.taps[pod]; !have && wanted[pod] {
			fresh = append(fresh, pod)
			delete(wanted, pod) // named twice is adopted once
		}
	}
	if room := MaxPods - len(w.taps); len(fresh) > room {
		for _, pod := range fresh[room:] {
			faults = append(faults, fmt.Errorf("adopting pod %s: %w: it has room for %d pods", pod.Identity, ErrFull, MaxPods))
		}
		fresh = fresh[:room]
	}
	found, err := namespaces(w.opts.Proc, fresh)
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	// The thread that goes from namespace to namespace serves nothing else and ends with its goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		for _, pod := range fresh {
			if err := w.adopt(pod, found[pod.NetNS]); err != nil {
				faults = append(faults, fmt.Errorf("adopting pod %s: %w", pod.Identity, err))
			}
		}
	}()
	<-done
	return errors.Join(faults...)
}

// adopt taps the namespace at the path. It leaves the calling thread there.
func (w *Witness) adopt(pod Pod, path string) error {
	if path == "" {
		return fmt.Errorf("no process under %s has network namespace %d", w.opts.Proc, pod.NetNS)
	}
	if err := enter(path, pod.NetNS); err != nil {
		return err
	}
	number, err := w.place(pod)
	if err != nil {
		return err
	}
	t, err := w.attach(number, pod)
	if err != nil {
		return errors.Join(err, w.disown(pod))
	}
	w.taps[pod] = t
	return nil
}

// place gives the pod's namespace its number in the kernel's tables. A pod that had one gets the same again.
func (w *Witness) place(pod Pod) (uint32, error) {
	number := uint32(len(w.places))
	for i, known := range w.places {
		if known == pod {
			number = uint32(i)
		}
	}
	if w.owners != nil && (pod.NetNS != w.node || pod.Identity == "") {
		if err := w.owners.Update(uint32(pod.NetNS), number, ebpf.UpdateAny); err != nil {
			return 0, fmt.Errorf("answering for network namespace %d: %w", pod.NetNS, err)
		}
	}
	if int(number) == len(w.places) {
		w.places = append(w.places, pod)
	}
	return number, nil
}

// disown ends what place began; the node's own namespace stays the node's.
func (w *Witness) disown(pod Pod) error {
	if w.owners == nil || pod.NetNS == w.node {
		return nil
	}
	if err := w.owners.Delete(uint32(pod.NetNS)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("giving up network namespace %d: %w", pod.NetNS, err)
	}
	return nil
}

// loadTap loads a tap that notes under the number.
func (w *Witness) loadTap(number uint32, pod Pod) (*ebpf.Program, error) {
	spec := w.tap.Copy()
	var shared uint32
	if pod.NetNS == w.node {
		shared = 1
	}
	err := errors.Join(spec.Variables[tapVarOwner].Set(number), spec.Variables[tapVarShared].Set(shared))
	if err != nil {
		return nil, fmt.Errorf("telling the tap its namespace: %w", err)
	}
	var objects tapObjects
	if err := spec.LoadAndAssign(&objects, &ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{tapMapFlows: w.flows}}); err != nil {
		return nil, err
	}
	return objects.WitnessTap, objects.Flows.Close()
}

// attach opens the tap's socket in the namespace of the calling thread.
func (w *Witness) attach(number uint32, pod Pod) (_ *tap, err error) {
	program, err := w.loadTap(number, pod)
	if err != nil {
		return nil, fmt.Errorf("loading a tap: %w", err)
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	// Protocol 0 keeps it deaf until the filter is in place.
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	t := &tap{socket}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, program.FD()); err != nil {
		return nil, errors.Join(fmt.Errorf("attaching a tap: %w", err), t.close())
	}
	if err := unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: everyProtocol()}); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the tap: %w", err), t.close())
	}
	return t, nil
}

// everyProtocol is ETH_P_ALL in network order, as packet(7) wants it.
func everyProtocol() uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
}

func (t *tap) close() error {
	if err := unix.Close(t.socket); err != nil {
		return fmt.Errorf("closing a tap: %w", err)
	}
	return nil
}

// interfaceName asks the tap's namespace for the name of an interface, which is empty when it is gone.
func (t *tap) interfaceName(index uint32) string {
	request, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	request.SetUint32(index)
	if err := unix.IoctlIfreq(t.socket, unix.SIOCGIFNAME, request); err != nil {
		return ""
	}
	return request.Name()
}

// nodeNamespace is the path of the network namespace of the node itself.
func nodeNamespace(proc string) string { return filepath.Join(proc, "1", "ns", "net") }

// inode is the inode number of the file at the path, which is its identity for a namespace.
func inode(path string) (uint64, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return stat.Ino, nil
}

// namespaces is a path to each pod's network namespace, by inode number; those that no process lives in are not in it.
func namespaces(proc string, pods []Pod) (map[uint64]string, error) {
	wanted := make(map[uint64]bool, len(pods))
	for _, pod := range pods {
		wanted[pod.NetNS] = true
	}
	found := make(map[uint64]string, len(wanted))
	if len(wanted) == 0 {
		return found, nil
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	for _, entry := range entries {
		// The folder ns of another user's process can be passed through but not listed, unless one may read everything (CAP_DAC_READ_SEARCH).
		path := filepath.Join(proc, entry.Name(), "ns", "net")
		number, err := inode(path)
		if err != nil {
			continue // no process, or it ended meanwhile
		}
		if _, again := found[number]; wanted[number] && !again {
			found[number] = path
		}
	}
	return found, nil
}

// enter moves the calling thread into the namespace at the path, which must still be the one with the number.
func enter(path string, number uint64) error {
	file, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening %s: %w", path, err)
	}
	defer unix.Close(file)
	var stat unix.Stat_t
	if err := unix.Fstat(file, &stat); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if stat.Ino != number {
		return fmt.Errorf("entering network namespace %d: process %s ended meanwhile", number, strconv.Quote(path))
	}
	if err := unix.Setns(file, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering network namespace %d: %w", number, err)
	}
	return nil
}
