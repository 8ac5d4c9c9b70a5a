package witness

import (
	"errors"
	"fmt"
)

// ErrUnsupported reports that the platform, the kernel or the rights of the process do not allow what was asked.
var ErrUnsupported = errors.New("this kernel, or the rights of this process, do not allow it")

// Program is a kind of eBPF program that the witness may use. The zero value is unknown and is never tried.
type Program int

// The kinds, most wanted first.
const (
	ProgramUnknown      Program = iota
	ProgramTPBTF                // tp_btf on kfree_skb: drops with their reason
	ProgramRawTP                // raw tracepoint on kfree_skb: drops without a reason by name
	ProgramSocketFilter         // tap on a socket in a pod's network namespace
	ProgramSchedCLS             // traffic control classifier
	ProgramXDP                  // express data path
	ProgramFentry               // function entry through a trampoline
	ProgramKprobe               // function entry through a breakpoint
)

// String is the kind's usual short name, as in an ELF section.
func (p Program) String() string {
	switch p {
	case ProgramTPBTF:
		return "tp_btf"
	case ProgramRawTP:
		return "raw_tp"
	case ProgramSocketFilter:
		return "socket"
	case ProgramSchedCLS:
		return "sched_cls"
	case ProgramXDP:
		return "xdp"
	case ProgramFentry:
		return "fentry"
	case ProgramKprobe:
		return "kprobe"
	default:
		return "unknown"
	}
}

// Programs lists every kind in the order in which [TryPrograms] answers.
func Programs() []Program {
	return []Program{ProgramTPBTF, ProgramRawTP, ProgramSocketFilter, ProgramSchedCLS, ProgramXDP, ProgramFentry, ProgramKprobe}
}

// Trial is what came of trying one kind.
type Trial struct {
	Program Program
	// Err is nil when a program of the kind was loaded and, where that was tried, attached. Otherwise it is a [*RefusedError], or
	// the context's error when the trial was not made.
	Err error
}

// RefusedError says at which stage the kernel refused a program.
type RefusedError struct {
	Program Program
	Stage   string // "loading" or "attaching"
	Err     error  // the library's error; errors.Is finds the kernel's errno in it
}

// Error names the stage, the kind and the cause.
func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s a %s program: %v", e.Stage, e.Program, e.Err)
}

// Unwrap gives the library's error.
func (e *RefusedError) Unwrap() error { return e.Err }
