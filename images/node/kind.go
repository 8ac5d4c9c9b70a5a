//go:build tools

// Package node keeps kind in go.mod; what the image takes from it is its files, not its code.
package node

import _ "sigs.k8s.io/kind"
