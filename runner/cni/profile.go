package cni

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// ErrUnknownProfile reports a profile that is not among [Names].
var ErrUnknownProfile = errors.New("unknown CNI profile")

// Default is the profile used when nobody asks for another.
const Default = "calico"

// Profile describes one CNI as the lab installs it.
type Profile struct {
	// Name is the profile's folder below this package.
	Name string `json:"name"`
	// Detected is what [Detect] calls a cluster that has this CNI, whoever installed it.
	Detected string `json:"detected"`
	// Manifest is the path of the CNI's own manifest among the lab's locked files.
	Manifest string `json:"manifest"`
	// Patches are applied in order. Each must find its target in the manifest.
	Patches []Patch `json:"patches,omitempty"`
	// PodSubnet says where the manifest is told the pod address range, when it is told at all.
	PodSubnet *PodSubnet `json:"podSubnet,omitempty"`
	// IPv6 is what a cluster needs besides whose pods have IPv6 addresses. Nil where the profile cannot be installed there.
	IPv6 *IPv6 `json:"ipv6,omitempty"`
	// Relabelled is how long the CNI may take until changed labels count at every endpoint, where that is longer than for a policy. It is the
	// CNI's own default, which a lab may have set lower.
	Relabelled metav1.Duration `json:"relabelled,omitzero"`
	// APIServer names a ConfigMap through which the CNI is told the API server's own address, when it can be told.
	APIServer *Target `json:"apiServer,omitempty"`
	// Ready are the DaemonSets and Deployments that must be rolled out. They need not be in the manifest.
	Ready []Target `json:"ready"`
}

// Target names one object.
type Target struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
}

// String writes the target as people do: "DaemonSet kube-system/calico-node".
func (t Target) String() string {
	if t.Namespace == "" {
		return t.Kind + " " + t.Name
	}
	return t.Kind + " " + t.Namespace + "/" + t.Name
}

// Patch changes one object of the manifest.
type Patch struct {
	Target Target `json:"target"`
	// Patch is a strategic merge patch, as kubectl patch takes it
	// (https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/).
	Patch json.RawMessage `json:"patch"`
}

// PodSubnet is an environment variable that takes the pod address range.
type PodSubnet struct {
	Target    Target `json:"target"`
	Container string `json:"container"`
	Env       string `json:"env"`
}

// IPv6 is the part of a profile that clusters get whose pods have IPv6 addresses.
type IPv6 struct {
	// Patches are applied after the profile's own.
	Patches []Patch `json:"patches,omitempty"`
	// Only are applied after Patches where pods have no IPv4 address.
	Only []Patch `json:"only,omitempty"`
	// PodSubnet takes the IPv6 range as Profile.PodSubnet takes the IPv4 one.
	PodSubnet *PodSubnet `json:"podSubnet,omitempty"`
}

//go:embed */*.yaml
var profiles embed.FS

// knownFile is the file of a profile's folder that lists what the CNI is known to do otherwise than policies say. Not every folder has one.
const knownFile = "known.yaml"

// Known is the baseline of known differences, as package report decodes it, of the CNI that [Detect] calls detected. It is nil where there is
// none, as for a CNI without a profile.
func Known(detected string) ([]byte, error) {
	p, err := of(detected)
	if err != nil || p.Name == "" {
		return nil, err
	}
	raw, err := profiles.ReadFile(path.Join(p.Name, knownFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return raw, err
}

// Relabelled is the profile's of the CNI that [Detect] calls detected; zero for one without a profile.
func Relabelled(detected string) (time.Duration, error) {
	p, err := of(detected)
	return p.Relabelled.Duration, err
}

// of is the profile of the CNI that [Detect] calls detected; one without a name where there is none.
func of(detected string) (Profile, error) {
	for _, name := range Names() {
		p, err := Find(name)
		if err != nil || p.Detected == detected {
			return p, err
		}
	}
	return Profile{}, nil
}

// Names lists the profiles, sorted.
func Names() []string {
	entries, err := profiles.ReadDir(".")
	if err != nil {
		panic(fmt.Sprintf("listing the embedded profiles: %v", err)) // the file system is compiled in: cannot happen
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	sort.Strings(names)
	return names
}

// Find returns the profile with this name. The error matches [ErrUnknownProfile] for a name that is not among [Names].
func Find(name string) (Profile, error) {
	raw, err := profiles.ReadFile(path.Join(name, "profile.yaml"))
	if err != nil {
		return Profile{}, fmt.Errorf("looking up CNI profile %q (there are %s): %w", name, strings.Join(Names(), ", "), ErrUnknownProfile)
	}
	p, err := decodeProfile(raw)
	if err != nil {
		return Profile{}, fmt.Errorf("reading CNI profile %q: %w", name, err)
	}
	if p.Name != name {
		return Profile{}, fmt.Errorf("reading CNI profile %q: name: is %q, must be its folder's", name, p.Name)
	}
	return p, nil
}

func decodeProfile(raw []byte) (Profile, error) {
	var p Profile
	if err := yaml.UnmarshalStrict(raw, &p); err != nil {
		return Profile{}, fmt.Errorf("decoding: %w", err)
	}
	var faults []error
	require := func(field, value string) {
		if value == "" {
			faults = append(faults, fmt.Errorf("%s: is required", field))
		}
	}
	target := func(field string, t Target) {
		require(field+".apiVersion", t.APIVersion)
		require(field+".kind", t.Kind)
		require(field+".name", t.Name)
	}
	listed := func(field string, patches []Patch) {
		for i, patch := range patches {
			target(fmt.Sprintf("%s[%d].target", field, i), patch.Target)
			require(fmt.Sprintf("%s[%d].patch", field, i), string(patch.Patch))
		}
	}
	changes := func(field string, patches []Patch, subnet *PodSubnet) {
		listed(field+"patches", patches)
		if subnet != nil {
			target(field+"podSubnet.target", subnet.Target)
			require(field+"podSubnet.container", subnet.Container)
			require(field+"podSubnet.env", subnet.Env)
		}
	}
	require("name", p.Name)
	require("detected", p.Detected)
	require("manifest", p.Manifest)
	changes("", p.Patches, p.PodSubnet)
	if p.IPv6 != nil {
		changes("ipv6.", p.IPv6.Patches, p.IPv6.PodSubnet)
		listed("ipv6.only", p.IPv6.Only)
	}
	if p.Relabelled.Duration < 0 {
		faults = append(faults, fmt.Errorf("relabelled: is %s, must not be negative", p.Relabelled.Duration))
	}
	if a := p.APIServer; a != nil {
		target("apiServer", *a)
		if a.APIVersion != "v1" || a.Kind != "ConfigMap" {
			faults = append(faults, fmt.Errorf("apiServer: is %s of %s, must be a ConfigMap of v1", a.Kind, a.APIVersion))
		}
	}
	for i, t := range p.Ready {
		field := fmt.Sprintf("ready[%d]", i)
		target(field, t)
		if t.APIVersion != "apps/v1" || (t.Kind != kindDaemonSet && t.Kind != kindDeployment) {
			faults = append(faults, fmt.Errorf("%s: is %s of %s; only DaemonSet and Deployment of apps/v1 can be waited for", field, t.Kind, t.APIVersion))
		}
	}
	return p, errors.Join(faults...)
}

// The kinds whose roll-out can be waited for.
const (
	kindDaemonSet  = "DaemonSet"
	kindDeployment = "Deployment"
)
