package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// writeFiles makes a tree of files and returns its root.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEveryShippedComponentIsValid(t *testing.T) {
	components, err := ReadComponents("../../images")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range components {
		for _, f := range []string{"README.md"} {
			if _, err := os.Stat(filepath.Join(c.dir, f)); err != nil {
				t.Errorf("component %s: %v", c.Name, err)
			}
		}
	}
}

func TestTheLabHasTheImagesThatKubeadmAndItsProfileAskFor(t *testing.T) {
	components, err := ReadComponents("../../images")
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := choose(components, Options{Profiles: []string{"calico"}})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, c := range chosen {
		for _, i := range c.Images {
			got[i.Name+":"+i.Tag] = true
		}
	}
	want := map[string]bool{}
	for _, ref := range []string{
		// "kubeadm config images list" of v1.37.2
		"registry.k8s.io/kube-apiserver:v1.37.2", "registry.k8s.io/kube-controller-manager:v1.37.2",
		"registry.k8s.io/kube-scheduler:v1.37.2", "registry.k8s.io/kube-proxy:v1.37.2", "registry.k8s.io/coredns/coredns:v1.14.6",
		"registry.k8s.io/pause:3.10.2", "registry.k8s.io/etcd:3.7.0-0",
		// manifests/calico-vxlan.yaml
		"docker.io/calico/cni:v3.28.5", "docker.io/calico/node:v3.28.5", "docker.io/calico/kube-controllers:v3.28.5",
		// our own
		"docker.io/kindest/node:v1.37.2", "gapproof.dev/probe:lab", "gapproof.dev/witness:lab",
	} {
		want[ref] = true
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("images of the lab (-want +got):\n%s", d)
	}
}

func TestComponentFaultsAreListedTogether(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"unknown fields and wrong types, of every file": {
			files: map[string]string{
				"a/component.yaml": "order: first\nimage: []\n",
				"b/component.yaml": "builds: [{name: x, package: y}]\n",
			},
			want: []string{
				`reading a/component.yaml: line 1: cannot unmarshal str ` + "`first` into int",
				`reading a/component.yaml: line 2: field image not found`,
				`reading b/component.yaml: line 1: field package not found`,
			},
		},
		"builds": {
			files: map[string]string{"a/component.yaml": `
builds:
  - {name: one, binaries: {x: example.test/cmd/x, y: example.test/other/x}, cgo: true}
  - {name: one, binaries: {x: example.test/x, a/b: example.test/ab}, toolchain: "1.23"}
  - {binaries: {}, stamps: {main.V: "{version}", main.W: "a b"}}
`},
			want: []string{
				`a/component.yaml: builds[0].debian: a cgo build names the packages it needs on the host`,
				`a/component.yaml: builds[0].binaries: x and y are both called x by the go command; use two builds`,
				`a/component.yaml: builds[1].name: "one" is empty or taken`,
				`a/component.yaml: builds[1].toolchain: "1.23" is not a Go release such as go1.23.8`,
				`a/component.yaml: builds[1].binaries: "a/b" is not a file name`,
				`a/component.yaml: builds[1].binaries: x is built by one already`,
				`a/component.yaml: builds[2].name: "" is empty or taken`,
				`a/component.yaml: builds[2].binaries: none given`,
				`a/component.yaml: builds[2].stamps: main.V wants the version of a module, and none is named`,
				`a/component.yaml: builds[2].stamps: main.W=a b holds a space or quote, which the linker's flags cannot carry`,
			},
		},
		"roots": {
			files: map[string]string{"a/component.yaml": `
root: {suite: "book worm", packages: [jq, --include], drop: [/etc/x, "["]}
`},
			want: []string{
				`a/component.yaml: root.suite: "book worm" is not a Debian release name`,
				`a/component.yaml: root.packages[1]: "--include" is not a Debian package name`,
				`a/component.yaml: root.drop[0]: "/etc/x" is not a glob relative to the root`,
				`a/component.yaml: root.drop[1]: "[" is not a glob relative to the root`,
			},
		},
		"images and what they refer to": {
			files: map[string]string{
				"a/component.yaml": `
root: {suite: bookworm}
images:
  - {name: Probe, tag: "a b", maxSize: -1, user: root}
  - {name: example.test/x, tag: "1", root: b, contents: [{text: "", to: /x}]}
  - {name: example.test/x, tag: "1", root: a, contents: [{text: "", to: /bin/x}, {text: "", to: /usr/../x}, {to: /y}]}
  - name: example.test/y
    tag: "1"
    contents:
      - {binary: b/nothing, to: /x}
      - {binary: b/extra, to: /x}
      - {link: a, directory: true, to: /l, owner: -1}
      - {module: example.test/m, from: ../secret, to: /m, edits: [{find: x}]}
      - {text: x, from: y, merge: {a: b}, to: /t}
files:
  - {path: ../up, from: ../x}
  - {path: c.yaml, from: chart, chart: {values: ../v, definitions: [{from: crds}]}}
`,
				"b/component.yaml": "profile: big\nbuilds: [{name: b, binaries: {extra: example.test/extra}}]\n",
			},
			want: []string{
				`a/component.yaml: images[0].name: "Probe" is not a repository with its registry host`,
				`a/component.yaml: images[0].tag: "a b" is not a tag`,
				`a/component.yaml: images[0].user: "root" is not numeric; names need a passwd file that the kubelet cannot read`,
				`a/component.yaml: images[0].contents: an image without a root needs contents`,
				`a/component.yaml: images[0].maxSize: -1 is negative`,
				`a/component.yaml: images[1].root: component "b" has no root`,
				`a/component.yaml: images[2]: example.test/x:1 is built by a already`,
				`a/component.yaml: images[2].contents[0].to: /bin/x lies below a link of Debian's root; write below /usr/bin`,
				`a/component.yaml: images[2].contents[1].to: "/usr/../x" is not a clean absolute path`,
				`a/component.yaml: images[2].contents[2]: needs one of binary, module, text, link, directory and run, got 0: `,
				`a/component.yaml: images[3].contents[0]: no component builds "b/nothing"`,
				`a/component.yaml: images[3].contents[1].to: /x is written twice`,
				`a/component.yaml: images[3].contents[1]: "b/extra" is only built for profile "big"`,
				`a/component.yaml: images[3].contents[2]: needs one of binary, module, text, link, directory and run, got 2: link, directory`,
				`a/component.yaml: images[3].contents[2].owner: -1 is negative`,
				`a/component.yaml: images[3].contents[3].from: "../secret" is not a path inside the module`,
				`a/component.yaml: images[3].contents[3].edits[0]: needs a file and what to find in it`,
				`a/component.yaml: images[3].contents[4]: from, executable and edits belong to a module`,
				`a/component.yaml: images[3].contents[4].merge: belongs to run`,
				`a/component.yaml: files[0].path: "../up" leaves the lab directory`,
				`a/component.yaml: files[0].from: "../x" is not a path inside the module, or inside the folder where none is named`,
				`a/component.yaml: files[1].chart: no component builds "helm/render" for every profile`,
				`a/component.yaml: files[1].chart: a chart is rendered from a module, and none is named`,
				`a/component.yaml: files[1].chart.name: is required`,
				`a/component.yaml: files[1].chart.namespace: is required`,
				`a/component.yaml: files[1].chart.kubeVersion: is required`,
				`a/component.yaml: files[1].chart.values: "../v" is not a path inside the folder`,
				`a/component.yaml: files[1].chart.definitions[0]: "crds" of module "" is not a path inside a module`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadComponents(writeFiles(t, c.files))
			if err == nil {
				t.Fatal("want faults, got none")
			}
			if d := cmp.Diff(c.want, strings.Split(err.Error(), "\n")); d != "" {
				t.Errorf("faults (-want +got):\n%s", d)
			}
		})
	}
}

func TestComponentsAreReadInBuildOrder(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		"late/component.yaml": "order: 2\n", "b/component.yaml": "order: 1\n", "a/component.yaml": "order: 1\n", "no-component/x": "",
	})
	components, err := ReadComponents(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range components {
		got = append(got, c.Name)
	}
	if d := cmp.Diff([]string{"a", "b", "late"}, got); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

func TestChoosingNamesEveryUnknownProfileAndComponent(t *testing.T) {
	all := []*Component{{Name: "a"}, {Name: "b", Profile: "big"}}
	_, err := choose(all, Options{Profiles: []string{"small"}, Components: []string{"c"}})
	want := "choosing components: no component has profile \"small\"\nchoosing components: no component is called \"c\""
	if err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
}

func FuzzDecodeComponent(f *testing.F) {
	files, err := filepath.Glob("../../images/*/" + componentFile)
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v, %v", files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeComponent(data, "fuzz")
		if err != nil {
			return
		}
		c.Name = "fuzz"
		if len(validateComponents([]*Component{c})) > 0 {
			return
		}
		// What validation lets through must be fit to be keyed and laid out.
		for n := range c.Images {
			if _, err := keyOf("layer", layerInputs{Contents: c.Images[n].Contents}); err != nil {
				t.Errorf("a valid component cannot be keyed: %v", err)
			}
			for _, e := range c.Images[n].Contents {
				if !filepath.IsLocal(strings.TrimPrefix(e.To, "/")) && e.To != "/" {
					t.Errorf("%q leaves the image", e.To)
				}
			}
		}
	})
}
