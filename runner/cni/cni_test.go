package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/gapproof/gapproof/images"
)

// manifest is a CNI's manifest in small, with everything that rendering must deal with.
const manifest = `---
# an empty document follows
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: kube-system}
data: {backend: vxlan}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: kube-system}
spec:
  template:
    spec:
      initContainers:
      - {name: install, image: "example.org/cni:v1", imagePullPolicy: Always}
      - {name: unwanted, image: "example.org/other:v1"}
      containers:
      - name: agent
        image: example.org/agent:v1
        env:
        - {name: KEPT, value: "1"}
        - {name: MODE, value: CrossSubnet}
`

const (
	cniDigest   = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	agentDigest = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

// small is a profile for the manifest above.
func small() Profile {
	agent := Target{APIVersion: "apps/v1", Kind: kindDaemonSet, Namespace: "kube-system", Name: "agent"}
	return Profile{
		Name: "small", Manifest: "cni/small.yaml", Ready: []Target{agent},
		PodSubnet: &PodSubnet{Target: agent, Container: "agent", Env: "POD_CIDR"},
		Patches: []Patch{{Target: agent, Patch: []byte(`{"spec":{"template":{"spec":{
			"initContainers":[{"name":"unwanted","$patch":"delete"}],
			"containers":[{"name":"agent","env":[{"name":"MODE","value":"Always"}]}]}}}}`)}},
		IPv6: &IPv6{
			PodSubnet: &PodSubnet{Target: agent, Container: "agent", Env: "POD_CIDR6"},
			Patches: []Patch{{Target: agent, Patch: []byte(`{"spec":{"template":{"spec":{
				"containers":[{"name":"agent","env":[{"name":"IP6","value":"autodetect"}]}]}}}}`)}},
			Only: []Patch{{Target: agent, Patch: []byte(`{"spec":{"template":{"spec":{
				"containers":[{"name":"agent","env":[{"name":"IP","value":"none"}]}]}}}}`)}},
		},
	}
}

// smallLab writes the manifest into a lab directory.
func smallLab(t testing.TB, content string) (string, *images.Lock) {
	t.Helper()
	dir := t.TempDir()
	sum := sha256.Sum256([]byte(content))
	f := images.File{Path: "cni/small.yaml", SHA256: hex.EncodeToString(sum[:])}
	path := images.FilePath(dir, f)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, &images.Lock{Version: images.LockVersion, Files: []images.File{f}, Images: []images.Image{
		{Name: "example.org/agent", Tag: "v1", Digest: agentDigest}, {Name: "example.org/cni", Tag: "v1", Digest: cniDigest},
	}}
}

func TestRenderPatchesTellsTheSubnetAndPins(t *testing.T) {
	env := func(names ...string) (out []corev1.EnvVar) {
		all := map[string]string{
			"IP": "none", "IP6": "autodetect", "KEPT": "1", "MODE": "Always", "POD_CIDR": "10.244.0.0/16", "POD_CIDR6": "fd00::/56",
		}
		for _, n := range names {
			out = append(out, corev1.EnvVar{Name: n, Value: all[n]})
		}
		return out
	}
	for name, tc := range map[string]struct {
		subnets []string
		want    []corev1.EnvVar
	}{
		"IPv4 alone":    {[]string{"10.244.0.0/16"}, env("KEPT", "MODE", "POD_CIDR")},
		"both families": {[]string{"10.244.0.0/16", "fd00::/56"}, env("IP6", "KEPT", "MODE", "POD_CIDR", "POD_CIDR6")},
		"IPv6 alone":    {[]string{"fd00::/56"}, env("IP", "IP6", "KEPT", "MODE", "POD_CIDR6")},
	} {
		t.Run(name, func(t *testing.T) { wantRendered(t, tc.subnets, tc.want) })
	}
}

// wantRendered renders the small profile for the pod subnets and holds its pod template against one with the environment.
func wantRendered(t *testing.T, podSubnets []string, env []corev1.EnvVar) {
	t.Helper()
	var subnets []netip.Prefix
	for _, s := range podSubnets {
		subnets = append(subnets, netip.MustParsePrefix(s))
	}
	dir, lock := smallLab(t, manifest)
	got, err := Render(small(), dir, lock, subnets)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].GetKind() != "ConfigMap" {
		t.Fatalf("rendered %d objects, want the ConfigMap and the DaemonSet", len(got))
	}
	var daemonSet appsv1.DaemonSet
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(got[1].Object, &daemonSet); err != nil {
		t.Fatal(err)
	}
	want := corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "install", Image: "example.org/cni:v1@" + cniDigest, ImagePullPolicy: corev1.PullIfNotPresent}},
		Containers:     []corev1.Container{{Name: "agent", Image: "example.org/agent:v1@" + agentDigest, ImagePullPolicy: corev1.PullIfNotPresent, Env: env}},
	}
	byName := cmpopts.SortSlices(func(a, b corev1.EnvVar) bool { return a.Name < b.Name })
	if diff := cmp.Diff(want, daemonSet.Spec.Template.Spec, byName); diff != "" {
		t.Errorf("pod template (-want +got):\n%s", diff)
	}
}

func TestRenderRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(dir string, lock *images.Lock, p *Profile)
		is    error
		want  string
	}{
		"images the lock does not list, all of them": {func(_ string, l *images.Lock, p *Profile) { l.Images = nil; p.Patches = nil }, images.ErrNotLocked, `"example.org/other:v1"`},
		"a locked image under another tag":           {func(_ string, l *images.Lock, _ *Profile) { l.Images[0].Tag = "v2" }, images.ErrNotLocked, "container agent"},
		"a manifest that is not in the lock":         {func(_ string, l *images.Lock, _ *Profile) { l.Files = nil }, ErrManifest, "lists no such file"},
		"a manifest that was changed": {func(dir string, l *images.Lock, _ *Profile) {
			_ = os.WriteFile(images.FilePath(dir, l.Files[0]), []byte(manifest+"# changed\n"), 0o600)
		}, ErrManifest, "hashes to"},
		"a patch without its target":       {func(_ string, _ *images.Lock, p *Profile) { p.Patches[0].Target.Name = "gone" }, nil, "DaemonSet kube-system/gone: it is not in the manifest"},
		"a subnet for a target not there":  {func(_ string, _ *images.Lock, p *Profile) { p.PodSubnet.Target.Name = "gone" }, nil, "it is not in the manifest"},
		"a patch that is no JSON":          {func(_ string, _ *images.Lock, p *Profile) { p.Patches[0].Patch = []byte("{") }, nil, "patches[0]"},
		"a target without a Go type known": {func(_ string, _ *images.Lock, p *Profile) { p.Patches[0].Target.APIVersion = "apps/v2" }, nil, "not in the manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, lock := smallLab(t, manifest)
			p := small()
			tc.spoil(dir, lock, &p)
			_, err := Render(p, dir, lock, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
			if err == nil || !strings.Contains(err.Error(), tc.want) || (tc.is != nil && !errors.Is(err, tc.is)) {
				t.Errorf("Render: %v, want one with %q that matches %v", err, tc.want, tc.is)
			}
		})
	}
	dir, lock := smallLab(t, manifest)
	p := small()
	p.IPv6 = nil
	if _, err := Render(p, dir, lock, []netip.Prefix{netip.MustParsePrefix("fd00::/56")}); !errors.Is(err, ErrNoIPv6) {
		t.Errorf("an IPv6 pod subnet for a profile without IPv6: %v, want %v", err, ErrNoIPv6)
	}
	dir, lock = smallLab(t, "kind: ConfigMap\n")
	if _, err := Render(small(), dir, lock, nil); err == nil || !strings.Contains(err.Error(), "document 1") {
		t.Errorf("an object without a name: %v, want its document named", err)
	}
}

func TestEveryProfileLoads(t *testing.T) {
	for _, name := range Names() {
		p, err := Find(name)
		if err != nil {
			t.Errorf("Find(%q): %v", name, err)
			continue
		}
		if len(p.Ready) == 0 {
			t.Errorf("profile %s waits for nothing", name)
		}
	}
	if _, err := Find("nothing"); !errors.Is(err, ErrUnknownProfile) || !strings.Contains(err.Error(), Default) {
		t.Errorf("Find of an unknown name: %v, want ErrUnknownProfile and the names there are", err)
	}
}

func TestDecodeProfileListsEveryFault(t *testing.T) {
	_, err := decodeProfile([]byte(`
patches: [{target: {kind: DaemonSet, name: x}, patch: {}}]
podSubnet: {target: {apiVersion: v1, kind: ConfigMap, name: x}, env: X}
apiServer: {apiVersion: v1, kind: Secret, name: x}
relabelled: -1s
ready: [{apiVersion: v1, kind: Pod, name: x}]
`))
	for _, want := range []string{"name: is required", "detected: is required", "manifest: is required", "patches[0].target.apiVersion", "podSubnet.container", "apiServer: is Secret", "relabelled: is -1s", "ready[0]: is Pod"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	if _, err := decodeProfile([]byte("nom: x\n")); err == nil || !strings.Contains(err.Error(), "nom") {
		t.Errorf("an unknown field: %v", err)
	}
}

func TestWhatADetectedCNITakesToLearnOfLabelsIsItsProfiles(t *testing.T) {
	for detected, want := range map[string]time.Duration{"Cilium": 45 * time.Second, "Calico": 0, "Weave": 0, "": 0} {
		got, err := Relabelled(detected)
		if err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", detected, got, err, want)
		}
	}
}
