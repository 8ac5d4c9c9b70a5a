// Command coredns is CoreDNS with the plugins that kubeadm's Corefile names, and log.
//
// The full CoreDNS links every plugin it ships, clouds' DNS services among them: four times the build time and the size, for
// code that an air-gapped cluster must never run. The trap: a directive whose plugin is missing here stops CoreDNS at start with
// "unknown directive", so a Corefile that uses another plugin needs another import.
package main

import (
	"github.com/coredns/coredns/coremain"

	// Plugins register themselves with the server when imported. Their order in the chain is CoreDNS's own
	// (core/dnsserver/zdirectives.go), not the order here.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() { coremain.Run() }
