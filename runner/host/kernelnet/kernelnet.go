package kernelnet

import "errors"

var (
	// ErrUnsupported reports a platform without network namespaces.
	ErrUnsupported = errors.New("network namespaces need Linux")
	// ErrNoTool reports that the program that uses the feature is not installed, so the feature was not tried.
	ErrNoTool = errors.New("tool not installed")
)

// Feature is one thing a kernel's network may be able to do. The zero value is unknown and is never tried.
type Feature int

// The features, in the order in which they are tried.
const (
	FeatureUnknown Feature = iota
	FeatureVeth
	FeatureBridge
	FeatureVXLAN
	FeatureDummy
	FeatureIPSet
	FeatureNFTables
	FeatureIPTablesNFT
	FeatureIPTablesLegacy
	FeatureSCTP
)

// String is the feature's name as operators know it.
func (f Feature) String() string {
	switch f {
	case FeatureVeth:
		return "veth"
	case FeatureBridge:
		return "bridge"
	case FeatureVXLAN:
		return "vxlan"
	case FeatureDummy:
		return "dummy link"
	case FeatureIPSet:
		return "ipset"
	case FeatureNFTables:
		return "nftables"
	case FeatureIPTablesNFT:
		return "iptables-nft"
	case FeatureIPTablesLegacy:
		return "iptables-legacy"
	case FeatureSCTP:
		return "sctp"
	default:
		return "unknown"
	}
}

// Trial is what came of using one feature.
type Trial struct {
	Feature Feature
	// Err is nil when the feature worked. It is [ErrNoTool], or the context's error, when it was not tried, and the kernel's answer otherwise.
	Err error
}
