//go:build tools

// Package tools keeps what component.yaml builds in go.mod. (The tool directive of newer Go is not understood by the toolchain
// that Calico 3.28 needs.)
package tools

import (
	_ "github.com/projectcalico/calico/cni-plugin/cmd/calico"
	_ "github.com/projectcalico/calico/cni-plugin/cmd/install"
	_ "github.com/projectcalico/calico/kube-controllers/cmd/check-status"
	_ "github.com/projectcalico/calico/kube-controllers/cmd/kube-controllers"
	_ "github.com/projectcalico/calico/node/cmd/calico-node"
	_ "github.com/projectcalico/calico/node/cmd/mountns"
)
