// Package kernelnet finds out which network features the running kernel has by using each of them once.
//
// [Try] enters a network namespace of its own, where it makes a link of each kind, an IP set, an nftables table and iptables
// rules of both back ends, and opens sockets. It answers one [Trial] for each [Feature]. The namespace goes away with everything in
// it when Try returns, so the host's own links, tables and sets are neither seen nor touched.
//
// The trap: using a feature may make the kernel load the module that holds it, as any first use does; that is what is asked for, and
// nothing is unloaded afterwards. What needs a tool is reported as [ErrNoTool] without it, which says nothing about the kernel. No
// packet leaves the namespace.
package kernelnet
