// Package witness is the node-side half of observation: what the kernel itself says about an attempt's packets.
//
// Today it answers one question, which programs the running kernel takes: [TryPrograms] loads a minimal program of each
// [Program] and attaches it where attaching is what fails in practice, and [BTF] says whether the kernel describes its own types.
// It is the only package that imports github.com/cilium/ebpf.
//
// The trap: that a program loads does not mean that it can be attached. A kernel built without kprobe events still loads kprobe
// programs, and a hardened one refuses fentry only at its own point. Both are tried, and the stage that failed is named. The programs
// that watch attempts are not part of this package yet.
package witness
