package main

import (
	"errors"
	"strings"
	"testing"

	kindconfigs "github.com/gapproof/gapproof/kind-configs"
	"github.com/gapproof/gapproof/runner/cni"
)

func TestATopologyThatTheCNIDoesNotServeIsRefusedBeforeAnythingIsMade(t *testing.T) {
	without := cni.Profile{Name: "four"}
	with := cni.Profile{Name: "both", IPv6: &cni.IPv6{}}
	for name, tc := range map[string]struct {
		profile  cni.Profile
		topology string
		is       error
		want     string
	}{
		"IPv4 for a CNI of IPv4":        {without, "one-worker", nil, ""},
		"IPv6 alone for a CNI of both":  {with, "one-worker-ipv6", nil, ""},
		"IPv6 alone for a CNI of IPv4":  {without, "one-worker-ipv6", cni.ErrNoIPv6, "--cni four with --topology one-worker-ipv6: checking profile four for the pod subnet fd00:10:244::/56"},
		"both families for one of IPv4": {without, "one-worker-dual-stack", cni.ErrNoIPv6, "--topology one-worker-dual-stack"},
		"a topology that is none":       {with, "seven-workers", kindconfigs.ErrUnknown, "--topology: "},
	} {
		t.Run(name, func(t *testing.T) {
			err := serves(tc.profile, tc.topology)
			if !errors.Is(err, tc.is) || (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("serves: %v, want one with %q that matches %v", err, tc.want, tc.is)
			}
		})
	}
	for _, name := range cni.Names() {
		profile, err := cni.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, topology := range kindconfigs.Names() {
			if err := serves(profile, topology); err != nil {
				t.Errorf("%s on %s: %v", name, topology, err)
			}
		}
	}
}
