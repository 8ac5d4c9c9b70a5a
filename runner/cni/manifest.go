package cni

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/gapproof/gapproof/images"
)

// ErrNoIPv6 reports a profile that has nothing for IPv6, asked for by a cluster whose pods have IPv6 addresses.
var ErrNoIPv6 = errors.New("profile has no ipv6 section")

// ErrManifest reports a manifest that is not the one the lock lists.
var ErrManifest = errors.New("manifest does not match the lock")

// Check says whether the profile can serve pods of the subnets' families. The error matches [ErrNoIPv6]. It needs neither lab nor cluster, so
// that it can be asked before anything is made.
func (p Profile) Check(podSubnets []netip.Prefix) error {
	for _, s := range podSubnets {
		if s.Addr().Is6() && p.IPv6 == nil {
			return fmt.Errorf("checking profile %s for the pod subnet %s: %w", p.Name, s, ErrNoIPv6)
		}
	}
	return nil
}

// Render returns the objects of the profile's manifest as they are applied: patched, told the pod subnets, and with every image
// pinned. It touches no cluster. The error matches [ErrNoIPv6] for an IPv6 pod subnet that the profile has nothing for. All images the lock does not list are named in one error, which matches [images.ErrNotLocked].
func Render(p Profile, labDir string, lock *images.Lock, podSubnets []netip.Prefix) ([]*unstructured.Unstructured, error) {
	if err := p.Check(podSubnets); err != nil {
		return nil, err
	}
	raw, err := readManifest(p.Manifest, labDir, lock)
	if err != nil {
		return nil, err
	}
	objects, err := decodeManifest(raw)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", p.Manifest, err)
	}
	var v4, v6 []netip.Prefix
	for _, s := range podSubnets {
		if s.Addr().Is4() {
			v4 = append(v4, s)
		} else {
			v6 = append(v6, s)
		}
	}
	if err := change(objects, p.Patches, p.PodSubnet, v4); err != nil {
		return nil, fmt.Errorf("rendering profile %s: %w", p.Name, err)
	}
	if len(v6) > 0 {
		patches := p.IPv6.Patches
		if len(v4) == 0 {
			patches = slices.Concat(patches, p.IPv6.Only)
		}
		if err := change(objects, patches, p.IPv6.PodSubnet, v6); err != nil {
			return nil, fmt.Errorf("rendering profile %s for IPv6: %w", p.Name, err)
		}
	}
	if err := pin(objects, lock); err != nil {
		return nil, fmt.Errorf("pinning the images of %s: %w", p.Manifest, err)
	}
	return objects, nil
}

// change applies the patches, then tells the pod subnets where there are any.
func change(objects []*unstructured.Unstructured, patches []Patch, where *PodSubnet, subnets []netip.Prefix) error {
	for i, patch := range patches {
		if err := apply(objects, patch); err != nil {
			return fmt.Errorf("applying patches[%d]: %w", i, err)
		}
	}
	if where == nil || len(subnets) == 0 {
		return nil
	}
	patch, err := where.patch(subnets)
	if err != nil {
		return err
	}
	if err := apply(objects, patch); err != nil {
		return fmt.Errorf("setting the pod subnet: %w", err)
	}
	return nil
}

// readManifest reads a locked file whole and verifies it before anything looks at it.
func readManifest(path, labDir string, lock *images.Lock) ([]byte, error) {
	for _, f := range lock.Files {
		if f.Path != path {
			continue
		}
		raw, err := os.ReadFile(images.FilePath(labDir, f))
		if err != nil {
			return nil, fmt.Errorf("reading the CNI's manifest: %w", err)
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != f.SHA256 {
			return nil, fmt.Errorf("reading the CNI's manifest %s: it hashes to %x, the lock has %s: %w", path, sum, f.SHA256, ErrManifest)
		}
		return raw, nil
	}
	return nil, fmt.Errorf("reading the CNI's manifest %s: the lock lists no such file: %w", path, ErrManifest)
}

// decodeManifest splits YAML documents into objects. Empty documents are left out.
func decodeManifest(raw []byte) ([]*unstructured.Unstructured, error) {
	// The size of one read ahead; documents may be larger.
	const lookahead = 4 << 10
	d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), lookahead)
	var out []*unstructured.Unstructured
	for n := 1; ; n++ {
		var o map[string]any
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decoding document %d: %w", n, err)
		}
		if len(o) == 0 {
			continue
		}
		u := &unstructured.Unstructured{Object: o}
		if u.GetKind() == "" || u.GetAPIVersion() == "" || u.GetName() == "" {
			return nil, fmt.Errorf("decoding document %d: it has no apiVersion, kind or name", n)
		}
		out = append(out, u)
	}
}

func targetOf(u *unstructured.Unstructured) Target {
	return Target{APIVersion: u.GetAPIVersion(), Kind: u.GetKind(), Namespace: u.GetNamespace(), Name: u.GetName()}
}

// apply merges a patch into its target among objects.
func apply(objects []*unstructured.Unstructured, p Patch) error {
	for _, u := range objects {
		if targetOf(u) != p.Target {
			continue
		}
		typed, err := scheme.Scheme.New(schema.FromAPIVersionAndKind(p.Target.APIVersion, p.Target.Kind))
		if err != nil {
			return fmt.Errorf("patching %s: %w", p.Target, err) // strategic merging needs the type's merge keys
		}
		original, err := json.Marshal(u.Object)
		if err != nil {
			return fmt.Errorf("encoding %s: %w", p.Target, err)
		}
		patched, err := strategicpatch.StrategicMergePatch(original, p.Patch, typed)
		if err != nil {
			return fmt.Errorf("patching %s: %w", p.Target, err)
		}
		u.Object = nil
		if err := json.Unmarshal(patched, &u.Object); err != nil {
			return fmt.Errorf("decoding the patched %s: %w", p.Target, err)
		}
		return nil
	}
	return fmt.Errorf("patching %s: it is not in the manifest", p.Target)
}

// patch sets the environment variable to the subnet, or to several with commas between.
func (s *PodSubnet) patch(subnets []netip.Prefix) (Patch, error) {
	values := make([]string, len(subnets))
	for i, p := range subnets {
		values[i] = p.String()
	}
	container := corev1.Container{Name: s.Container, Env: []corev1.EnvVar{{Name: s.Env, Value: strings.Join(values, ",")}}}
	body := map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{"containers": []any{
		map[string]any{"name": container.Name, "env": container.Env},
	}}}}}
	raw, err := json.Marshal(body)
	if err != nil {
		return Patch{}, fmt.Errorf("encoding the pod subnet: %w", err)
	}
	return Patch{Target: s.Target, Patch: raw}, nil
}

// pin replaces every image of a pod template by its locked reference, name:tag@digest.
func pin(objects []*unstructured.Unstructured, lock *images.Lock) error {
	locked := map[string]string{}
	for _, i := range lock.Images {
		locked[i.Name+":"+i.Tag] = i.Reference()
	}
	var faults []error
	for _, u := range objects {
		for _, list := range []string{"initContainers", "containers"} {
			path := []string{"spec", "template", "spec", list}
			containers, found, err := unstructured.NestedSlice(u.Object, path...)
			if err != nil {
				return fmt.Errorf("reading %s of %s: %w", strings.Join(path, "."), targetOf(u), err)
			}
			if !found {
				continue
			}
			for i := range containers {
				c, ok := containers[i].(map[string]any)
				if !ok {
					return fmt.Errorf("reading %s[%d] of %s: it is no object", strings.Join(path, "."), i, targetOf(u))
				}
				image, _ := c["image"].(string)
				reference, ok := locked[image]
				if !ok {
					faults = append(faults, fmt.Errorf("%s, container %v: %q: %w", targetOf(u), c["name"], image, images.ErrNotLocked))
					continue
				}
				c["image"] = reference
				// The kubelet's default for a digest already; said here so that a manifest's Always does not ask the mirror anew.
				c["imagePullPolicy"] = string(corev1.PullIfNotPresent)
			}
			if err := unstructured.SetNestedSlice(u.Object, containers, path...); err != nil {
				return fmt.Errorf("writing %s of %s: %w", strings.Join(path, "."), targetOf(u), err)
			}
		}
	}
	return errors.Join(faults...)
}
