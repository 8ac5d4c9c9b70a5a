// Package witness is the node-side half of observation: what the kernel itself says about an attempt's packets.
//
// A [Witness] is opened once per node. [Witness.Adopt] tells it the probe pods there, [Witness.Watch] the flows of attempts, and
// [Witness.Sightings] asks what became of them. Behind it are a tap in each pod's network namespace (the filter of a packet socket, which sees
// what leaves after every filter on the way out and what comes before every filter on the way in) and one program on kfree_skb, where the
// kernel gives packets up. They send no events: all is added up in one entry per flow, found by the source's address and port, which
// address translation on the way does not change. A drop is claimed only in a namespace that the witness answers for, its pods' and
// its node's own, so that of many witnesses on one kernel exactly one claims it. Names of reasons are those of the running kernel's BTF.
//
// [TryPrograms] says which programs the running kernel takes, by a minimal one of each [Program], attached where attaching is what fails
// in practice; [BTF] says whether the kernel describes its own types. The witness needs Linux 5.12 for the atomic operations in its programs;
// with BTF it sees drops, and since 5.17 their reasons. It is the only package that imports github.com/cilium/ebpf.
//
// The traps: that a program loads does not mean that it can be attached, so both are tried, and the stage that failed is named. A copy of
// a packet may be dropped while the packet arrives; [probes.Account] knows. Where the source's address is translated (masquerade), the
// packet is lost sight of, and stays unaccounted. What reaches a pod on the host's network is not seen.
package witness
