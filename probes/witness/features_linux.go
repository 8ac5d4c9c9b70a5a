package witness

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// dropTracepoint is the tracepoint that the kernel passes for every packet it gives up, with the reason since Linux 5.17.
const dropTracepoint = "kfree_skb"

// tracedFunction is a function of every kernel with IPv4, called seldom enough for a program to sit on it for a moment.
const tracedFunction = "tcp_connect"

// minimal is a kind's smallest program: return 0.
type minimal struct {
	program    Program
	kind       ebpf.ProgramType
	attachType ebpf.AttachType
	attachTo   string
	// attach puts the loaded program to its place and takes it away again. It is nil where the place would be an interface of the
	// host and where loading is known to be the only hurdle.
	attach func(*ebpf.Program) error
}

func minimals() []minimal {
	return []minimal{
		{ProgramTPBTF, ebpf.Tracing, ebpf.AttachTraceRawTp, dropTracepoint, attachTracing},
		{ProgramRawTP, ebpf.RawTracepoint, ebpf.AttachNone, "", attachRawTracepoint},
		{ProgramSocketFilter, ebpf.SocketFilter, ebpf.AttachNone, "", attachSocketFilter},
		{ProgramSchedCLS, ebpf.SchedCLS, ebpf.AttachNone, "", nil},
		{ProgramXDP, ebpf.XDP, ebpf.AttachNone, "", nil},
		{ProgramFentry, ebpf.Tracing, ebpf.AttachTraceFEntry, tracedFunction, attachTracing},
		{ProgramKprobe, ebpf.Kprobe, ebpf.AttachNone, "", attachKprobe},
	}
}

// TryPrograms tries each kind on the running kernel, one after the other, and leaves none behind. The answers are in the order of
// [Programs]. It needs the right to load programs; without it every kind is refused with EPERM.
func TryPrograms(ctx context.Context) []Trial {
	candidates := minimals()
	trials := make([]Trial, len(candidates))
	for i, candidate := range candidates {
		trials[i].Program = candidate.program
		if trials[i].Err = ctx.Err(); trials[i].Err == nil {
			trials[i].Err = candidate.try()
		}
	}
	return trials
}

func (m minimal) try() (err error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "gapproof_try",
		Type:         m.kind,
		AttachType:   m.attachType,
		AttachTo:     m.attachTo,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		License:      "GPL",
	})
	if err != nil {
		return &RefusedError{m.program, "loading", err}
	}
	defer func() { err = errors.Join(err, program.Close()) }()
	if m.attach == nil {
		return nil
	}
	if err := m.attach(program); err != nil {
		return &RefusedError{m.program, "attaching", err}
	}
	return nil
}

func attachTracing(program *ebpf.Program) error {
	attached, err := link.AttachTracing(link.TracingOptions{Program: program})
	if err != nil {
		return err
	}
	return attached.Close()
}

func attachRawTracepoint(program *ebpf.Program) error {
	attached, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: dropTracepoint, Program: program})
	if err != nil {
		return err
	}
	return attached.Close()
}

func attachKprobe(program *ebpf.Program) error {
	attached, err := link.Kprobe(tracedFunction, program, nil)
	if err != nil {
		return err
	}
	return attached.Close()
}

// attachSocketFilter filters a socket of our own that nobody sends to.
func attachSocketFilter(program *ebpf.Program) (err error) {
	socket, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return fmt.Errorf("opening a socket to filter: %w", err)
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	if err := link.AttachSocketFilter(socket, program); err != nil {
		return err
	}
	return link.DetachSocketFilter(socket)
}

// BTF says whether the running kernel carries its type information, without which no program can be relocated to it.
func BTF() error {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return fmt.Errorf("reading the kernel's BTF: %w", err)
	}
	return nil
}
